"""Ports: distinct free ones, and a taken one is found out before a server starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pipeline.device import CPU
from pipeline.errors import StageFailed
from stages.deploy.config import DeployConfig, PortsConfig
from stages.deploy.ports import HOST, claim_endpoints
from stages.deploy.stage import Deploy


@pytest.fixture
def taken() -> Iterator[int]:
    """A port with a listener that shares it, as Triton's gRPC does."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_automatic_ports_are_distinct() -> None:
    ends = claim_endpoints(PortsConfig())
    assert len({ends.http_port, ends.grpc_port, ends.metrics_port}) == 3


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_taken_port_is_an_error_that_names_it(taken: int, name: str) -> None:
    with pytest.raises(StageFailed, match=rf"ports\.{name}: port {taken} .* use {name}: auto"):
        claim_endpoints(PortsConfig.model_validate({name: taken}))


def test_check_finds_a_taken_port_before_anything_runs(taken: int) -> None:
    stage = Deploy(DeployConfig(ports=PortsConfig(grpc=taken)))
    (problem,) = stage.check(CPU)
    assert problem.path == "ports"
    assert str(taken) in problem.message
    assert Deploy(DeployConfig()).check(CPU) == []
