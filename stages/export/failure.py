"""Failure: what vendors raise while a graph is converted, told in our own words."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from pipeline.errors import StageFailed

ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_state.EPFail,
    ort_state.EngineError,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
"""What ONNX Runtime raises; they share no base below `Exception`."""

CONVERSION_ERRORS: tuple[type[Exception], ...] = (
    *ORT_ERRORS,
    ValidationError,
    InferenceError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the conversion tools raise on a graph they cannot handle."""


@contextlib.contextmanager
def converting(what: str, remedy: str) -> Iterator[None]:
    """Run a vendor's conversion silently and turn its exceptions into `StageFailed`.

    Raises:
        StageFailed: the conversion failed; the vendor's first line and `remedy` are in the message.
    """
    try:
        with quiet():
            yield
    except StageFailed:
        raise
    except CONVERSION_ERRORS as error:
        raise StageFailed(f"export: {what} failed: {first_line(error)} {remedy}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a vendor's prints, warnings and log lines from the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, ended by a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
