"""A real server: answers, refusals, failure, and the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.http as http_client
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import Interrupted, StageFailed
from pipeline.interrupt import StopFlag
from stages.deploy.backends import triton_embedded
from stages.deploy.backends.triton_embedded import Launch
from stages.deploy.canary import Canary
from stages.deploy.client import Client, RequestFailed, open_client
from stages.deploy.config import PortsConfig, Protocol
from stages.deploy.load import Request, measure
from stages.deploy.ports import claim_endpoints
from stages.deploy.running import read_target
from stages.deploy.server import Server

from .conftest import CLASSES, Chain, Deployed


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server):
    opened = open_client(request.param, server.endpoints)
    yield opened
    opened.close()


def pixels(chain: Chain, *rows: int) -> NDArray[np.uint8]:
    return np.stack([np.array(Image.open(chain.folder / f"{row}.png")) for row in rows])


def encoded(*images: bytes) -> NDArray[np.uint8]:
    """Return one image a row, padded with zeros."""
    width = max(len(image) for image in images)
    rows = [np.frombuffer(image.ljust(width, b"\0"), dtype=np.uint8) for image in images]
    return np.stack(rows)


def test_a_batch_gets_one_answer_a_row(client: Client, chain: Chain) -> None:
    answer = client.infer("classifier", {"images": pixels(chain, 0, 1, 2, 4)}, ["logits"])
    assert answer["logits"].argmax(axis=1).tolist() == [0, 1, 2, 1]


def test_encoded_images_become_labels_and_scores(client: Client, chain: Chain) -> None:
    images = encoded(chain.encoded(2), chain.encoded(0))
    answer = client.infer("classifier_pipeline", {"encoded": images}, ["labels", "scores"])
    assert [bytes(row[0]).decode() for row in answer["labels"]] == [CLASSES[2], CLASSES[0]]
    assert answer["scores"].shape == (2, 2)
    assert (np.diff(answer["scores"], axis=1) <= 0).all()


def test_a_jpeg_is_taken_as_well(client: Client, chain: Chain, tmp_path: Path) -> None:
    Image.open(chain.folder / "1.png").save(tmp_path / "1.jpg", quality=95)
    images = encoded((tmp_path / "1.jpg").read_bytes())
    answer = client.infer("classifier_pipeline", {"encoded": images}, ["labels"])
    assert bytes(answer["labels"][0, 0]) == b"bee"


def test_a_damaged_image_is_named_and_no_traceback_reaches_the_client(
    client: Client, chain: Chain
) -> None:
    images = encoded(chain.encoded(0), b"\xff\xd8\xff damaged")
    with pytest.raises(RequestFailed, match="file 1 of this request cannot be") as failure:
        client.infer("classifier_pipeline", {"encoded": images}, ["labels"])
    assert failure.value.status in ("400", "INVALID_ARGUMENT")
    assert "Traceback" not in str(failure.value)


def test_a_damaged_image_harms_no_other_request(server: Server, chain: Chain) -> None:
    client = http_client.InferenceServerClient(server.endpoints.http, concurrency=8)
    images = [chain.encoded(i % 3) if i % 2 else b"damaged" for i in range(16)]
    pending = []
    for image in images:
        given = http_client.InferInput("encoded", [1, len(image)], "UINT8")
        given.set_data_from_numpy(encoded(image))
        pending.append(client.async_infer("classifier_pipeline", [given]))
    for index, request in enumerate(pending):
        if index % 2:
            label = request.get_result().as_numpy("labels")[0, 0]
            assert label.decode() == CLASSES[index % 3]
        else:
            with pytest.raises(Exception, match="cannot be decoded"):
                request.get_result()
    client.close()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("classifier", (1, 8, 16, 3), "unexpected shape for input 'images'"),
        ("classifier", (5, 16, 16, 3), "must be <= 4"),
        ("nobody", (1, 16, 16, 3), "unknown model"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    client: Client, model: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RequestFailed, match=message):
        client.infer(model, {"images": np.zeros(shape, np.uint8)}, ["logits"])


def test_concurrent_single_images_are_run_as_batches(server: Server, chain: Chain) -> None:
    def executions() -> tuple[int, int]:
        with urllib.request.urlopen(server.endpoints.metrics) as response:
            text = response.read().decode()
        figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if "#" not in line)
        label = '{model="classifier",version="1"}'
        return tuple(
            int(float(figures[f"nv_inference_{what}{label}"])) for what in ("count", "exec_count")
        )

    request = Request(model="classifier", input="images", output="logits", tensor=pixels(chain, 0))
    before = executions()
    result = measure(
        server.endpoints, "http", request, concurrency=16, seconds=0.5, stop=StopFlag()
    )
    images, runs = (after - then for after, then in zip(executions(), before, strict=True))
    assert result.errors == 0
    assert images >= result.answered
    assert runs < images


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_refused_requests_count_as_errors_under_load(server: Server, protocol: Protocol) -> None:
    wrong = Request(
        model="classifier", input="images", output="logits", tensor=np.zeros((1, 2), np.uint8)
    )
    result = measure(server.endpoints, protocol, wrong, concurrency=2, seconds=0.1, stop=StopFlag())
    assert result.answered == 0
    assert result.errors > 0
    assert result.percentile(99) == float("inf")


def test_a_stop_ends_the_load(server: Server, chain: Chain) -> None:
    stop = StopFlag()
    stop.request("SIGINT")
    request = Request(model="classifier", input="images", output="logits", tensor=pixels(chain, 0))
    with pytest.raises(Interrupted, match="SIGINT"):
        measure(server.endpoints, "http", request, concurrency=1, seconds=60, stop=stop)


def test_administration_is_shut(server: Server) -> None:
    client = http_client.InferenceServerClient(server.endpoints.http)
    for forbidden in (client.get_model_repository_index, client.get_inference_statistics):
        with pytest.raises(Exception, match="restricted"):
            forbidden()
    client.close()


def test_only_the_loopback_address_is_listened_on(server: Server) -> None:
    ports = {server.endpoints.http_port, server.endpoints.grpc_port, server.endpoints.metrics_port}
    listening = {
        connection.laddr.port: connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports
    }
    assert listening == dict.fromkeys(ports, "127.0.0.1")


def test_the_canary_is_answered(server: Server) -> None:
    assert server.fault() is None


def own_server(plain: Deployed, folder: Path, **changes: object) -> Server:
    repository = plain.deployment.repository
    settings = {
        "program": triton_embedded.program(
            Launch(repository=repository, work_dir=folder, image="")
        ),
        "endpoints": claim_endpoints(PortsConfig()),
        "target": read_target(repository, "classifier"),
        "log_path": folder / "server.log",
        "start_timeout_s": 60,
    }
    return Server(**{**settings, **changes})


def workers_of(server: Server) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if server.shm_prefix in " ".join(process.info["cmdline"] or [])
        and "stub" in process.info["cmdline"][0]
    ]


def test_a_dead_worker_is_noticed_and_nothing_is_left_behind(
    plain: Deployed, tmp_path: Path
) -> None:
    with own_server(plain, tmp_path) as server:
        workers = workers_of(server)
        assert len(workers) == server.workers() > 0
        assert server.fault() is None
        victim = workers[0]
        victim.kill()
        psutil.wait_procs([victim], timeout=0.3)
        assert server.alive, "the server itself goes on, and calls itself ready"
        assert "1 of its" in str(server.fault())
    assert not any(process.is_running() for process in workers)
    assert [name for name in os.listdir("/dev/shm") if name.startswith(server.shm_prefix)] == []


def test_a_killed_server_is_noticed_and_nothing_is_left_behind(
    plain: Deployed, tmp_path: Path
) -> None:
    with own_server(plain, tmp_path) as server:
        workers = workers_of(server)
        workers[0].parent().kill()
        deadline = time.monotonic() + 5
        while server.alive and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.fault() == "its process has ended"
    assert not any(process.is_running() for process in workers)
    assert [name for name in os.listdir("/dev/shm") if name.startswith(server.shm_prefix)] == []


def test_ready_is_not_enough_a_wrong_answer_stops_the_start(
    plain: Deployed, tmp_path: Path
) -> None:
    target = read_target(plain.deployment.repository, "classifier")
    assert target.canary is not None
    wrong = Canary(images=target.canary.images, logits=target.canary.logits + 1, tolerance=0.01)
    server = own_server(plain, tmp_path, target=replace(target, canary=wrong))
    with pytest.raises(StageFailed, match="answers wrongly: a logit is off by 1"), server:
        pass
    assert not server.alive


def test_numpy_2_in_the_server_refuses_to_load_instead_of_answering_with_nothing(
    plain: Deployed, tmp_path: Path
) -> None:
    package = tmp_path / "packages" / "numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "2.1.0"\n')
    launch = Launch(repository=plain.deployment.repository, work_dir=tmp_path, image="")
    program = triton_embedded.program(launch)
    assert program is not None
    paths = f"{package.parent}{os.pathsep}{program.env['DLPIPE_SITE_PACKAGES']}"
    program = replace(program, env={**program.env, "DLPIPE_SITE_PACKAGES": paths})
    server = own_server(plain, tmp_path / "packages", program=program)
    with pytest.raises(StageFailed, match=r"numpy 2\.1\.0 is installed"), server:
        pass


def test_when_we_are_killed_the_server_goes_too(plain: Deployed, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time, pathlib\n"
        "from stages.deploy.backends import triton_embedded\n"
        "from stages.deploy.running import running_server\n"
        "from stages.deploy.config import PortsConfig\n"
        "from pipeline.interrupt import StopFlag\n"
        "with running_server(triton_embedded, pathlib.Path(sys.argv[1]), 'classifier',\n"
        "        ports=PortsConfig(), image='', on_gpu=False, start_timeout_s=60,\n"
        "        log_path=pathlib.Path(sys.argv[2]), stop=StopFlag()) as server:\n"
        "    print(server.shm_prefix, flush=True)\n"
        "    time.sleep(600)\n"
    )
    arguments = [str(plain.deployment.repository), str(tmp_path / "server.log")]
    parent = subprocess.Popen(
        [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    prefix = parent.stdout.readline().strip()
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) > 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert [name for name in os.listdir("/dev/shm") if name.startswith(prefix)] == []


def test_a_model_that_cannot_be_loaded_fails_with_what_the_server_said(
    plain: Deployed, tmp_path: Path
) -> None:
    repository = tmp_path / "broken"
    shutil.copytree(plain.deployment.repository, repository)
    (repository / "classifier" / "1" / "model.onnx").write_bytes(b"not a graph")
    (tmp_path / "work").mkdir()
    program = triton_embedded.program(Launch(repository=repository, work_dir=tmp_path, image=""))
    server = own_server(plain, tmp_path / "work", program=program)
    with (
        pytest.raises(StageFailed, match="(?s)ended while it was starting.*INVALID_PROTOBUF"),
        server,
    ):
        pass


def test_a_stop_while_the_server_starts_ends_it(plain: Deployed, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("SIGTERM")
    server = own_server(plain, tmp_path, stop=stop)
    with pytest.raises(Interrupted, match="SIGTERM"), server:
        pass
    assert not server.alive


def test_a_start_that_takes_too_long_is_an_error(plain: Deployed, tmp_path: Path) -> None:
    server = own_server(plain, tmp_path, start_timeout_s=0.01)
    with pytest.raises(StageFailed, match=r"within 0\.01 s; raise stages\.deploy\.start_timeout_s"):
        server.__enter__()
    assert not server.alive
