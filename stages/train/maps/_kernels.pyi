"""The kernels in C++ (`native/`); tensors go by their addresses, and 0 is none."""

POOLED_CHANNELS: int

def isas() -> list[str]: ...
def pixels_in_a_row(pixels: int, channels: int) -> int: ...

class Windows:
    def __init__(self, height: int, width: int, channels: int, high: int, wide: int) -> None: ...

class _Maps:
    def __init__(self, isa: str) -> None: ...
    @property
    def products(self) -> Products | None: ...
    def norm_forward(
        self,
        x: int,
        pixels: int,
        channels: int,
        weight: int,
        bias: int,
        relu: bool,
        eps: float,
        running_mean: int,
        running_variance: int,
        momentum: float,
        threads: int,
        y: int,
        mean: int,
        inverse: int,
        /,
    ) -> None: ...
    def norm_backward(
        self,
        x: int,
        dy: int,
        pixels: int,
        channels: int,
        weight: int,
        bias: int,
        relu: bool,
        mean: int,
        inverse: int,
        threads: int,
        dx: int,
        d_weight: int,
        d_bias: int,
        /,
    ) -> None: ...
    def pool_forward(
        self, x: int, maps: int, windows: Windows, threads: int, y: int, places: int, /
    ) -> None: ...
    def pool_backward(
        self, dy: int, places: int, maps: int, windows: Windows, threads: int, dx: int, /
    ) -> None: ...

class Fp32(_Maps): ...
class Bf16(_Maps): ...

class Convolved:
    def __init__(
        self, num: int, height: int, width: int, inputs: int, outputs: int, stride: int
    ) -> None: ...

class Products:
    def takes(self, inputs: int, outputs: int) -> bool: ...
    def weight_gradient(
        self, x: int, dy: int, shape: Convolved, threads: int, dw: int, /
    ) -> None: ...
