from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.backend import is_installed
from pipeline.device import CPU, Device, cuda_device_count
from pipeline.errors import BackendUnavailable
from pipeline.files import sha256_file
from stages.export.backends import BatchProfile
from stages.export.engine.architecture import architecture
from stages.export.engine.manifest import (
    EngineUnusable,
    Manifest,
    check_architecture,
    check_content,
    check_manifest,
    load_manifest,
    manifest_path,
    save_manifest,
)
from stages.export.engine.request import Tensor

trt = pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "net.engine"
    path.write_bytes(b"an engine, as far as its manifest is concerned")
    return path


@pytest.fixture
def manifest(engine: Path) -> Manifest:
    found = Manifest(
        api="tensorrt_rtx",
        version=trt.__version__,
        architectures=("SM80", "SM89"),
        precision="int8",
        opset=20,
        profile=BatchProfile(min=1, opt=8, max=64),
        inputs=(Tensor(name="images", dtype="uint8", shape=(-1, 8, 8, 3)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=(-1, 5)),),
        source="net.onnx",
        source_sha256="0" * 64,
        engine_sha256=sha256_file(engine),
        build_s=0.5,
        created="2026-01-01T00:00:00+00:00",
        proof={"int8": 3},
    )
    save_manifest(found, engine)
    return found


def test_a_saved_manifest_loads_as_it_was(engine: Path, manifest: Manifest) -> None:
    assert load_manifest(engine) == manifest == check_content(engine)


def test_a_manifest_says_nothing_about_where_it_was_written(
    engine: Path, manifest: Manifest
) -> None:
    assert str(engine.parent) not in manifest_path(engine).read_text()


def test_an_engine_that_is_not_there_is_named(engine: Path, manifest: Manifest) -> None:
    engine.unlink()
    with pytest.raises(EngineUnusable, match=r"net\.engine: there is no such file. Build it"):
        check_manifest(engine, CPU)


def test_an_engine_without_a_manifest_is_refused(engine: Path) -> None:
    with pytest.raises(EngineUnusable, match=r"no manifest 'net\.engine\.json' beside it"):
        check_manifest(engine, CPU)


@pytest.mark.parametrize("keep", [0, 1, 40, 200])
def test_a_truncated_manifest_is_damaged(engine: Path, manifest: Manifest, keep: int) -> None:
    path = manifest_path(engine)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineUnusable, match=r"engine\.json: damaged at"):
        check_manifest(engine, CPU)


def test_a_manifest_with_a_wrong_value_names_the_field(engine: Path, manifest: Manifest) -> None:
    path = manifest_path(engine)
    content = json.loads(path.read_text()) | {"opset": "twenty"}
    path.write_text(json.dumps(content))
    with pytest.raises(EngineUnusable, match=r"damaged at opset"):
        check_manifest(engine, CPU)


@pytest.mark.parametrize("position", [0, 20, -1])
def test_one_altered_bit_of_the_engine_is_noticed(
    engine: Path, manifest: Manifest, position: int
) -> None:
    content = bytearray(engine.read_bytes())
    content[position] ^= 1
    engine.write_bytes(content)
    with pytest.raises(EngineUnusable, match=r"altered after it was built"):
        check_manifest(engine, CPU)


def test_another_version_is_refused_and_the_right_one_named(
    engine: Path, manifest: Manifest
) -> None:
    save_manifest(replace(manifest, version="1.2.0.54"), engine)
    message = rf"built by tensorrt_rtx 1\.2\.0\.54, and {trt.__version__} is installed"
    with pytest.raises(EngineUnusable, match=message):
        check_manifest(engine, CPU)


@pytest.mark.skipif(
    is_installed("tensorrt"),
    reason="the package that is to be missing is installed",
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    engine: Path, manifest: Manifest
) -> None:
    save_manifest(replace(manifest, api="tensorrt"), engine)
    with pytest.raises(BackendUnavailable, match=r"pip install 'dlpipe\[tensorrt\]'"):
        check_manifest(engine, CPU)


def test_an_engine_does_not_run_on_the_cpu(engine: Path, manifest: Manifest) -> None:
    message = r"runs on a CUDA device, and the device is cpu. Use a machine with one of SM80, SM89"
    with pytest.raises(BackendUnavailable, match=message):
        check_manifest(engine, CPU)


def test_an_engine_for_other_gpus_is_refused(engine: Path, manifest: Manifest) -> None:
    check_architecture(engine, manifest, "SM89")
    with pytest.raises(EngineUnusable, match=r"compiled for SM80, SM89, and the device is SM75"):
        check_architecture(engine, manifest, "SM75")


def test_the_cpu_has_no_architecture() -> None:
    assert architecture(CPU) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_device_count(), reason="no CUDA device")
def test_an_engine_for_the_gpu_at_hand_passes_and_one_for_others_does_not(
    engine: Path, manifest: Manifest
) -> None:
    device = Device("cuda", 0)
    mine = replace(manifest, architectures=(architecture(device),))
    save_manifest(mine, engine)
    assert check_manifest(engine, device) == mine
    save_manifest(replace(manifest, architectures=("SM10",)), engine)
    with pytest.raises(EngineUnusable, match=r"compiled for SM10"):
        check_manifest(engine, device)
