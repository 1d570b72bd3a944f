"""From a repository to a running server: which program, which ports, which canary."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.interrupt import StopFlag
from stages.deploy.backends import DeployBackend, Launch
from stages.deploy.canary import CANARY_FILE, Canary
from stages.deploy.config import PortsConfig
from stages.deploy.pbtxt import read
from stages.deploy.ports import claim_endpoints
from stages.deploy.server import Server, Target


def read_target(repository: Path, model: str) -> Target:
    """Return what the canary asks of a repository's tensor model."""
    config = read(repository / model)
    canary_path = repository / model / CANARY_FILE
    return Target(
        model=model,
        input=str(config.input[0].name),
        output=str(config.output[0].name),
        canary=Canary.load(canary_path) if canary_path.exists() else None,
    )


@contextmanager
def running_server(
    backend: DeployBackend,
    repository: Path,
    model: str,
    *,
    ports: PortsConfig,
    image: str,
    on_gpu: bool,
    log_path: Path,
    start_timeout_s: float,
    stop: StopFlag,
    drain_s: int = 0,
) -> Iterator[Server | None]:
    """Run a server for the length of the block; None where the backend starts nothing."""
    with tempfile.TemporaryDirectory(prefix="dlpipe-triton-") as work_dir:
        launch = Launch(
            repository=repository, work_dir=Path(work_dir), image=image, needs_gpu=on_gpu
        )
        program = backend.program(launch)
        if program is None:
            yield None
            return
        server = Server(
            program=program,
            endpoints=claim_endpoints(ports),
            target=read_target(repository, model),
            log_path=log_path,
            start_timeout_s=start_timeout_s,
            drain_s=drain_s,
            stop=stop,
        )
        with server:
            yield server
