"""The DALI graph of a plan: built once, fed with files and with numbers drawn outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from pipeline.device import Device
from stages.augment.backends.dali_automatic import augment_automatically
from stages.augment.backends.dali_build import build
from stages.augment.operations import Automatic, ColorJitter, Erase, Flip, GaussianBlur
from stages.augment.plan import Draws, Pixel, Plan

Inputs = dict[str, Sequence[NDArray[np.generic]] | NDArray[np.generic]]
"""What a batch feeds into the graph, by the name of the input: an array for each sample, or one of
all (N, ...), which DALI takes in a tenth of the time."""

PIXEL_INPUT = "pixel"
"""What the names of inputs for pixel operations begin with."""


def build_pipeline(
    plan: Plan, device: Device, batch_size: int, threads: int, *, encoded: bool
) -> Pipeline:
    """Build the graph of a plan for files, or for images that are decoded already."""

    def graph() -> DataNode:
        images = _decode(plan, device) if encoded else _take_array(plan, device)
        images = _lay_out(images, plan)
        for number, operation in enumerate(plan.pixel):
            images = change_pixels(images, plan, operation, _number(f"{PIXEL_INPUT}{number}"))
        return images

    conditionals = any(isinstance(operation, Automatic) for operation in plan.pixel)
    with _without_deprecations():
        return build(graph, device, batch_size, threads, conditionals=conditionals)


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Keep to ourselves that DALI's own suites call operators by names that DALI has deprecated."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        if "nvidia.dali.fn.experimental" not in str(warning.message):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def graph_inputs(
    plan: Plan, sources: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], draws: Draws
) -> Inputs:
    """Turn a batch and its random numbers into what the graph takes."""
    placement = draws.placement
    box = placement.box.astype(np.int32)
    inputs: Inputs = {
        "source": sources,
        "anchor": np.ascontiguousarray(box[:, :2]),
        "shape": box[:, 2:] - box[:, :2],
    }
    if placement.inner is not None and placement.matrix is not None:
        inputs["inner"] = placement.inner.astype(np.float32)
        inputs["matrix"] = placement.matrix
    elif _flips(plan):
        inputs["flip"] = placement.flip.astype(np.int32)
    for number, drawn in enumerate(draws.pixel):
        inputs[f"{PIXEL_INPUT}{number}"] = drawn
    return inputs


def _number(name: str, ndim: int = 1, dtype: types.DALIDataType = types.FLOAT) -> DataNode:
    return fn.external_source(name=name, ndim=ndim, dtype=dtype)


def _flips(plan: Plan) -> bool:
    return any(isinstance(operation, Flip) for operation in plan.geometry)


def _decode(plan: Plan, device: Device) -> DataNode:
    """Decode only the box of each file."""
    return fn.decoders.image_slice(
        # Its caller holds the files for as long as the batch runs; a GPU may look at them later.
        fn.external_source(name="source", ndim=1, dtype=types.UINT8, no_copy=not device.is_cuda),
        _number("anchor", dtype=types.INT32),
        _number("shape", dtype=types.INT32),
        axis_names="WH",
        device="mixed" if device.is_cuda else "cpu",
        output_type=types.GRAY if plan.channels == 1 else types.RGB,
    )


def _take_array(plan: Plan, device: Device) -> DataNode:
    images = fn.external_source(name="source", ndim=3, dtype=types.UINT8, layout="HWC")
    if device.is_cuda:
        images = images.gpu()
    return fn.slice(
        images,
        _number("anchor", dtype=types.INT32),
        _number("shape", dtype=types.INT32),
        axis_names="WH",
    )


def _lay_out(images: DataNode, plan: Plan) -> DataNode:
    """Resize the box to the target, or shrink and warp it."""
    target = (plan.height, plan.width)
    if plan.warped:
        images = fn.resize(images, size=_number("inner"), antialias=True)
        fill = None if plan.fill_edge else 0.0
        return fn.warp_affine(images, matrix=_number("matrix", 2), size=target, fill_value=fill)
    images = fn.resize(images, size=target, antialias=True)
    if _flips(plan):
        flip = _number("flip", dtype=types.INT32)
        images = fn.flip(images, horizontal=flip[0], vertical=flip[1])
    return images


def change_pixels(images: DataNode, plan: Plan, operation: Pixel, drawn: DataNode) -> DataNode:
    """Apply one pixel operation with the numbers drawn for it."""
    # No `match` here: DALI rewrites the source of what runs under enable_conditionals, and cannot.
    if isinstance(operation, ColorJitter):
        return _jitter_color(images, plan, drawn)
    if isinstance(operation, GaussianBlur):
        return fn.gaussian_blur(images, sigma=drawn[0])
    if isinstance(operation, Erase):
        anchor, shape = fn.stack(drawn[1], drawn[0]), fn.stack(drawn[3], drawn[2])
        return fn.erase(images, anchor=anchor, shape=shape, axis_names="HW")
    return augment_automatically(images, plan, operation, drawn)


def _jitter_color(images: DataNode, plan: Plan, drawn: DataNode) -> DataNode:
    brightness, contrast = drawn[0], drawn[1]
    if plan.channels == 1:
        return fn.brightness_contrast(images, brightness=brightness, contrast=contrast)
    return fn.color_twist(
        images, brightness=brightness, contrast=contrast, saturation=drawn[2], hue=drawn[3]
    )
