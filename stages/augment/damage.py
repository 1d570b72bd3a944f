"""DamagedSample: a file that turns out to be unreadable while a loader runs."""

from __future__ import annotations

from typing import ClassVar

from pipeline.errors import DataError


class DamagedSample(DataError):
    """One sample of a batch cannot be decoded."""

    noun: ClassVar[str] = "sample"

    def __init__(self, position: int, name: str, reason: str) -> None:
        self.position = position
        self.name = name
        self.reason = reason
        super().__init__(
            f"{name}: the {self.noun} cannot be decoded: {reason}. "
            "Replace or remove the file, or use on_error: skip."
        )


class DamagedClip(DamagedSample):
    """One clip of a batch cannot be decoded."""

    noun = "clip"
