"""Reproducible: every random state and every switch that makes two runs equal, set, saved and put back."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch

from pipeline.device import Device


class RandomState(TypedDict):
    """The state of each generator a training step may draw from; loads with ``weights_only=True``."""

    python: tuple[int, list[int], float | None]
    numpy: tuple[str, list[int], int, int, float]
    torch: torch.Tensor
    cuda: list[torch.Tensor]


def capture_random_state() -> RandomState:
    """Take a snapshot of all generators."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, list(internal), gauss),
        "numpy": (str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_state(state: RandomState) -> None:
    """Put all generators back to a snapshot."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave all generators as they were, whatever is drawn inside."""
    before = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(before)


@contextmanager
def reproducible(device: Device, *, seed: int, deterministic: bool, threads: int) -> Iterator[None]:
    """Seed everything, pick deterministic kernels and the number of threads; put all back at the end.

    Args:
        device: where training runs.
        seed: for Python, numpy and torch.
        deterministic: whether to insist on deterministic kernels.
        threads: of torch on the CPU; 0 leaves them alone.
    """
    was_strict = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    had_threads = torch.get_num_threads()
    had_benchmark = torch.backends.cudnn.benchmark
    with random_state_kept():
        try:
            if device.is_cuda and deterministic:
                os.environ.setdefault(
                    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
                )  # read at cuBLAS's first use
            # A few CUDA kernels (bicubic resize of position embeddings, say) exist in no deterministic form.
            torch.use_deterministic_algorithms(deterministic, warn_only=device.is_cuda)
            torch.backends.cudnn.benchmark = device.is_cuda and not deterministic
            if threads:
                torch.set_num_threads(threads)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            torch.use_deterministic_algorithms(was_strict, warn_only=was_warn_only)
            torch.backends.cudnn.benchmark = had_benchmark
            torch.set_num_threads(had_threads)


def arithmetic(device: Device) -> Mapping[str, str]:
    """Return what else decides the bits of a result: torch, its kernels' instruction set, its threads."""
    return {
        "torch": torch.__version__,
        "kernels": torch.cuda.get_device_name(device.index)
        if device.is_cuda
        else torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
