"""Load: latency and throughput at several numbers of requests in flight, as a client sees them.

A closed loop: each client sends its next request when its last one is answered. The bodies are made
once, so that the server and the wire are measured; the clients do share the machine with it.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pipeline.interrupt import StopFlag
from stages.deploy.config import Protocol
from stages.deploy.ports import HOST, Endpoints

_WARMUP_SHARE = 0.2
_POLL_S = 0.05

Ask = Callable[[], bool]
"""Sends one request and tells whether it was answered with an output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What every client sends: one tensor to one model."""

    model: str
    input: str
    output: str
    tensor: NDArray[np.generic]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """What was measured at one number of requests in flight."""

    concurrency: int
    seconds: float
    errors: int
    latencies_ms: NDArray[np.float64]
    """Of the answered requests, sorted."""

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return len(self.latencies_ms)

    @property
    def throughput(self) -> float:
        """Answered requests a second."""
        return self.answered / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency in ms that `share` percent of the requests stayed within."""
        return float(np.percentile(self.latencies_ms, share)) if self.answered else float("inf")


@dataclass
class _Tally:
    """What one client has seen; each client has its own, so that nothing is locked."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0


def measure(
    endpoints: Endpoints,
    protocol: Protocol,
    request: Request,
    *,
    concurrency: int,
    seconds: float,
    stop: StopFlag,
) -> LoadResult:
    """Keep `concurrency` requests in flight for `seconds`, after a warm-up that does not count."""
    begin = time.perf_counter() + seconds * _WARMUP_SHARE
    end = begin + seconds
    tallies = [_Tally() for _ in range(concurrency)]
    open_connection = {"http": _open_http, "grpc": _open_grpc}[protocol]

    def work(tally: _Tally) -> None:
        ask, close = open_connection(endpoints, request)
        try:
            while not stop.requested and (started := time.perf_counter()) < end:
                answered = ask()
                if started < begin:
                    continue
                if answered:
                    tally.latencies_ms.append((time.perf_counter() - started) * 1e3)
                else:
                    tally.errors += 1
        finally:
            close()

    threads = [threading.Thread(target=work, args=(tally,), daemon=True) for tally in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.check()
    latencies = np.sort(np.array([x for tally in tallies for x in tally.latencies_ms], np.float64))
    return LoadResult(
        concurrency=concurrency,
        seconds=seconds,
        errors=sum(tally.errors for tally in tallies),
        latencies_ms=latencies,
    )


def _open_http(endpoints: Endpoints, request: Request) -> tuple[Ask, Callable[[], None]]:
    """Return a caller over one keep-alive connection, with a body that was made once."""
    tensor = http_client.InferInput(
        request.input, request.tensor.shape, np_to_triton_dtype(request.tensor.dtype)
    )
    tensor.set_data_from_numpy(request.tensor)
    wanted = [http_client.InferRequestedOutput(request.output)]
    body, header_length = http_client.InferenceServerClient.generate_request_body(
        [tensor], outputs=wanted
    )
    headers = {"Inference-Header-Content-Length": str(header_length)}
    path = f"/v2/models/{request.model}/infer"
    connection = http.client.HTTPConnection(HOST, endpoints.http_port, timeout=60)

    def ask() -> bool:
        try:
            connection.request("POST", path, body=body, headers=headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        json_length = int(response.headers.get("Inference-Header-Content-Length", len(answer)))
        return response.status == 200 and len(answer) > json_length

    return ask, connection.close


def _open_grpc(endpoints: Endpoints, request: Request) -> tuple[Ask, Callable[[], None]]:
    """Return a caller over one channel, with a tensor that was serialized once."""
    tensor = grpc_client.InferInput(
        request.input, request.tensor.shape, np_to_triton_dtype(request.tensor.dtype)
    )
    tensor.set_data_from_numpy(request.tensor)
    wanted = [grpc_client.InferRequestedOutput(request.output)]
    client = grpc_client.InferenceServerClient(endpoints.grpc)

    def ask() -> bool:
        try:
            result = client.infer(request.model, [tensor], outputs=wanted, client_timeout=60)
        except InferenceServerException:
            return False
        answer = result.as_numpy(request.output)
        return answer is not None and answer.size > 0

    return ask, client.close
