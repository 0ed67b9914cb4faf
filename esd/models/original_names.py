"""The U-Net's names in the original key layout of Stable Diffusion 1, 2 and XL (CompVis' and Stability's code).

diffusers reads this layout and writes none of it. Names follow from the modules, so any depth and width will do.
"""

from __future__ import annotations

from diffusers import UNet2DConditionModel

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
PARTS = ((0, "resnets"), (1, "attentions"))  # of a level, and where each is in the original's blocks


def unet_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """Original name of every tensor of the U-Net: input_blocks, middle_block and output_blocks, counted through."""
    places, count = dict(ENDS), 1  # input block 0 is the first convolution
    for b, block in enumerate(unet.down_blocks):
        for i in range(len(block.resnets)):
            places |= {f"down_blocks.{b}.{part}.{i}": f"input_blocks.{count}.{j}" for j, part in PARTS}
            count += 1
        if block.downsamplers:
            places[f"down_blocks.{b}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
            count += 1
    count = 0
    for b, block in enumerate(unet.up_blocks):
        for i in range(len(block.resnets)):
            places |= {f"up_blocks.{b}.{part}.{i}": f"output_blocks.{count}.{j}" for j, part in PARTS}
            count += 1
        if block.upsamplers:  # in the last block of its level, behind the attention if there is one
            behind = 2 if hasattr(block, "attentions") else 1
            places[f"up_blocks.{b}.upsamplers.0.conv"] = f"output_blocks.{count - 1}.{behind}.conv"
    return {name: _original(name, places) for name in unet.state_dict()}


def _original(name: str, places: dict[str, str]) -> str:
    place = next(place for place in sorted(places, key=len, reverse=True) if name.startswith(place + "."))
    rest = name[len(place) + 1 :]
    if ".resnets." in place or place.startswith("mid_block.resnets"):
        part, _, end = rest.partition(".")
        rest = f"{RESNET[part]}.{end}"
    return f"{places[place]}.{rest}"
