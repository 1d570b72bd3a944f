"""Client: one connection to a server by tritonclient, the same over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol as TypingProtocol

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pipeline.errors import StageFailed
from stages.deploy.config import Protocol
from stages.deploy.ports import Endpoints

Tensors = dict[str, NDArray[np.generic]]


class RequestFailed(StageFailed):
    """The server refused a request or did not answer it."""

    def __init__(self, status: str, message: str) -> None:
        self.status = status
        """``INVALID_ARGUMENT``, ``NOT_FOUND``, ... or the number of an HTTP status."""
        super().__init__(f"{status}: {message}" if status else message)


class Client(TypingProtocol):
    """One connection; not for several threads at once."""

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
    ) -> Tensors:
        """Send one request and return its outputs by name.

        Raises:
            RequestFailed: the server did not answer with outputs.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class HttpClient:
    """KServe v2 over HTTP, tensors as binary."""

    def __init__(self, endpoints: Endpoints, timeout_s: float) -> None:
        self._client = http_client.InferenceServerClient(
            endpoints.http, connection_timeout=timeout_s, network_timeout=timeout_s
        )

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
    ) -> Tensors:
        """Send one request and return its outputs by name."""
        given = []
        for name, array in inputs.items():
            tensor = http_client.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            given.append(tensor)
        wanted = [http_client.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._client.infer(model, given, outputs=wanted)
        except InferenceServerException as error:
            raise RequestFailed(error.status() or "", error.message()) from error
        except OSError as error:
            raise RequestFailed("UNAVAILABLE", str(error)) from error
        return _outputs(result.as_numpy, outputs)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class GrpcClient:
    """KServe v2 over gRPC."""

    def __init__(self, endpoints: Endpoints, timeout_s: float) -> None:
        self._client = grpc_client.InferenceServerClient(endpoints.grpc)
        self._timeout_s = timeout_s

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[np.generic]], outputs: Sequence[str]
    ) -> Tensors:
        """Send one request and return its outputs by name."""
        given = []
        for name, array in inputs.items():
            tensor = grpc_client.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            given.append(tensor)
        wanted = [grpc_client.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._client.infer(
                model, given, outputs=wanted, client_timeout=self._timeout_s
            )
        except InferenceServerException as error:
            status = (error.status() or "").removeprefix("StatusCode.")
            raise RequestFailed(status, error.message()) from error
        return _outputs(result.as_numpy, outputs)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class _AsNumpy(TypingProtocol):
    def __call__(self, name: str) -> NDArray[np.generic] | None: ...


def _outputs(as_numpy: _AsNumpy, names: Sequence[str]) -> Tensors:
    """Return the named outputs; a missing or empty one is a failure whatever the status says."""
    outputs: Tensors = {}
    for name in names:
        array = as_numpy(name)
        if array is None or array.size == 0:
            raise RequestFailed("", f"the server answered with status OK and an empty {name!r}")
        outputs[name] = array
    return outputs


def open_client(protocol: Protocol, endpoints: Endpoints, *, timeout_s: float = 60) -> Client:
    """Open a connection over a protocol."""
    kind = HttpClient if protocol == "http" else GrpcClient
    return kind(endpoints, timeout_s)
