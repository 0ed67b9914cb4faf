"""Models by their name on the Hugging Face hub: from the local cache, else downloaded, else one line within seconds."""

from __future__ import annotations

import os
from pathlib import Path

from esd import UserError
from esd.models import folders

WAIT = 5.0  # seconds for the hub's first answer; the library itself would try again for half a minute
CONFIGS = ["*.json", "*.txt", "*.model", "*/*.json", "*/*.txt", "*/*.model"]


def folder(name: str) -> Path:
    """The model's folder in the local cache, with model_index.json at least. Raises UserError where the hub has none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    found = try_to_load_from_cache(name, "model_index.json")
    if isinstance(found, str):
        return Path(found).parent
    require_reachable(name)
    try:
        return Path(hf_hub_download(name, "model_index.json", etag_timeout=WAIT)).parent
    except RemoteEntryNotFoundError as error:
        raise UserError(
            f"{name} on the hub is no diffusers pipeline, it has no model_index.json: give one, or a .safetensors checkpoint "
            "that you have downloaded"
        ) from error


def download(name: str, cached: Path) -> Path:
    """All that the model's pipeline needs, in the local cache. cached: what is there of it."""
    import diffusers

    try:
        require_reachable(name)
    except UserError:
        folders.require_no_pickles(cached)
        raise
    try:
        return Path(diffusers.DiffusionPipeline.download(name, use_safetensors=True, safety_checker=None))
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise UserError(f"{name} has no .safetensors files of its own: {folders.how_to_convert(name)}") from error


def configs(name: str, beside: Path) -> Path:
    """A model's configurations and tokenizers without its weights, for a checkpoint that holds only weights.

    beside: the folder where they can be put instead, which a UserError names.
    """
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    found = try_to_load_from_cache(name, "model_index.json")
    if isinstance(found, str) and not folders.missing_parts(Path(found).parent, weights=False):
        return Path(found).parent
    require_reachable(name, "--include '*.json' '*.txt' '*.model'", beside)
    return Path(snapshot_download(name, allow_patterns=CONFIGS, etag_timeout=WAIT))


def require_reachable(name: str, only: str = "", to: Path | None = None, option: str = "model.path") -> None:
    """Ask the hub for the model once. Raises UserError where it cannot be had, with what to download and where to put it.

    only, to: options and folder of that download; nothing: all of it, for model.path. option: what named it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        if not offline:
            info = HfApi().model_info(name, timeout=WAIT)
            if info.gated:
                HfApi().auth_check(name)
            return
    except GatedRepoError as error:
        raise UserError(f"{name} is gated: accept its licence on huggingface.co/{name}, then type: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{option}={name} is no folder here and no model on the hub: check its spelling") from error
    except HfHubHTTPError as error:
        raise UserError(f"the hub refuses {name}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # "no connection" is raised by whichever network library the hub's own uses today
        if not (isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore"))):
            raise
    folder = to or f"models/{name.split('/')[1]}"
    raise UserError(
        f"{name} is not on this machine and the hub cannot be reached: where it can, type "
        f"`{' '.join(filter(None, ['hf download', name, only, '--local-dir', str(folder)]))}` and copy that folder here"
        + ("" if to else f", then give model.path={folder}")
    )
