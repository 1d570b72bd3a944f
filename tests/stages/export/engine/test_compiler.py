from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import BackendUnavailable
from pipeline.files import sha256_file
from stages.export.backends import BatchProfile, Built, Precision
from stages.export.engine.architecture import CURRENT, PORTABLE
from stages.export.engine.build import BuildFailed
from stages.export.engine.compiler import compile_graph
from stages.export.engine.manifest import check_content, load_manifest
from stages.export.engine.products import graph_products
from stages.export.engine.proof import count_products, engine_layers

pytest.importorskip("tensorrt_rtx")

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
PROFILE = BatchProfile(min=1, opt=8, max=64)


@pytest.fixture(scope="module")
def engines(
    resnet18: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Built]:
    folder = tmp_path_factory.mktemp("engines")
    return {name: compiled(resnet18[name], name, folder) for name in PRECISIONS}


def compiled(
    graph: Path, precision: Precision, folder: Path, profile: BatchProfile = PROFILE
) -> Built:
    return compile_graph(
        "tensorrt_rtx", graph, precision, profile, folder, Context(dir=folder), targets=PORTABLE
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_product_is_compiled_in_the_precision_of_the_graph(
    engines: Mapping[str, Built], precision: Precision
) -> None:
    assert engines[precision].proof == {precision: 21}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_layer_table_is_kept_as_evidence_and_gives_the_same_count(
    engines: Mapping[str, Built], resnet18: Mapping[str, Path], precision: Precision
) -> None:
    built = engines[precision]
    table = built.path.with_name(built.path.name + ".layers.txt").read_text().splitlines()
    assert count_products(engine_layers(table), graph_products(resnet18[precision])) == built.proof


def test_each_precision_halves_the_engine(engines: Mapping[str, Built]) -> None:
    fp32, fp16, int8 = (engines[name].path.stat().st_size for name in PRECISIONS)
    assert 0.45 < fp16 / fp32 < 0.55
    assert 0.45 < int8 / fp16 < 0.60


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_manifest_describes_the_engine_and_its_source(
    engines: Mapping[str, Built], resnet18: Mapping[str, Path], precision: Precision
) -> None:
    built, graph = engines[precision], resnet18[precision]
    manifest = check_content(built.path)
    assert manifest.api == "tensorrt_rtx"
    assert manifest.architectures == PORTABLE
    assert (manifest.precision, manifest.profile) == (precision, PROFILE)
    assert (manifest.source, manifest.source_sha256) == (graph.name, sha256_file(graph))
    assert manifest.inputs[0].shape == (-1, 32, 32, 3)
    assert manifest.outputs[0].shape == (-1, 10)
    assert manifest.proof == built.proof
    assert manifest.opset >= 18
    assert manifest.build_s > 0


def test_an_engine_does_not_run_where_there_is_no_gpu_and_says_so(
    engines: Mapping[str, Built],
) -> None:
    assert not engines["fp32"].runs_here
    assert "SM89" in engines["fp32"].note
    assert engines["fp32"].format == "engine"


def test_no_log_request_or_temporary_file_is_left(engines: Mapping[str, Built]) -> None:
    left = {path.name for path in engines["fp32"].path.parent.iterdir()}
    assert left == {
        f"{name}.engine{end}" for name in PRECISIONS for end in ("", ".json", ".layers.txt")
    }


def test_an_engine_of_the_same_graph_is_taken_as_it_is(
    small: Mapping[str, Path], tmp_path: Path
) -> None:
    first = compiled(small["fp16"], "fp16", tmp_path)
    created = first.path.stat().st_mtime_ns
    assert compiled(small["fp16"], "fp16", tmp_path) == first
    assert first.path.stat().st_mtime_ns == created


def test_an_altered_engine_or_another_profile_is_built_again(
    small: Mapping[str, Path], tmp_path: Path
) -> None:
    whole = compiled(small["fp16"], "fp16", tmp_path).path
    size = whole.stat().st_size
    whole.write_bytes(b"truncated")
    assert compiled(small["fp16"], "fp16", tmp_path).path.stat().st_size == size
    narrow = BatchProfile(min=1, opt=1, max=1)
    compiled(small["fp16"], "fp16", tmp_path, narrow)
    assert load_manifest(whole).profile == narrow


def test_a_graph_that_is_not_what_it_is_called_is_no_engine(
    small: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BuildFailed, match=r"made as int8 has no .* {'fp16': 3}"):
        compiled(small["fp16"], "int8", tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_profile_out_of_order_is_refused_before_the_build(
    small: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BuildFailed, match=r"batch profile 2/1/4 cannot be built. Allowed: 1 <="):
        compiled(small["fp32"], "fp32", tmp_path, BatchProfile(min=2, opt=1, max=4))


@pytest.mark.parametrize("targets", [(), (CURRENT,), ("SM89", CURRENT)])
def test_the_gpu_at_hand_has_to_be_there_to_build_for_it(
    small: Mapping[str, Path], tmp_path: Path, targets: tuple[str, ...]
) -> None:
    with pytest.raises(BackendUnavailable, match=r"for the GPU at hand, and the device is cpu"):
        compile_graph(
            "tensorrt_rtx", small["fp32"], "fp32", PROFILE, tmp_path,
            Context(dir=tmp_path, device=CPU), targets=targets,
        )  # fmt: skip
