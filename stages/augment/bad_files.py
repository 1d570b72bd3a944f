"""BadFiles: images found damaged while a loader ran, and what stands in for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from stages.augment.damage import DamagedSample

OnError = Literal["skip", "fail"]


class BadFiles:
    """The images that turned out to be damaged."""

    def __init__(self, on_bad_file: Callable[[str, str], None] | None, on_error: OnError) -> None:
        self._on_bad_file = on_bad_file
        self._on_error = on_error
        self._positions: set[int] = set()

    def add(self, damaged: DamagedSample) -> None:
        """Put an image aside, or raise it when damage is not to be skipped."""
        if self._on_error == "fail":
            raise damaged
        if damaged.position not in self._positions and self._on_bad_file is not None:
            self._on_bad_file(damaged.name, damaged.reason)
        self._positions.add(damaged.position)

    def mend(self, positions: NDArray[np.int64], *, keep_length: bool) -> NDArray[np.int64]:
        """Leave out what is in quarantine, or put the batch's first good image in its place."""
        bad = np.array([int(p) in self._positions for p in positions], dtype=np.bool_)
        if not bad.any():
            return positions
        good = positions[~bad]
        if not keep_length:
            return good
        if not len(good):
            raise DataError(
                f"all {len(positions)} images of a batch are damaged. Check the data set."
            )
        return np.where(bad, good[0], positions)
