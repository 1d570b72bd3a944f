"""Converted: what a conversion made, kept until training is over, and what it was made from.

An interrupted run goes on from it, and so do the processes that a run launches: none converts
again. All that follows finds the weights and the random states that it would have found. The dense
network is kept for good: where fast layers turn out to be no faster, it can be served instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from pipeline.files import replacing
from stages.train.checkpoint import save_weights

_FILE = "converted.safetensors"
_DENSE_FILE = "dense.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """The weights of a converted network in a folder, and those of the dense one in another."""

    folder: Path
    lasting: Path
    """The folder of the dense network's weights."""
    key: str
    """What they belong to: as of checkpoints."""

    def load_into(self, network: nn.Module) -> bool:
        """Give a network the weights that are kept; False: there are none of this key."""
        try:
            with safe_open(self.folder / _FILE, framework="pt") as file:
                if not self._is_ours(file):
                    return False
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return False
        network.load_state_dict(weights)
        return True

    def dense(self) -> Path | None:
        """Return the weights of the dense network; None: there are none of this key."""
        path = self.lasting / _DENSE_FILE
        try:
            with safe_open(path, framework="pt") as file:
                return path if self._is_ours(file) else None
        except (OSError, SafetensorError):
            return None

    def save(self, network: nn.Module) -> None:
        """Keep a network's weights, whole or not at all."""
        self._write(network, self.folder / _FILE)

    def save_dense(self, network: nn.Module) -> None:
        """Keep the weights of the network that was converted, likewise."""
        self._write(network, self.lasting / _DENSE_FILE)

    def _write(self, network: nn.Module, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            save_weights(network.state_dict(), temporary, {"key": self.key})

    def _is_ours(self, file: Any) -> bool:
        return (file.metadata() or {}).get("key") == self.key
