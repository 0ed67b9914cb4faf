"""What torchmetrics has, with what it needs: LPIPS, FID, KID, CLIP score. All take pictures (B, 3, H, W) in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from esd import UserError

CLIP = "openai/clip-vit-base-patch16"


def build_judge(build: Callable[[], nn.Module], what: str) -> nn.Module:
    """Build a judge. Raises UserError where its package or weights can't be had."""
    try:
        return build()
    except (ImportError, OSError) as error:  # a download that fails is an OSError
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{what} can't be had ({reason}): pip install 'erased-diffusion[judges]', and be online once"
        ) from error


def lpips() -> nn.Module:
    """LPIPS with AlexNet (Zhang et al. 2018, arXiv 1801.03924), a value for each pair: compute() → (n,)."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return build_judge(
        lambda: LearnedPerceptualImagePatchSimilarity("alex", "none", normalize=True), "LPIPS (AlexNet's weights)"
    )


def fid(feature: int | nn.Module = 2048) -> nn.Module:
    """Fréchet inception distance (Heusel et al. 2017, arXiv 1706.08500)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return build_judge(lambda: FrechetInceptionDistance(feature, normalize=True), "FID (InceptionV3's weights)")


def kid(subset: int, feature: int | nn.Module = 2048) -> nn.Module:
    """Kernel inception distance (Bińkowski et al. 2018, arXiv 1801.01401): unbiased also for few pictures."""
    from torchmetrics.image.kid import KernelInceptionDistance

    return build_judge(
        lambda: KernelInceptionDistance(feature, subset_size=subset, normalize=True), "KID (InceptionV3's weights)"
    )


class Pooled(nn.Module):
    """A CLIP model whose get_*_features return tensors (B, D), as torchmetrics 1.9 takes them: transformers 5 returns
    an object with a `pooler_output`."""

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip, self.config = clip, clip.config

    def get_image_features(self, *args, **kwargs) -> Tensor:
        return self.clip.get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args, **kwargs) -> Tensor:
        return self.clip.get_text_features(*args, **kwargs).pooler_output


def clip_score(parts: Callable[[], tuple] | None = None) -> nn.Module:
    """CLIP score (Hessel et al. 2021, arXiv 2104.08718): 100·cos of picture and prompt. It takes pictures in 0…255."""
    from torchmetrics.multimodal.clip_score import CLIPScore

    def shipped() -> tuple:
        from transformers import CLIPModel, CLIPProcessor

        return CLIPModel.from_pretrained(CLIP), CLIPProcessor.from_pretrained(CLIP)

    def pooled() -> tuple:
        model, processor = (parts or shipped)()
        return Pooled(model), processor

    return build_judge(lambda: CLIPScore(pooled), f"CLIP ({CLIP})")
