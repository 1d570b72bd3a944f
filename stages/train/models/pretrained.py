"""Pretrained weights: a safetensors file laid over a fresh network, and what of it did not fit."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.errors import ConfigError
from stages.train.models.classifier import ImageClassifier

_BODY = "body."


def load_pretrained(model: ImageClassifier, path: Path) -> tuple[str, ...]:
    """Load what fits; return the names of the tensors that stay as initialized (a new head, say).

    Raises:
        ConfigError: the file cannot be read, or less than half of the network fits.
    """
    where = f"stages.train.pretrained: '{path}'"
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{where} cannot be read as safetensors: {error}. Give the path of a .safetensors file."
        ) from error
    # Our own files name tensors as in the wrapper, timm's as in the body.
    named = {(k if k.startswith(_BODY) else _BODY + k): tensor for k, tensor in loaded.items()}
    own = model.state_dict()
    fits = {k: t for k, t in named.items() if k in own and own[k].shape == t.shape}
    if 2 * len(fits) < len(own):
        raise ConfigError(
            f"{where} fits {len(fits)} of the network's {len(own)} tensors by name and shape. "
            "Give weights of the same model."
        )
    model.load_state_dict(fits, strict=False)
    return tuple(sorted(own.keys() - fits.keys()))
