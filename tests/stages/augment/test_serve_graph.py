"""The serialized graph that servers run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from nvidia.dali.pipeline import Pipeline

from pipeline.artifacts import DataSpec
from pipeline.errors import DataError
from stages.augment.loader import preprocess_bytes
from stages.augment.serve_graph import eval_plan, write_serving_graph
from stages.augment.spec import TransformSpec

MakeSpec = Callable[..., DataSpec]

EVALS: list[list[object]] = [
    [],
    ["resize", "normalize"],
    [{"resize": {"shorter": 40}}, "center_crop"],
    [{"center_crop": {"size": 70}}, {"flip": {"horizontal": 1}}],
    [{"resize": {"shorter": 37}}, "center_crop", {"flip": {"horizontal": 0, "vertical": 1}}],
    [{"color_jitter": {"brightness": [1.2, 1.2]}}, {"gaussian_blur": {"sigma": [1, 1]}}],
]


def serve(path: Path, files: list[bytes]) -> NDArray[np.uint8]:
    pipeline = Pipeline.deserialize(filename=str(path), device_id=None)
    pipeline.build()
    (images,) = pipeline.run(encoded=[np.frombuffer(file, np.uint8) for file in files])
    pixels: NDArray[np.uint8] = images.as_array()
    return pixels


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("eval", EVALS)
def test_the_served_graph_gives_the_loader_s_pixels(
    make_spec: MakeSpec, photos: Path, tmp_path: Path, eval: list[object], channels: int
) -> None:
    names = [json.loads(line)["file"] for line in photos.read_text().splitlines()]
    files = [(photos.parent / name).read_bytes() for name in names]
    spec = make_spec(["flip"], eval, backend="dali-cpu", size=(32, 38), channels=channels)
    transforms = TransformSpec.load(spec.transforms)
    plan = eval_plan(transforms, height=32, width=38, channels=channels)
    write_serving_graph(plan, tmp_path / "graph.dali", threads=1)
    assert np.array_equal(serve(tmp_path / "graph.dali", files), preprocess_bytes(spec, files))


def test_boxes_agree_for_any_size(
    make_spec: MakeSpec, jpeg: Callable[[int, int], bytes], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    files = [jpeg(int(h), int(w)) for h, w in rng.integers(3, 120, (60, 2))]
    for eval in EVALS[1:4]:
        spec = make_spec(["flip"], eval, backend="dali-cpu", size=(21, 17))
        plan = eval_plan(TransformSpec.load(spec.transforms), height=21, width=17, channels=3)
        write_serving_graph(plan, tmp_path / "graph.dali", threads=1)
        assert np.array_equal(serve(tmp_path / "graph.dali", files), preprocess_bytes(spec, files))


def test_a_warp_in_eval_cannot_be_served(tmp_path: Path) -> None:
    transforms = TransformSpec.model_validate({"eval": [{"rotate": {"degrees": [5, 5]}}]})
    with pytest.raises(DataError, match="rotate and affine cannot be served"):
        write_serving_graph(
            eval_plan(transforms, height=8, width=8, channels=3), tmp_path / "graph.dali"
        )
