"""WeightsFile: a safetensors file that was looked at before it is believed.

The format holds tensors and text, no code; so a hostile file can be wrong, but it cannot run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from pipeline.errors import ConfigError
from stages.train.models.names import weights_problem

NOTE_KEY = "dlpipe"
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.", "body.")
"""What torch.compile, DataParallel and our own wrapper put before the names of tensors."""


class Note(BaseModel):
    """What our own weights say about themselves, in the metadata of the file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    small_input: bool
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Empty for a network that reads texts, as is `std`."""
    std: tuple[float, ...]
    tokenizer: str = ""
    """Hash of what the network's token numbers mean; empty for one that takes images."""

    def as_metadata(self) -> dict[str, str]:
        """Return it in the form that safetensors keeps."""
        return {NOTE_KEY: self.model_dump_json()}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsFile:
    """What was read."""

    path: Path
    tensors: dict[str, torch.Tensor]
    """By their names in the network itself, without the names of wrappers."""
    note: Note | None
    """None for a file that we did not write."""


def read_weights(path: Path) -> WeightsFile:
    """Read tensors and note, and look at every value.

    Raises:
        ConfigError: it is missing, a pickle, damaged, empty, or holds NaN or Inf.
    """
    where = f"stages.train.pretrained: '{path}'"
    problem = weights_problem(str(path))
    if problem:
        raise ConfigError(f"stages.train.pretrained: {problem}")
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
        tensors = load_file(path)
        note = Note.model_validate_json(metadata[NOTE_KEY]) if NOTE_KEY in metadata else None
    except (OSError, SafetensorError, json.JSONDecodeError, ValidationError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"{where} cannot be read as safetensors: {said}. It is damaged or something else; "
            "fetch it again, or give another .safetensors file."
        ) from error
    broken = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise ConfigError(
            f"{where} holds NaN or Inf in {len(broken)} tensor(s), '{broken[0]}' first. "
            "Weights have to be finite; give another file."
        )
    if not tensors:
        raise ConfigError(f"{where} holds no tensors. Give another .safetensors file.")
    return WeightsFile(path=path, tensors=_unwrapped(tensors), note=note)


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
