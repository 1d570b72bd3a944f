"""The tokens backend: texts are split into tokens once, and handed out in padded batches.

Shapes: N texts, L tokens of the longest, filled up to a multiple of 8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.device import Device
from stages.augment.damage import DamagedSample
from stages.augment.reader import TextReader
from stages.augment.text.plan import Row, TextPlan, alter, padded
from stages.augment.text.tokenizer import bounded, encode, load_tokenizer, mask_of

_AT_A_TIME = 8192


class TokensExecutor:
    """Transforms batches of one split."""

    depth = 1

    def __init__(self, reader: TextReader, plan: TextPlan, device: Device) -> None:
        self._plan = plan
        self._device = torch.device(str(device))
        tokenizer = bounded(load_tokenizer(plan.tokenizer), plan.tokens.length)
        self._mask = mask_of(tokenizer)
        self._rows: list[Row] = []
        self._marks: list[NDArray[np.bool_]] = []
        for start in range(0, len(reader.texts), _AT_A_TIME):
            rows, marks = encode(tokenizer, reader.texts[start : start + _AT_A_TIME])
            self._rows += [np.array(row, dtype=np.int32) for row in rows]
            self._marks += [np.array(row, dtype=np.bool_) for row in marks]
        self._waiting: deque[tuple[NDArray[np.int64], Sequence[int]]] = deque()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text: (samples,)."""
        return np.array([len(row) for row in self._rows], dtype=np.int64)

    def submit(self, positions: NDArray[np.int64], key: Sequence[int]) -> None:
        """Put a batch into the queue."""
        self._waiting.append((positions, key))

    def collect(self) -> torch.Tensor:
        """Return the tokens (N, L) of the oldest batch in the queue."""
        positions, key = self._waiting.popleft()
        rows = [self._rows[position] for position in positions]
        if self._plan.operations:
            marks = [self._marks[position] for position in positions]
            rows = alter(rows, marks, self._plan, self._mask, key)
        return torch.from_numpy(padded(rows, self._plan.tokens)).to(self._device)

    def drain(self) -> None:
        """Forget what is in the queue."""
        self._waiting.clear()

    def close(self) -> None:
        """Free the texts."""
        self.drain()


def open_executor(
    reader: TextReader,
    plan: TextPlan,
    device: Device,
    batch_size: int,
    on_damaged: Callable[[DamagedSample], None],
) -> TokensExecutor:
    """Open this backend over one split."""
    return TokensExecutor(reader, plan, device)
