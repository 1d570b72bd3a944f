"""The kernels in C++ (`native/`)."""

from collections.abc import Callable

import torch

def isas() -> list[str]: ...
def flush(at: int, bytes: int, /) -> bool: ...

class Kernel:
    def __init__(
        self,
        records: int,
        b_out: int,
        inputs: int,
        outputs: int,
        levels: int,
        trees: int,
        weights: int,
        activation: int,
        isa: str,
    ) -> None: ...
    def run(self, x: int, x_stride: int, out: int, n: int, threads: int, /) -> None: ...
    def run_each(self, x: int, x_stride: int, out: int, n: int, /) -> None: ...

class Answers:
    def __init__(
        self,
        kernel: Kernel,
        tensor: type[torch.Tensor],
        threads: Callable[[], int],
        otherwise: Callable[[torch.Tensor], torch.Tensor],
    ) -> None: ...
    def of(self, x: torch.Tensor, /) -> torch.Tensor: ...
