"""Backends: which can run here, why not, and what they start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.backend import named, select
from pipeline.device import CPU
from pipeline.errors import BackendUnavailable
from stages.deploy import backends
from stages.deploy.backends import BACKENDS, Launch, files, triton_embedded, tritonserver

WHERE = "stages.deploy.backend"


def test_the_embedded_server_runs_here() -> None:
    assert named(BACKENDS, "triton-embedded", where=WHERE).why_not(CPU) is None


def test_numpy_2_is_refused_with_the_line_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "version", lambda _: "2.1.3")
    with pytest.raises(BackendUnavailable, match=r"numpy 2\.1\.3 .* pip install 'numpy<2'"):
        select(BACKENDS, "triton-embedded", CPU, where=WHERE)


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(BackendUnavailable, match="Did you mean 'triton-embedded'"):
        select(BACKENDS, "triton-embeded", CPU, where=WHERE)


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.platform, "machine", lambda: "aarch64")
    with pytest.raises(BackendUnavailable, match="needs Linux on x86_64"):
        select(BACKENDS, "triton-embedded", CPU, where=WHERE)


def test_without_a_server_program_the_reason_says_what_to_pull(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendUnavailable, match="docker pull nvcr.io/nvidia/tritonserver"):
        select(BACKENDS, "tritonserver", CPU, where=WHERE)


def test_docker_without_the_image_is_not_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 0\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="needs its container image"):
        select(BACKENDS, "tritonserver", CPU, where=WHERE)
    docker.write_text("#!/bin/sh\necho 3f1c2d\n")
    assert select(BACKENDS, "tritonserver", CPU, where=WHERE).backend.name == "tritonserver"


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    repository = tmp_path / "repository"
    (repository / "m" / "1").mkdir(parents=True)
    (repository / "m" / "1" / "model.py").write_text("")
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    return Launch(repository=repository, work_dir=work_dir, image="triton:26.10", needs_gpu=False)


def test_a_program_on_path_is_preferred_to_the_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launch: Launch
) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tritonserver.program(launch)
    assert program is not None
    assert program.argv == (str(binary),)


def test_the_container_gets_the_repository_read_only(
    monkeypatch: pytest.MonkeyPatch, launch: Launch
) -> None:
    monkeypatch.setenv("PATH", "")
    program = tritonserver.program(launch)
    assert program is not None
    assert f"{launch.repository}:/models:ro" in program.argv
    assert program.argv[-2:] == ("triton:26.10", "tritonserver")
    assert program.repository == "/models"
    assert program.cleanup[-1] in program.argv, "the container is removed by its name"
    assert "--gpus" not in program.argv


def test_the_embedded_server_gets_the_stub_of_this_python(launch: Launch) -> None:
    program = triton_embedded.program(launch)
    assert program is not None
    stub = launch.work_dir / "backends" / "python" / "triton_python_backend_stub"
    assert stub.resolve().parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert Path(program.argv[0]).exists()


def test_the_server_works_on_links_so_that_the_repository_stays_as_published(
    launch: Launch,
) -> None:
    mirror = launch.mirror()
    link = mirror / "m" / "1" / "model.py"
    assert link.is_symlink()
    assert link.resolve() == launch.repository / "m" / "1" / "model.py"
    assert not (mirror / "m").is_symlink()


def test_files_starts_nothing(launch: Launch) -> None:
    assert files.program(launch) is None
