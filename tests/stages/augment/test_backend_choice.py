"""What `backend: auto` takes, and why."""

from __future__ import annotations

import pytest

from pipeline.device import CPU, Device
from pipeline.errors import BackendUnavailable
from stages.augment.backends import IMAGE_BACKENDS, choose_backend


@pytest.mark.parametrize(
    ("reader", "source", "crops", "expected", "why"),
    [
        ("array", (28, 28), False, "array", "one array"),
        ("folder", (8, 8), False, "array", "fit in memory"),
        ("folder", (375, 500), True, "dali-cpu", "backend dali-cpu"),
        ("webdataset", (375, 500), False, "dali-cpu", "backend dali-cpu"),
        ("folder", (1800, 2400), False, "torchvision", "8.0 times the target"),
        ("folder", (1800, 2400), True, "dali-cpu", "backend dali-cpu"),
    ],
)
def test_auto_looks_at_the_data(
    reader: str, source: tuple[int, int], crops: bool, expected: str, why: str
) -> None:
    name, reason = choose_backend(
        "auto", CPU, reader=reader, source_size=source, target=(224, 224), samples=100, crops=crops
    )
    assert name == expected
    assert why in reason


@pytest.mark.parametrize(
    ("geometry_only", "jpeg", "expected"),
    [(True, True, "torchvision"), (False, True, "dali-cpu"), (True, False, "dali-cpu")],
)
def test_jpegs_that_are_only_cut_go_the_fast_way(
    geometry_only: bool, jpeg: bool, expected: str
) -> None:
    name, _ = choose_backend(
        "auto", CPU, reader="folder", source_size=(375, 500), target=(224, 224), samples=100,
        crops=True, jpeg=jpeg, geometry_only=geometry_only,
    )  # fmt: skip
    assert name == expected


def test_many_tiny_files_are_not_held_in_memory() -> None:
    name, _ = choose_backend(
        "auto", CPU, reader="folder", source_size=(64, 64), target=(64, 64), samples=10_000_000
    )
    assert name != "array"


def test_a_named_backend_is_taken_or_refused() -> None:
    about = {"reader": "array", "source_size": (8, 8), "target": (8, 8)}
    assert choose_backend("torchvision", CPU, **about)[0] == "torchvision"  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailable, match="'dali-gpu' needs a cuda device"):
        choose_backend("dali-gpu", CPU, **about)  # type: ignore[arg-type]


def test_the_gpu_comes_first_where_there_is_one() -> None:
    name, _ = choose_backend(
        "auto",
        Device("cuda", 0),
        reader="folder",
        source_size=(1800, 2400),
        target=(224, 224),
    )
    assert name == "dali-gpu"


def test_backends_stand_in_order_of_preference() -> None:
    assert [b.name for b in IMAGE_BACKENDS] == ["dali-gpu", "dali-cpu", "torchvision", "array"]
