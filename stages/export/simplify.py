"""Simplify: the same graph with fewer nodes, kept only when it gives the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxslim

from pipeline.device import CPU
from pipeline.errors import StageFailed
from stages.export.arrays import Answer, Images
from stages.export.backends.onnxruntime import open_session
from stages.export.failure import converting
from stages.export.graph import save
from stages.export.parity import check, compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Simplified:
    """What became of the attempt."""

    nodes_before: int
    nodes_after: int
    note: str = ""
    """Why the graph was left as it was; empty when it was simplified."""


def simplify(source: Path, target: Path, reference: Answer, images: Images) -> Simplified:
    """Write `source` simplified to `target`, or as it is when parity would be lost."""
    original = onnx.load(source)
    before = len(original.graph.node)
    try:
        with converting("onnxslim", "Set simplify: false."):
            slim = onnxslim.slim(onnx.load(source))
        save(slim, target)
        onnx.checker.check_model(str(target), full_check=True)
        check(compare(reference, open_session(target, CPU), images), what="the simplified graph")
    except (StageFailed, onnx.checker.ValidationError) as error:
        save(original, target)
        return Simplified(nodes_before=before, nodes_after=before, note=str(error))
    return Simplified(nodes_before=before, nodes_after=len(slim.graph.node))
