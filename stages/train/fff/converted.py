"""Converted: what a conversion made, kept until training is over.

An interrupted run goes on from it, and so do the processes that a run launches: none converts
again. All that follows finds the weights and the random states that it would have found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from pipeline.files import replacing
from stages.train.checkpoint import save_weights

_FILE = "converted.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """The weights of a converted network in a folder."""

    folder: Path
    key: str
    """What they belong to: as of checkpoints."""

    def load_into(self, network: nn.Module) -> bool:
        """Give a network the weights that are kept; False: there are none of this key."""
        try:
            with safe_open(self.folder / _FILE, framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return False
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return False
        network.load_state_dict(weights)
        return True

    def save(self, network: nn.Module) -> None:
        """Keep a network's weights, whole or not at all."""
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / _FILE) as temporary:
            save_weights(network.state_dict(), temporary, {"key": self.key})
