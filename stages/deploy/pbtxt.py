"""The text of Triton's ``config.pbtxt``: written and read through the real protobuf message."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from pipeline.errors import DataError

CONFIG_FILE = "config.pbtxt"

DATA_TYPES = {
    "bool": model_config_pb2.TYPE_BOOL,
    "uint8": model_config_pb2.TYPE_UINT8,
    "int8": model_config_pb2.TYPE_INT8,
    "int32": model_config_pb2.TYPE_INT32,
    "int64": model_config_pb2.TYPE_INT64,
    "float16": model_config_pb2.TYPE_FP16,
    "float32": model_config_pb2.TYPE_FP32,
    "float64": model_config_pb2.TYPE_FP64,
    "str": model_config_pb2.TYPE_STRING,
}
"""Triton's element types by numpy's names."""


def render(config: ModelConfig) -> str:
    """Return the text of a model configuration."""
    return str(text_format.MessageToString(config, as_utf8=True))


def parse(text: str, *, where: str = CONFIG_FILE) -> ModelConfig:
    """Return the model configuration that a text describes.

    Raises:
        DataError: the text is no model configuration; the message names line and column.
    """
    config = ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise DataError(f"{where}: {error}. Write it anew: run the deploy stage again.") from error
    return config


def read(model_dir: Path) -> ModelConfig:
    """Return the configuration in a model's folder."""
    path = model_dir / CONFIG_FILE
    return parse(path.read_text(encoding="utf-8"), where=str(path))
