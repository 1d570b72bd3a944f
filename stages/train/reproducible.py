"""Reproducible: every random state and switch that makes two runs equal, set and put back."""

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
    """The state of each generator that training draws from; loads with ``weights_only=True``."""

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
        "cuda": torch.cuda.get_rng_state_all() if _cuda_is_in_use() else [],
    }


def seed_all(*words: int) -> None:
    """Begin all random streams anew, where several numbers say which streams are meant."""
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _cuda_is_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


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
    """Seed everything, set deterministic kernels and threads; put all back at the end.

    Args:
        device: where training runs.
        seed: for Python, numpy and torch.
        deterministic: whether to insist on deterministic kernels.
        threads: of torch on the CPU; 0 leaves them alone.
    """
    was_strict = torch.are_deterministic_algorithms_enabled()
    was_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    had_fill = _fill_fresh_memory(False)
    had_threads = torch.get_num_threads()
    had_benchmark = torch.backends.cudnn.benchmark
    with random_state_kept():
        try:
            if device.is_cuda and deterministic:
                # cuBLAS reads this at its first use.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # A few CUDA kernels (bicubic resize, say) exist in no deterministic form: they warn.
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
            _fill_fresh_memory(had_fill)
            torch.backends.cudnn.benchmark = had_benchmark
            torch.set_num_threads(had_threads)


def _fill_fresh_memory(fill: bool) -> bool:
    """Set whether deterministic mode writes over all fresh memory, which costs a pass over it."""
    switch = torch.utils.deterministic
    before = bool(switch.fill_uninitialized_memory)  # type: ignore[attr-defined]
    switch.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    return before


def arithmetic(device: Device) -> Mapping[str, str]:
    """Return what else decides the bits: torch, its kernels' instruction set, its threads."""
    return {
        "torch": torch.__version__,
        "kernels": torch.cuda.get_device_name(device.index)
        if device.is_cuda
        else torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
