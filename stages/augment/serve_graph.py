"""The serving graph: the eval transform as a serialized DALI pipeline, encoded bytes to pixels.

A server gets the graph as a file and needs neither this code nor the data set:

    pipeline = Pipeline.deserialize(filename="preprocess.dali", device_id=None)
    (images,) = pipeline.run(encoded=[jpeg_bytes, png_bytes])       # uint8 HWC
"""

from __future__ import annotations

from pathlib import Path

from pipeline.backend import named
from pipeline.device import CPU
from pipeline.errors import DataError
from pipeline.files import write_atomic
from stages.augment.audio.plan import AudioPlan, make_audio_plan
from stages.augment.backends import backends_for
from stages.augment.plan import Plan, make_plan
from stages.augment.spec import TransformSpec

ENCODED_INPUT = "encoded"
"""The name of the graph's input: a 1-D uint8 array for each image."""
_BATCH_SIZE = 64
"""Written into the graph; whoever loads it may say otherwise."""


def eval_plan(
    transforms: TransformSpec, *, height: int, width: int, channels: int
) -> Plan | AudioPlan:
    """Return what is done to a sample outside training."""
    if transforms.audio is not None:
        return make_audio_plan(transforms.audio, transforms.eval)
    return make_plan(transforms.eval, height=height, width=width, channels=channels)


def why_not_servable(plan: Plan | AudioPlan) -> str | None:
    """Return why no graph can be written for an eval plan, or None when one can."""
    if isinstance(plan, Plan) and plan.warped:
        return (
            "eval: rotate and affine cannot be served by a DALI graph. Allowed: resize, "
            "center_crop, flip and pixel operations. Leave them out of eval."
        )
    backends = backends_for("audio" if isinstance(plan, AudioPlan) else "image")
    reason = named(backends, "dali-cpu", where="stages.augment").why_not(CPU)
    return f"the serving graph {reason}" if reason else None


def write_serving_graph(plan: Plan | AudioPlan, path: Path, *, threads: int = 2) -> None:
    """Serialize the graph of an eval plan, for servers on the CPU.

    Raises:
        DataError: `why_not_servable` says why.
    """
    reason = why_not_servable(plan)
    if reason:
        raise DataError(reason)
    if isinstance(plan, AudioPlan):
        from stages.augment.backends.dali_audio_graph import build_audio_pipeline

        graph = build_audio_pipeline(plan, CPU, _BATCH_SIZE, threads)
        write_atomic(path, graph.serialize())
        return
    from stages.augment.backends.dali_serving import build_serving_pipeline

    pipeline = build_serving_pipeline(plan, CPU, _BATCH_SIZE, threads, ENCODED_INPUT)
    write_atomic(path, pipeline.serialize())
