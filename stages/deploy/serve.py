"""Serving: a verified repository answers clients until told to stop, and is watched meanwhile."""

from __future__ import annotations

import time
from typing import cast

from pipeline.artifacts import Deployment
from pipeline.backend import named
from pipeline.context import Context
from pipeline.errors import ConfigError, StageFailed
from stages.deploy.backends import BACKENDS, DeployBackend
from stages.deploy.config import DeployConfig, PortsConfig, port_problem
from stages.deploy.running import running_server
from stages.deploy.server import Server

CANARY_EVERY_S = 5.0
_DRAIN_S = 5
_MOST_FAULTS = 3
"""Restarts without a healthy canary in between, after which serving ends."""
_POLL_S = 0.1


def serve(
    ctx: Context,
    deployment: Deployment,
    config: DeployConfig,
    *,
    http_port: int,
    grpc_port: int,
    canary_every_s: float = CANARY_EVERY_S,
) -> None:
    """Serve a deployment until ``ctx.stop`` is set; a server that answers wrongly is restarted.

    A worker that dies inside this server is never replaced, and the server goes on saying READY:
    the only honest sign of health is a request with a known answer, sent every few seconds.

    Raises:
        ConfigError: a port is none, or two endpoints have the same one.
        StageFailed: there is no server, a port is taken, or the server fails again and again.
    """
    asked = {"--http-port": http_port, "--grpc-port": grpc_port}
    problem = port_problem(asked | {"deploy.ports.metrics": config.ports.metrics})
    if problem:
        raise ConfigError(problem)
    ports = PortsConfig(http=http_port, grpc=grpc_port, metrics=config.ports.metrics)
    choice = config.backend if ":" in config.backend else deployment.backend
    record = named(BACKENDS, choice, where="stages.deploy.backend")
    why_not = record.why_not(ctx.device)
    if why_not is not None:
        raise StageFailed(f"this run was deployed with {record.name!r}, which {why_not}.")
    faults = 0
    while not ctx.stop.requested:
        with running_server(
            cast(DeployBackend, record.load()),
            deployment.repository,
            deployment.model,
            ports=ports,
            image=config.image,
            on_gpu=ctx.device.is_cuda,
            log_path=ctx.dir / "server.log",
            start_timeout_s=config.start_timeout_s,
            stop=ctx.stop,
            drain_s=_DRAIN_S,
        ) as server:
            if server is None:
                raise StageFailed(
                    f"this run was deployed with 'files': {deployment.repository} is for a server "
                    "elsewhere. Run the deploy stage with backend: auto to serve it here."
                )
            _announce(ctx, deployment, server)
            healthy_checks, fault = _watch(ctx, server, canary_every_s)
            if fault is not None:
                server.close(at_once=True)
        if fault is None:
            return
        faults = 1 if healthy_checks else faults + 1
        if faults >= _MOST_FAULTS:
            raise StageFailed(f"the server failed {faults} times in a row: {fault}")
        ctx.events.warning(f"the server is not well ({fault}); it is started again")


def _announce(ctx: Context, deployment: Deployment, server: Server) -> None:
    ends = server.endpoints
    models = [deployment.model, *([deployment.pipeline] if deployment.pipeline else [])]
    ctx.events.emit(
        "serving", http=f"http://{ends.http}", grpc=ends.grpc, metrics=ends.metrics, models=models
    )
    ctx.events.info(
        f"serving {' and '.join(models)} on http://{ends.http} and grpc {ends.grpc}, "
        f"metrics on {ends.metrics}; Ctrl-C stops it"
    )


def _watch(ctx: Context, server: Server, every_s: float) -> tuple[int, str | None]:
    """Return how many canaries were answered rightly, and what went wrong then, if anything."""
    healthy = 0
    while True:
        due = time.monotonic() + every_s
        while time.monotonic() < due:
            if ctx.stop.requested:
                return healthy, None
            if not server.alive:
                break
            time.sleep(min(_POLL_S, every_s))
        fault = server.fault()
        if fault is not None:
            return healthy, fault
        healthy += 1
