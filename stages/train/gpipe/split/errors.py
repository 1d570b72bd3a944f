"""CannotSplit: the network has no place where it can be cut, or none that is safe."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from pipeline.errors import ConfigError

OBSTACLES = (
    fx.proxy.TraceError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the code of a forward may raise when it is handed a symbol in place of a tensor."""

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


class CannotSplit(ConfigError):
    """The network cannot be cut into blocks; says where, why, and what to do."""

    def __init__(self, network: str, reason: str) -> None:
        super().__init__(
            f"stages.train.parallel.pipeline: the network '{network}' cannot be cut: {reason}. "
            "A pipeline needs a chain of blocks. Give the network a method pipeline_blocks() "
            "that returns its blocks in order, write it as an nn.Sequential, or set pipeline: 1."
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why the inside of a module cannot be seen, so that it stays in one piece."""

    path: str
    """The module, as in the state dict; empty for the network itself."""
    kind: str
    """The class of the module."""
    error: Exception

    def __str__(self) -> str:
        module = f"'{self.path}' ({self.kind})" if self.path else f"its forward ({self.kind})"
        text = " ".join(str(self.error).split()) or type(self.error).__name__
        return f"{module} cannot be traced at {_place(self.error)}: {text}"


def _place(error: Exception) -> str:
    """Return ``file.py:12: `code` `` of the last line outside torch that led to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    if not own:
        return "an unknown line"
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}: `{own[-1].line}`"
