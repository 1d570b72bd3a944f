"""DeployConfig: what is refused, and with which words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stages.deploy.config import DeployConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ports": {"http": 70000}}, "70000 is no port"),
        ({"ports": {"http": 9000, "grpc": 9000}}, "not distinct"),
        ({"verify": {"samples": 0}}, "'all' or at least 1"),
        ({"verify": {"protocols": ["http", "http"]}}, "twice"),
        ({"load": {"concurrency": [4, 1]}}, "rise strictly"),
        ({"load": {"concurrency": [0, 1]}}, "start at 1"),
        ({"load": {"enabled": False}, "slo": {"p99_ms": 5.0}}, "needs a measurement"),
        ({"instances": 0}, "'auto' or 1 to 256"),
        ({"max_batch": 4, "dynamic_batching": {"preferred_sizes": [2, 8]}}, r"\[8\] exceed"),
        ({"model_name": "../escape"}, "pattern"),
        ({"image": "nvcr.io/nvidia/tritonserver:latest"}, "names no fixed build"),
        ({"max_queue_delay_us": 5}, "Extra inputs"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeployConfig.model_validate(settings)


def test_lists_as_yaml_gives_them_are_taken() -> None:
    config = DeployConfig.model_validate(
        {"load": {"concurrency": [1, 2]}, "verify": {"protocols": ["grpc"]}}
    )
    assert config.load.concurrency == (1, 2)
    assert config.verify.protocols == ("grpc",)


def test_by_default_nothing_waits_for_company() -> None:
    assert DeployConfig().dynamic_batching.max_queue_delay_us == 0
