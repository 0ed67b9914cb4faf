"""A training step of Stable Diffusion XL at full size on the processor: what the process holds, and how long it takes."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

NEEDS = 18 * 2**30  # bytes of memory that must be free


def free_memory() -> int:
    """Bytes that the machine can still give; 0 where it does not say."""
    try:
        with open("/proc/meminfo") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0


def sdxl_step() -> dict[str, float]:
    """The first step of esd-x at batch 1 and 1024 pixels, frozen weights in bfloat16, as esd.train takes it by Lightning, the
    pool's walk to its place included. In a process of its own, on one thread.

    Weights and the encoded prompts are random, in the real shapes, so there is no text encoder. {"peak": bytes that the
    process held at most, "seconds": of the processor for the step, "moved": the share of the trained tensors that changed}.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_sdxl_step).result()


def _sdxl_step() -> dict[str, float]:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from pytorch_lightning import Callback, Trainer

    from esd import models
    from esd.erasing.concepts import Concept
    from esd.erasing.layers import shipped_rule
    from esd.erasing.run import Options, Run, trainer_for
    from esd.erasing.trajectories import Pool
    from esd.models.quiet import quiet_lightning
    from esd.models.sizes import sdxl_unet

    class Seconds(Callback):
        def on_train_batch_start(self, *_) -> None:
            self.started = time.process_time()

        def on_train_batch_end(self, *_) -> None:
            self.last = time.process_time() - self.started

    torch.set_num_threads(1)
    with torch.device("meta"):
        unet = sdxl_unet()
    unet = unet.bfloat16().to_empty(device="cpu")
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(std=0.02)
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    pipe = StableDiffusionXLPipeline(None, None, None, None, None, unet, scheduler, add_watermarker=False)
    model = models.from_pipeline(pipe, "sdxl")
    sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]])
    model.encode = lambda prompts, device="cpu": {
        "encoder_hidden_states": torch.randn(len(prompts), 77, 2048), "text_embeds": torch.randn(len(prompts), 1280),
        "time_ids": sizes.expand(len(prompts), 6),
    }  # fmt: skip
    options = Options(
        concepts=[Concept("a pizza")], preserved=[], templates=["{}"], eta=1.0, layers=shipped_rule("esd-x"),
        trajectories=Pool(), guidance=3.0, sampling_steps=4, steps=1, batch=1, lr=1e-5, seed=0, preserve_weight=1.0,
        preserve_batch=0, spare=0.0, spared=[], optimizer=partial(torch.optim.Adam, lr=1e-5), lora=None, dtype="bf16",
        quantize=None, schedule=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
    )  # fmt: skip
    with quiet_lightning():
        clock = Seconds()
        trainer = trainer_for(
            Trainer, options.steps, [clock], precision="bf16-mixed", accelerator="cpu", enable_progress_bar=False
        )  # fmt: skip
        run = Run(model, options, trainer)
        run.begin()
        run.fit()
    after = run.module.trained_tensors()
    before = dict(model.denoiser.named_parameters())
    moved = sum(not torch.equal(tensor, before[name].float()) for name, tensor in after.items()) / len(after)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": held, "seconds": clock.last, "moved": moved}
