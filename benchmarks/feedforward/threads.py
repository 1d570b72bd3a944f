"""Threads: how many the libraries of all sides may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def threads(num: int) -> Iterator[None]:
    """Let torch, our kernels and numpy's OpenBLAS use so many threads in here.

    ONNX Runtime is told when a session is opened: `dense.onnxruntime_answer` looks at torch.
    """
    before = torch.get_num_threads()
    with threadpool_limits(num):
        torch.set_num_threads(num)
        try:
            yield
        finally:
            torch.set_num_threads(before)
