from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.export.engine.products import graph_products, opset


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_product_has_the_type_it_was_converted_to(
    small: Mapping[str, Path], resnet18: Mapping[str, Path], precision: str
) -> None:
    assert Counter(graph_products(small[precision]).values()) == {precision: 3}
    assert Counter(graph_products(resnet18[precision]).values()) == {precision: 21}


def test_opset_is_that_of_onnx_own_operators(small: Mapping[str, Path]) -> None:
    assert opset(small["fp32"]) >= 18
