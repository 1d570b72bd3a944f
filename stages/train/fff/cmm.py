"""CMM: conditional matrix multiplication, the operator behind a packed fast feedforward layer.

    out = cmm(x, records, b_out, layout)                # at once
    out = torch.ops.dlpipe.cmm(x, records, b_out, ...)  # as torch.compile and torch.export see it

Three backends compute it, and the first that is there is taken: ``native`` (C++ with SIMD, for what
this processor has: AVX-512 with bf16 dot products, AVX-512, AVX2, NEON, plain), ``numba`` and
``torch``. `DLPIPE_CMM=torch`, `numba`, `native` or `native:avx2` in the environment names one. On a
GPU it is the Triton kernel, or torch where Triton is not installed.

With ``native``, a token's outputs are the same to the bit in any batch and with any number of
threads. At a logit of exactly 0, and at NaN, a token goes left, in all of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.errors import ConfigError, nearest
from stages.train.fff.gathered import gathered
from stages.train.fff.packed import (
    ACTIVATIONS,
    WEIGHTS,
    Activation,
    Layout,
    Unpacked,
    Weights,
    unpack,
)

if TYPE_CHECKING:
    from stages.train.fff._native import Kernel


def _import_native() -> Any:
    """Return the kernels in C++; None: the package was installed without a compiler."""
    try:
        return import_module("stages.train.fff._native")
    except ImportError:
        return None


_native = _import_native()
VARIABLE = "DLPIPE_CMM"
_Compute = Callable[[torch.Tensor, Unpacked, torch.Tensor | None, Layout], torch.Tensor]
_unpacked = WeakTensorKeyDictionary()


def backends() -> list[str]:
    """Return what can compute here, best first."""
    native = [f"native:{isa}" for isa in _native.isas()] if _native else []
    numba = ["numba"] if importlib.util.find_spec("numba") else []
    return [*native, *numba, "torch"]


def backend() -> str:
    """Return what computes: the first of `backends`, or what the environment names.

    Raises:
        ConfigError: the environment names what is not there.
    """
    return _named(os.environ.get(VARIABLE, ""))


@cache
def _named(name: str) -> str:
    for each in backends():
        if not name or each == name or each.split(":")[0] == name:
            return each
    raise ConfigError(
        f"{VARIABLE}: '{name}' cannot compute here. Allowed: {', '.join(backends())}."
        f"{nearest(name, backends())}"
    )


def cmm(
    x: torch.Tensor, records: torch.Tensor, b_out: torch.Tensor | None, layout: Layout
) -> torch.Tensor:
    """Return the outputs (..., O) of tokens x (..., I), in fp32.

    Args:
        x: floats of any kind, dimensions and strides.
        records: of `packed.pack`.
        b_out: (O,), in fp32.
        layout: of the records.

    Raises:
        ValueError: sizes are not those of the layout.
    """
    return open_run(records, b_out, layout)(x)


Run = Callable[[torch.Tensor], torch.Tensor]


def open_run(
    records: torch.Tensor, b_out: torch.Tensor | None, layout: Layout, *, threads: int = 0
) -> Run:
    """Return what computes outputs (..., O) of tokens (..., I); it holds the records.

    Args:
        records: of `packed.pack`.
        b_out: (O,), in fp32.
        layout: of the records.
        threads: of the native kernel; 0: as many as torch uses.

    Raises:
        ValueError: sizes are not those of the layout.
    """
    _check(records, b_out, layout)
    name, _, isa = backend().partition(":")
    if name == "native" and not records.is_cuda:
        return _native_run(records, b_out, layout, isa, threads)
    weights = _weights(layout, records)
    compute = _on_gpu() if records.is_cuda else _numba() if name == "numba" else gathered

    def run(x: torch.Tensor) -> torch.Tensor:
        rows = _rows_of(x, layout).to(records.device)
        rows = rows.bfloat16() if layout.weights == "bf16" else rows
        out = compute(rows.float().contiguous(), weights, b_out, layout)
        return out.reshape(*x.shape[:-1], layout.out_features)

    return run


def open_kernel(
    records: torch.Tensor, b_out: torch.Tensor | None, layout: Layout, isa: str
) -> Kernel:
    """Return the native kernel for records that the caller keeps."""
    kernel: Kernel = _native.Kernel(
        records.data_ptr(),
        0 if b_out is None else b_out.data_ptr(),
        layout.in_features,
        layout.out_features,
        layout.depth + 1,
        layout.trees,
        WEIGHTS.index(layout.weights),
        ACTIVATIONS.index(layout.activation),
        isa,
    )
    return kernel


def _native_run(
    records: torch.Tensor, b_out: torch.Tensor | None, layout: Layout, isa: str, threads: int
) -> Run:
    kernel = open_kernel(records, b_out, layout, isa)
    num_threads: Callable[[], int] = (lambda: threads) if threads else torch.get_num_threads
    inputs, outputs = layout.in_features, layout.out_features
    kept = (records, b_out)  # the kernel has their addresses

    def run(x: torch.Tensor, kept: object = kept) -> torch.Tensor:
        rows = _rows_of(x, layout).to(device="cpu", dtype=torch.float32).contiguous()
        num = len(rows)
        out = rows.new_empty(*x.shape[:-1], outputs)
        used = 1 if num == 1 else num_threads()
        kernel.run(rows.data_ptr(), inputs, out.data_ptr(), num, used)
        return out

    try:  # each call to torch from Python takes a tenth of the time of a token, or more
        return _native.Answers(kernel, torch.Tensor, num_threads, run).of  # type: ignore[no-any-return]
    except AttributeError:  # of DLPack's exchange: torch is older than that
        return run


def _numba() -> _Compute:
    from stages.train.fff.numba_kernel import walk

    return walk


def _on_gpu() -> _Compute:
    if os.environ.get(VARIABLE) == "torch" or importlib.util.find_spec("triton") is None:
        return gathered
    from stages.train.fff.triton_kernel import walk

    return walk


def _rows_of(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return tokens as rows (N, I)."""
    if not x.dim() or x.shape[-1] != layout.in_features:
        raise ValueError(f"x is {tuple(x.shape)}, and (..., {layout.in_features}) is needed")
    return x.reshape(-1, layout.in_features)


def _check(records: torch.Tensor, b_out: torch.Tensor | None, layout: Layout) -> None:
    """Raise ValueError unless sizes are those of the layout: kernels read where it says."""
    rows = (layout.trees * layout.nodes, layout.record)
    if tuple(records.shape) != rows or records.dtype != torch.uint8:
        raise ValueError(
            f"records are {records.dtype} {tuple(records.shape)}, and torch.uint8 {rows} is needed"
        )
    if not records.is_contiguous() or records.data_ptr() % 4:
        raise ValueError("records must lie contiguously, at an address that divides by 4")
    if b_out is not None and (
        tuple(b_out.shape) != (layout.out_features,) or b_out.dtype != torch.float32
    ):
        raise ValueError(
            f"b_out is {b_out.dtype} {tuple(b_out.shape)}, and torch.float32 "
            f"({layout.out_features},) is needed"
        )


def _weights(layout: Layout, records: torch.Tensor) -> Unpacked:
    found = _unpacked.get(records)  # type: ignore[no-untyped-call]
    if found is None:
        found = _unpacked[records] = unpack(layout, records)
    assert isinstance(found, Unpacked)
    return found


torch.library.define(
    "dlpipe::cmm",
    "(Tensor x, Tensor records, Tensor? b_out, int outputs, int depth, int trees, "
    "str weights, str activation) -> Tensor",
)


def _operator(
    x: torch.Tensor,
    records: torch.Tensor,
    b_out: torch.Tensor | None,
    outputs: int,
    depth: int,
    trees: int,
    weights: Weights,
    activation: Activation,
) -> torch.Tensor:
    if weights not in WEIGHTS or activation not in ACTIVATIONS:
        raise ValueError(f"weights {weights!r} or activation {activation!r} is unknown")
    return cmm(x, records, b_out, Layout(x.shape[1], outputs, depth, trees, weights, activation))


torch.library.impl("dlpipe::cmm", ("cpu", "cuda"), _operator)


def _of_shape(
    x: torch.Tensor,
    records: torch.Tensor,
    b_out: torch.Tensor | None,
    outputs: int,
    *_: int | str,
) -> torch.Tensor:
    return x.new_empty((x.shape[0], outputs), dtype=torch.float32)


torch.library.register_fake("dlpipe::cmm", _of_shape)
