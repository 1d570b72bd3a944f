"""Checkpoints: everything that an exact resume needs, written whole or not at all.

checkpoints/
  step-00000120-01/        01 counts the saves of one step: a rollback saves its step again
    weights.safetensors    model.*, ema.*, best.*
    state.pt               optimizer, scaler, random states, loader, position (weights_only)
    checkpoint.json        key, step, and the SHA-256 of both; written last
  step-00000080-01/
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.events import EventLog
from pipeline.files import sha256_file, sync_folder

Tensors = dict[str, torch.Tensor]
_FILES = ("weights.safetensors", "state.pt")
_MANIFEST = "checkpoint.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What was read back."""

    step: int
    name: str
    weights: Mapping[str, Tensors]
    """By owner: ``model``, ``ema``, ``best``."""
    state: Mapping[str, object]


class DamagedCheckpoint(Exception):
    """A checkpoint on disk is not what was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFolder:
    """The checkpoints of one run, newest last."""

    folder: Path
    key: str
    """What they belong to: a hash of the configuration, the data and the machine's arithmetic."""
    keep: int
    events: EventLog

    def save(self, step: int, weights: Mapping[str, Tensors], state: Mapping[str, object]) -> Path:
        """Write one checkpoint and drop the oldest; a crash leaves the ones before intact."""
        self.folder.mkdir(exist_ok=True)
        for left_by_a_crash in self.folder.glob(".writing-*"):
            shutil.rmtree(left_by_a_crash)
        temporary = self.folder / f".writing-{step:08d}"
        temporary.mkdir()
        flat = {f"{owner}.{name}": t for owner, part in weights.items() for name, t in part.items()}
        save_weights(flat, temporary / _FILES[0])
        torch.save(dict(state), temporary / _FILES[1])
        hashes = {name: sha256_file(temporary / name) for name in _FILES}
        manifest = {"step": step, "key": self.key, "sha256": hashes}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for name in (*_FILES, _MANIFEST):
            _sync_file(temporary / name)
        sync_folder(temporary)
        saves = len(list(self.folder.glob(f"*step-{step:08d}-*")))
        final = self.folder / f"step-{step:08d}-{saves + 1:02d}"
        os.replace(temporary, final)
        sync_folder(self.folder)
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def paths(self) -> list[Path]:
        """Return the checkpoints on disk, oldest first."""
        return sorted(self.folder.glob("step-*"))

    def load_newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole and belongs to this run, or None.

        Says what it passed over, and puts that aside so that it counts no more.
        """
        for path in reversed(self.paths()):
            try:
                manifest = _read_manifest(path)
                if manifest["key"] != self.key:
                    self.events.warning(
                        f"{path.name} belongs to another configuration, data set, torch version or "
                        "number of threads; it is not used."
                    )
                    path.rename(path.with_name(f"aside-{path.name}"))
                    continue
                return _read(path, int(str(manifest["step"])))
            except DamagedCheckpoint as error:
                self.events.warning(f"{path.name} is damaged ({error}); trying the one before.")
                path.rename(path.with_name(f"aside-{path.name}"))
        return None

    def load(self, name: str) -> Checkpoint:
        """Return the checkpoint that another process found whole.

        Raises:
            DamagedCheckpoint: it is not so here.
        """
        path = self.folder / name
        return _read(path, int(str(_read_manifest(path)["step"])))

    def clear(self) -> None:
        """Remove them all: the run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)


def save_weights(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, whatever device they are on and however they lie in memory."""
    # Copies: safetensors takes neither shared memory (tied weights) nor channels-last strides.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    save_file(plain, path, dict(metadata or {}))


def _read_manifest(path: Path) -> dict[str, object]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        hashes = manifest["sha256"]
        wrong = [name for name in _FILES if sha256_file(path / name) != hashes[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error
    if wrong:
        raise DamagedCheckpoint(f"the content of {' and '.join(wrong)} has changed")
    return dict(manifest)


def _read(path: Path, step: int) -> Checkpoint:
    try:
        flat = load_file(path / _FILES[0])
        state = torch.load(path / _FILES[1], weights_only=True, map_location="cpu")
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError) as error:
        raise DamagedCheckpoint(str(error)) from error
    weights: dict[str, Tensors] = {}
    for full_name, tensor in flat.items():
        owner, _, name = full_name.partition(".")
        weights.setdefault(owner, {})[name] = tensor
    return Checkpoint(step=step, name=path.name, weights=weights, state=state)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
