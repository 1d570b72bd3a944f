"""The DALI graph for serving: it works out each image's box from the size that its header states.

The arithmetic is that of `stages.augment.geometry` in the same order and precision, so that both
arrive at the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from pipeline.device import Device
from stages.augment.backends.dali_graph import change_pixels
from stages.augment.operations import CenterCrop, Flip, Geometry, Resize
from stages.augment.plan import Plan, draw_pixel


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis on its way: place on the canvas = scale * place in the source + offset."""

    source: DataNode
    canvas: DataNode
    goal: int
    scale: DataNode
    offset: DataNode

    def then(self, scale: DataNode, offset: DataNode, canvas: DataNode) -> Axis:
        """Follow with a scale and an offset."""
        return Axis(
            self.source, canvas, self.goal, scale * self.scale, scale * self.offset + offset
        )

    def bounds(self) -> tuple[DataNode, DataNode]:
        """Return the first source pixel that is taken, and how many."""
        low, high = -self.offset / self.scale, (self.goal - self.offset) / self.scale
        first = math.clamp(_whole(math.min(low, high)), 0, self.source - 1)
        last = math.clamp(_whole(math.max(low, high)), first + 1, self.source)
        return first, last - first


def build_serving_pipeline(
    plan: Plan, device: Device, max_batch_size: int, threads: int, input_name: str
) -> Pipeline:
    """Build the graph of an eval plan without rotate or affine."""

    def graph() -> DataNode:
        encoded = fn.external_source(name=input_name, ndim=1, dtype=types.UINT8)
        size = fn.cast(fn.peek_image_shape(encoded), dtype=types.FLOAT64)
        x, y = _start(size[1], plan.width), _start(size[0], plan.height)
        for operation in plan.geometry:
            x, y = _apply(operation, x, y)
        x, y = (axis.then(axis.goal / axis.canvas, axis.canvas * 0, axis.canvas) for axis in (x, y))
        (x0, width), (y0, height) = x.bounds(), y.bounds()
        images = fn.decoders.image_slice(
            encoded,
            fn.cast(fn.stack(x0, y0), dtype=types.INT32),
            fn.cast(fn.stack(width, height), dtype=types.INT32),
            axis_names="WH",
            device="mixed" if device.is_cuda else "cpu",
            output_type=types.GRAY if plan.channels == 1 else types.RGB,
        )
        images = fn.resize(images, size=(plan.height, plan.width), antialias=True)
        flips = [o for o in plan.geometry if isinstance(o, Flip)]
        if flips:
            images = fn.flip(
                images,
                horizontal=int(sum(flip.horizontal for flip in flips)) % 2,
                vertical=int(sum(flip.vertical for flip in flips)) % 2,
            )
        for pixel in plan.pixel:
            # Nothing in an eval plan is random, so its numbers are the same for every image.
            drawn = draw_pixel(pixel, plan, 1, np.random.default_rng(0))[0]
            images = change_pixels(images, plan, pixel, types.Constant(drawn))
        return images

    pipeline = pipeline_def(graph)(
        batch_size=max_batch_size,
        num_threads=threads,
        device_id=device.dali_id,
        prefetch_queue_depth=1,
    )
    pipeline.build()
    return pipeline


def _start(source: DataNode, goal: int) -> Axis:
    return Axis(source, source, goal, source / source, source * 0)


def _apply(operation: Geometry, x: Axis, y: Axis) -> tuple[Axis, Axis]:
    if isinstance(operation, Resize) and operation.shorter is None:
        return _scaled(x, x.goal), _scaled(y, y.goal)
    if isinstance(operation, Resize):
        factor = operation.shorter / math.min(x.canvas, y.canvas)
        return _scaled(x, _whole(x.canvas * factor)), _scaled(y, _whole(y.canvas * factor))
    if isinstance(operation, CenterCrop):
        sides = [operation.size or axis.goal for axis in (x, y)]
        enlarged = math.max(sides[0] / x.canvas, sides[1] / y.canvas)
        factor = math.max(enlarged, 1)
        return _cropped(x, sides[0], factor), _cropped(y, sides[1], factor)
    if isinstance(operation, Flip):
        x = x.then(x.canvas * 0 - 1, x.canvas, x.canvas) if operation.horizontal else x
        y = y.then(y.canvas * 0 - 1, y.canvas, y.canvas) if operation.vertical else y
        return x, y
    raise AssertionError(operation)


def _scaled(axis: Axis, after: DataNode | int) -> Axis:
    zero = axis.canvas * 0
    return axis.then(after / axis.canvas, zero, zero + after)


def _cropped(axis: Axis, side: int, factor: DataNode) -> Axis:
    corner = _whole((axis.canvas * factor - side) / 2)
    return axis.then(factor, -corner, axis.canvas * 0 + side)


def _whole(value: DataNode) -> DataNode:
    return math.floor(value + 0.5)
