"""Ports: free ones picked, given ones checked before a server is started on them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass

from pipeline.errors import StageFailed
from stages.deploy.config import PortsConfig

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """Where one server listens."""

    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def http(self) -> str:
        """``host:port`` of KServe v2 over HTTP."""
        return f"{HOST}:{self.http_port}"

    @property
    def grpc(self) -> str:
        """``host:port`` of KServe v2 over gRPC."""
        return f"{HOST}:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        """URL of the Prometheus metrics."""
        return f"http://{HOST}:{self.metrics_port}/metrics"


def claim_endpoints(config: PortsConfig) -> Endpoints:
    """Return an endpoint each: the port that was given, or a free one.

    Raises:
        StageFailed: a given port is taken.
    """
    with ExitStack() as held:  # all at once, so that no two automatic ones are the same
        numbers = {
            name: held.enter_context(_bind(name, 0 if port == "auto" else port)).getsockname()[1]
            for name, port in config
        }
    return Endpoints(
        http_port=numbers["http"], grpc_port=numbers["grpc"], metrics_port=numbers["metrics"]
    )


def _bind(name: str, port: int) -> socket.socket:
    """Bind as a server would, but without SO_REUSEPORT.

    Triton's gRPC sets that option: a second server on a port would silently share the requests.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((HOST, port))
        held.listen(1)
    except OSError as error:
        held.close()
        raise StageFailed(
            f"stages.deploy.ports.{name}: port {port} on {HOST} cannot be used: "
            f"{error.strerror}. Stop the program that listens there, or use {name}: auto."
        ) from error
    return held
