"""The kernels in C++ (`native/`)."""

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
