"""Timm's weights: where they lie on this machine, and the normalization they were trained with."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from pipeline.errors import ConfigError

_FILE = "model.safetensors"

Figures = tuple[float, ...]


def find_timm_weights(model: str) -> Path | None:
    """Return timm's weights for a model if a cache of this machine holds them as safetensors.

    Looked into: the Hugging Face cache (``HF_HOME``) and torch.hub's (``TORCH_HOME``).
    """
    source = _source(model)
    if source is None:
        return None
    repository, revision, file, url = source
    cached = try_to_load_from_cache(repository, file, revision=revision) if repository else None
    if isinstance(cached, str):
        return Path(cached)
    by_hub = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    return by_hub if by_hub.suffix == ".safetensors" and by_hub.is_file() else None


def download_timm_weights(model: str) -> Path:
    """Fetch timm's weights from the Hugging Face hub into its cache.

    Raises:
        ConfigError: there are none for this model, or they cannot be fetched.
    """
    source = _source(model)
    if source is None or not source[0]:
        raise ConfigError(
            f"stages.train.pretrained: timm has no weights for '{model}'. Use pretrained: false, "
            "or a file."
        )
    repository, revision, file, _ = source
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise ConfigError(
            f"stages.train.pretrained: '{file}' of '{repository}' cannot be fetched: "
            f"{str(error).splitlines()[0]} Use a machine that reaches huggingface.co, copy the "
            "file here and give its path, or use pretrained: false."
        ) from error


def how_to_fetch(model: str) -> str:
    """Return the command that puts timm's weights where `find_timm_weights` looks; may be empty."""
    source = _source(model)
    return f"hf download {source[0]} {source[2]}" if source and source[0] else ""


def timm_mean_std(model: str, channels: int) -> tuple[Figures, Figures] | None:
    """Return the normalization that timm's weights of a model expect; None if it has no model."""
    described = None if ":" in model else timm.models.get_pretrained_cfg(model)
    if described is None:
        return None
    return fitted(tuple(described.mean), channels), fitted(tuple(described.std), channels)


def fitted(figures: Figures, channels: int) -> Figures:
    """Return one figure a channel; where their number differs, the mean of all for each."""
    return figures if channels == len(figures) else (sum(figures) / len(figures),) * channels


def _source(model: str) -> tuple[str, str | None, str, str] | None:
    """Return repository, revision, file and address of timm's weights."""
    described = None if ":" in model else timm.models.get_pretrained_cfg(model)
    if described is None or not described.has_weights:
        return None
    repository, _, revision = str(described.hf_hub_id or "").partition("@")
    file = str(described.hf_hub_filename or _FILE)
    return repository, revision or None, file, str(described.url or "")
