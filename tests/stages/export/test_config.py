from __future__ import annotations

import pytest
from pydantic import ValidationError

from stages.export.config import ExportConfig


def test_lists_as_they_stand_in_yaml_are_taken():
    config = ExportConfig.model_validate(
        {"backend": ["tensorrt-rtx", "onnxruntime"], "precisions": ["fp32", "int8"], "max_drop": 1}
    )
    assert config.backend_names == ("tensorrt-rtx", "onnxruntime")
    assert config.precisions == ("fp32", "int8")
    assert ExportConfig().backend_names == ("auto",)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("names a precision twice", {"precisions": ["int8", "int8"]}),
        ("Input should be 'fp32', 'fp16' or 'int8'", {"precisions": ["int4"]}),
        ("at least 1 item", {"precisions": []}),
        ("min 4, opt 2, max 64 are out of order", {"batch": {"min": 4, "opt": 2}}),
        ("greater than or equal to 0", {"max_drop": -1}),
        ("less than or equal to 100", {"calibration": {"percentile": 101.0}}),
        ("valid integer", {"opset": "20"}),
        ("not permitted", {"precision": "int8"}),
    ],
)
def test_what_cannot_be_is_refused(text, settings):
    with pytest.raises(ValidationError, match=text):
        ExportConfig.model_validate(settings)
