"""Server: requests a second and latency through Triton, beside a bare ONNX Runtime session.

python -m benchmarks.server

The repository, the server and the load are the deploy stage's own. The bare sessions are the limit:
as many of them as the server has instances, with as many threads, in this process and with nothing
in between. The load's clients share the cores with the server, as they do in the deploy stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.bare_session import BareSessions, open_bare
from benchmarks.clock import Stopwatch
from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.graphs import Graphs, make_graphs
from benchmarks.machine import Watch
from benchmarks.measure import Measured, Side, Turn, take_turns, timed
from benchmarks.networks import SMALL_CNN, resnet18
from pipeline.artifacts import DataSpec, ExportedModel, Variant
from pipeline.device import CPU
from pipeline.interrupt import StopFlag
from stages.deploy.backends import triton_embedded
from stages.deploy.canary import Canary, tolerance_for
from stages.deploy.client import open_client
from stages.deploy.config import DeployConfig, Protocol
from stages.deploy.load import Request, measure
from stages.deploy.plan import ServingPlan, make_plan
from stages.deploy.repository import write_repository
from stages.deploy.running import running_server
from stages.deploy.server import Server

CONCURRENCY = (1, 4, 16)
BARE_ONE, BARE_ALL = "bare, 1 session", "bare, all sessions"
TARGETS = {
    f"http c=16 / {BARE_ALL}": 0.83,
    f"http c=1 / {BARE_ONE}": 0.85,
}
_TURN_S = 1.5
_CANARY_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Load:
    """Keeps a number of requests in flight, and remembers how long each took."""

    server: Server
    request: Request
    protocol: Protocol
    concurrency: int
    seconds: float
    latencies_ms: list[float] = field(default_factory=list)

    def turn(self) -> Turn:
        """Put the server under load for a while.

        Raises:
            AssertionError: a request failed.
        """
        watch = Stopwatch()
        result = measure(
            self.server.endpoints, self.protocol, self.request,
            concurrency=self.concurrency, seconds=self.seconds, stop=StopFlag(),
        )  # fmt: skip
        # The warm-up before the window costs CPU time too: take the window's share.
        cpu_s = watch.cpu_s * self.seconds / watch.wall_s
        assert result.errors == 0, f"{result.errors} requests failed at c={self.concurrency}"
        self.latencies_ms.extend(result.latencies_ms.tolist())
        return Turn(units=result.answered, wall_s=result.seconds, cpu_s=cpu_s)


def main() -> None:
    options = make_parser("server", __doc__).parse_args()
    watch, rounds = Watch(), rounds_of(options)
    network, seconds = (SMALL_CNN, 0.3) if options.quick else (resnet18(224), _TURN_S)
    with TemporaryDirectory(prefix="dlpipe-server-") as scratch:
        graphs = make_graphs(Path(scratch), network, ("fp32", "int8"), num_images=32)
        plan = plan_of(graphs)
        with serving(graphs, plan, Path(scratch)) as server:
            image, path = graphs.images[:1], graphs.paths["int8"]
            one, every = (
                open_bare(path, image, count=count, threads=plan.threads)
                for count in (1, plan.instances)
            )
            loads = open_loads(server, plan, image, seconds)
            check_same_work(server, plan, one, graphs.images)
            sides = [
                Side(BARE_ONE, timed(_run(one, seconds))),
                Side(BARE_ALL, timed(_run(every, seconds))),
                *(Side(name, load.turn) for name, load in loads.items()),
            ]
            measured = take_turns(sides, rounds=rounds, unit="req")
            started_in_s = server.started_in_s
    latencies = {BARE_ONE: one.latencies_ms, BARE_ALL: every.latencies_ms} | {
        name: load.latencies_ms for name, load in loads.items()
    }
    print_table(f"{network.title}, INT8, one image a request", measured, BARE_ALL)
    figures = {"server start, s": started_in_s, **figures_of(measured), **_latencies(latencies)}
    notes = [f"{plan.instances} instances or sessions of {plan.threads} thread"]
    conclude("server", watch, figures, TARGETS, notes)


def plan_of(graphs: Graphs) -> ServingPlan:
    """Plan a repository of the INT8 graph alone, as the deploy stage does on this machine."""
    path = graphs.paths["int8"]
    variant = Variant(
        name="onnxruntime-int8", backend="onnxruntime", precision="int8", format="onnx", path=path,
        input=graphs.trained.input, output=graphs.trained.output, size_bytes=path.stat().st_size,
        runs_here=True,
    )  # fmt: skip
    exported = ExportedModel(
        variants=(variant,), chosen=variant.name, classes=graphs.trained.classes
    )
    spec: DataSpec = replace(graphs.spec, preprocess=None)
    return make_plan(DeployConfig(backend="triton-embedded"), "python", spec, exported, CPU)


@contextmanager
def serving(graphs: Graphs, plan: ServingPlan, folder: Path) -> Iterator[Server]:
    """Publish the repository and run Triton on it."""
    images = graphs.images[:_CANARY_IMAGES]
    logits = open_bare(plan.variant.path, images, count=1, threads=plan.threads).answer(images)
    canary = Canary(images=images, logits=logits, tolerance=tolerance_for("int8", logits))
    repository, config = folder / "repository", DeployConfig()
    write_repository(repository, plan, canary, None)
    with running_server(
        triton_embedded, repository, plan.name, ports=config.ports, image=config.image,
        on_gpu=False, log_path=folder / "server.log", start_timeout_s=config.start_timeout_s,
        stop=StopFlag(),
    ) as server:  # fmt: skip
        assert server is not None
        yield server


def open_loads(
    server: Server, plan: ServingPlan, image: NDArray[np.uint8], seconds: float
) -> dict[str, Load]:
    """Return the loads over HTTP at every concurrency, and one over gRPC at the highest."""
    request = Request(
        model=plan.name, input=plan.variant.input.name, output=plan.variant.output.name,
        tensor=image,
    )  # fmt: skip
    over: list[tuple[Protocol, int]] = [*(("http", c) for c in CONCURRENCY), ("grpc", 16)]
    return {f"{p} c={c}": Load(server, request, p, c, seconds) for p, c in over}


def check_same_work(
    server: Server, plan: ServingPlan, bare: BareSessions, images: NDArray[np.uint8]
) -> None:
    """Hold the server's logits against the bare session's, bit by bit.

    Raises:
        AssertionError: the server answers something else.
    """
    client = open_client("http", server.endpoints)
    try:
        for image in np.split(images[:_CANARY_IMAGES], _CANARY_IMAGES):
            asked = {plan.variant.input.name: image}
            answer = client.infer(plan.name, asked, [plan.variant.output.name])
            assert np.array_equal(answer[plan.variant.output.name], bare.answer(image))
    finally:
        client.close()


def figures_of(measured: Measured) -> dict[str, float]:
    """Return throughputs and their share of the limit by name."""
    figures = rates("int8", measured)
    for name in measured.turns:
        if name not in (BARE_ONE, BARE_ALL):
            limit = BARE_ONE if name.endswith("c=1") else BARE_ALL
            figures[f"{name} / {limit}"] = measured.ratio(name, limit)
    return figures


def _latencies(latencies: dict[str, list[float]]) -> dict[str, float]:
    print("\nlatency, ms, over all rounds (the warm-up included)")
    figures: dict[str, float] = {}
    for name, taken in latencies.items():
        p50, p99 = np.percentile(taken, [50, 99])
        print(f"{name:20}  p50 {p50:8.2f}  p99 {p99:8.2f}  of {len(taken)}")
        figures |= {f"{name}, p50 ms": float(p50), f"{name}, p99 ms": float(p99)}
    return figures


def _run(bare: BareSessions, seconds: float) -> Callable[[], float]:
    return lambda: bare.run(seconds)


if __name__ == "__main__":
    main()
