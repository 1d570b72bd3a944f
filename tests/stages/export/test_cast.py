from __future__ import annotations

import onnx
import pytest

from pipeline.device import CPU
from stages.export.backends.onnxruntime import open_session
from stages.export.cast import to_fp16
from stages.export.graph import count_products, save, size_bytes
from stages.export.parity import sqnr_db
from stages.export.to_onnx import tensor_specs


@pytest.mark.parametrize("net", ["conv", "attention"])
def test_fp16_keeps_its_interface_halves_its_size_and_answers_the_same(
    net, request, images, tmp_path
):
    graph = request.getfixturevalue(net).graph
    cast = to_fp16(onnx.load(graph))
    (taken,), (given,) = tensor_specs(cast.graph.input), tensor_specs(cast.graph.output)
    assert (taken.dtype, taken.shape[0]) == ("uint8", -1)
    assert (given.dtype, given.shape[0]) == ("float32", -1)
    assert set(count_products(cast)) == {"fp16"}
    path = tmp_path / "fp16.onnx"
    save(cast, path)
    assert size_bytes(path) < 0.75 * size_bytes(graph)
    right, session = open_session(graph, CPU), open_session(path, CPU)
    for batch in (1, 2, 5):
        assert sqnr_db(right(images[:batch]), session(images[:batch])) > 45
