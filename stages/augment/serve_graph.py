"""The serving graph: the eval transform as a serialized DALI pipeline, encoded bytes to pixels.

A server gets the graph as a file and needs neither this code nor the data set:

    pipeline = Pipeline.deserialize(filename="preprocess.dali", device_id=None)
    (images,) = pipeline.run(encoded=[jpeg_bytes, png_bytes])       # uint8 HWC
"""

from __future__ import annotations

from pathlib import Path

from pipeline.device import CPU, Device
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.plan import Plan, make_plan
from stages.augment.spec import TransformSpec

ENCODED_INPUT = "encoded"
"""The name of the graph's input: a 1-D uint8 array for each image."""
MAX_BATCH_SIZE = 64


def eval_plan(transforms: TransformSpec, *, height: int, width: int, channels: int) -> Plan:
    """Return what is done to an image outside training."""
    return make_plan(transforms.eval, height=height, width=width, channels=channels)


def write_serving_graph(
    plan: Plan,
    path: Path,
    *,
    device: Device = CPU,
    max_batch_size: int = MAX_BATCH_SIZE,
    threads: int = 2,
) -> None:
    """Serialize the graph of an eval plan; needs DALI.

    Raises:
        DataError: the plan turns or shears, which the graph cannot derive from an image's size.
    """
    if plan.warped:
        raise DataError(
            "eval: rotate and affine cannot be served by a DALI graph. Allowed: resize, "
            "center_crop, flip and pixel operations. Leave them out of eval."
        )
    from stages.augment.backends.dali_serving import build_serving_pipeline

    pipeline = build_serving_pipeline(plan, device, max_batch_size, threads, ENCODED_INPUT)
    write_atomic(path, pipeline.serialize())
