"""Building a DALI pipeline that its caller runs: one batch in, one batch out, no prefetch."""

from __future__ import annotations

from collections.abc import Callable

from nvidia.dali import pipeline_def
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from pipeline.device import Device


def build(
    graph: Callable[[], DataNode],
    device: Device,
    batch_size: int,
    threads: int,
    *,
    conditionals: bool,
) -> Pipeline:
    """Build a graph; `conditionals`: whether it has branches that depend on the data."""
    pipeline = pipeline_def(graph, enable_conditionals=conditionals)(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device.dali_id,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
    )
    pipeline.build()
    return pipeline
