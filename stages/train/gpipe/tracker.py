"""StorageTracker: bytes of all tensors that a piece of code makes, as long as each is alive.

    with StorageTracker(keep_out=module.parameters()) as tracker:
        module(images).sum().backward()
    tracker.peak_bytes

It counts storages, so a view costs nothing; and it counts fake tensors as real ones, so what a
network of any size takes is known without the memory and without the computation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage from the operator that made it until it is freed."""

    def __init__(self, keep_out: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        """Alive now."""
        self.peak_bytes = 0
        """Alive at once, at most, since the start or `mark`."""
        # A storage and the Python object that stands for it live equally long.
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in keep_out:
            self._seen.add(tensor.untyped_storage())

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def mark(self) -> None:
        """Forget the peak so far."""
        self.peak_bytes = self.bytes

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run an operator and count what it made while its inputs are still there."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._free, size).atexit = False
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _free(self, size: int) -> None:
        self.bytes -= size
