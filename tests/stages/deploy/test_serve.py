"""Serving: clients are answered until the stop, and a server that fails is replaced."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.context import Context
from pipeline.errors import ConfigError, StageFailed
from pipeline.events import EventLog
from stages.deploy.client import RequestFailed, open_client
from stages.deploy.config import DeployConfig, PortsConfig
from stages.deploy.ports import Endpoints, claim_endpoints
from stages.deploy.serve import serve
from stages.deploy.stage import Deploy

from .conftest import SIDE, Deployed, Recorder


def answers(endpoints: Endpoints) -> bool:
    client = open_client("http", endpoints, timeout_s=5)
    try:
        images = np.zeros((1, SIDE, SIDE, 3), np.uint8)
        return client.infer("classifier", {"images": images}, ["logits"])["logits"].shape == (1, 3)
    except RequestFailed:
        return False
    finally:
        client.close()


def wait_for(condition, timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def kill_by_nested_json(endpoints: Endpoints) -> None:
    """Send the request that overflows the stack of this server's JSON parser."""
    url = f"http://{endpoints.http}/v2/models/classifier/infer"
    with contextlib.suppress(OSError):
        urllib.request.urlopen(url, data=b'{"inputs":' + b"[" * 500_000, timeout=5)


def test_a_server_that_lost_a_worker_or_died_is_started_again_until_the_stop(
    plain: Deployed, tmp_path: Path
) -> None:
    recorder = Recorder()
    context = Context(dir=tmp_path, events=EventLog((recorder,)))
    ends = claim_endpoints(PortsConfig())
    ports = {"http_port": ends.http_port, "grpc_port": ends.grpc_port}
    thread = threading.Thread(
        target=serve,
        args=(context, plain.deployment, DeployConfig()),
        kwargs={**ports, "canary_every_s": 0.2},
    )
    thread.start()
    try:
        assert wait_for(lambda: len(recorder.of("serving")) == 1)
        assert answers(ends)
        (victim, *_) = [
            process
            for process in psutil.Process().children(recursive=True)
            if "stub" in process.name() or "stub" in " ".join(process.cmdline()[:1])
        ]
        victim.kill()
        assert wait_for(lambda: len(recorder.of("serving")) == 2)
        assert answers(ends)
        time.sleep(0.5)  # let a canary be answered, so that the faults are not in a row
        kill_by_nested_json(ends)
        assert wait_for(lambda: len(recorder.of("serving")) == 3)
        assert answers(ends)
    finally:
        context.stop.request("SIGTERM")
        thread.join(timeout=30)
    assert not thread.is_alive()
    assert "workers died" in recorder.messages
    assert recorder.messages.count("it is started again") == 2
    assert not answers(ends)


def test_a_taken_port_is_said_before_anything_starts(plain: Deployed, tmp_path: Path) -> None:
    import socket

    context = Context(dir=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StageFailed, match=f"port {port} on"):
            serve(context, plain.deployment, DeployConfig(), http_port=port, grpc_port=port + 1)


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ((99999, 8001), "--http-port: 99999 is no port. Allowed: 1 to 65535"),
        ((8000, 0), "--grpc-port: 0 is no port"),
        ((8000, 8000), "--http-port and --grpc-port are both 8000"),
        ((8000, 8002), "--grpc-port and deploy.ports.metrics are both 8002"),
    ],
)
def test_ports_that_cannot_be_are_told(
    plain: Deployed, tmp_path: Path, ports: tuple[int, int], said: str
) -> None:
    config, (http, grpc) = DeployConfig(ports=PortsConfig(metrics=8002)), ports
    with pytest.raises(ConfigError, match=said):
        serve(Context(dir=tmp_path), plain.deployment, config, http_port=http, grpc_port=grpc)


def test_a_run_that_only_wrote_files_says_how_to_serve_it(plain: Deployed, tmp_path: Path) -> None:
    deployment = replace(plain.deployment, backend="files")
    stage = Deploy(DeployConfig(backend="files"))
    ends = claim_endpoints(PortsConfig())
    with pytest.raises(StageFailed, match="Run the deploy stage with backend: auto"):
        stage.serve(
            Context(dir=tmp_path), deployment, http_port=ends.http_port, grpc_port=ends.grpc_port
        )
