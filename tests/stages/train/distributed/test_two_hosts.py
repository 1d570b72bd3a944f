"""torchrun on one host, and the same command on each of two, emulated by network namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
LIMIT_S = 300
PREFIX = f"dlp{os.getpid() % 100_000}"
ADDRESSES = ("10.213.57.1", "10.213.57.2")

CONFIG = """
name: hosts
device: cpu
stages:
  - augment: {dataset: digits, size: 8, backend: array, batch_size: 64, train: []}
  - train:
      model: "nets:net"
      epochs: 3
      precision: fp32
      threads: 1
      tensorboard: false
      rehearsal: false
      optimizer: {lr: 0.01}
      LAUNCH
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a cable; nothing of them is left afterwards."""
    names = (f"{PREFIX}a", f"{PREFIX}b")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            with suppress(OSError, subprocess.SubprocessError):
                ip("netns", "delete", name)


def start(config: Path, *before: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, "-m", "pipeline", "run", str(config)],
        cwd=config.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(*commands: subprocess.Popen[str]) -> list[tuple[int, str]]:
    try:
        said = [command.communicate(timeout=LIMIT_S)[0] for command in commands]
    finally:
        for command in commands:
            command.kill()
    return [(command.returncode, text) for command, text in zip(commands, said, strict=True)]


def write(folder: Path, launch: str) -> Path:
    folder.mkdir()
    (folder / "nets.py").write_text((HERE / "nets.py").read_text())
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("LAUNCH", launch))
    return path


def weights(config: Path) -> dict[str, torch.Tensor]:
    return load_file(config.parent / "runs/hosts/train/model.safetensors")


@pytest.fixture(scope="module")
def by_torchrun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same two processes on one host, as `torchrun ... -m pipeline run FILE` starts them."""
    config = write(tmp_path_factory.mktemp("torchrun") / "run", "")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    ((code, text),) = finish(start(config, *torchrun, "--nproc-per-node", "2"))
    assert code == 0, text
    return config, text


@pytest.mark.timeout(LIMIT_S)
def test_torchrun_starts_the_whole_chain_and_one_process_tells_of_it(by_torchrun):
    config, text = by_torchrun
    assert "2 processes train together by DDP over gloo" in text
    assert text.count("report: ") == 1
    assert (config.parent / "runs/hosts/report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_two_hosts_train_what_one_host_trains_even_if_a_worker_is_killed(
    hosts, by_torchrun, tmp_path
):
    launch = f"launch: {{processes: 1, hosts: [{', '.join(ADDRESSES)}]}}"
    config = write(tmp_path / "both", launch)
    commands = [start(config, "ip", "netns", "exec", name, sys.executable) for name in hosts]
    kill_worker(config.parent / "runs/hosts/train.partial/job", rank=1, commands=commands)
    (first, told), (second, heard) = finish(*commands)
    assert (first, second) == (0, 0), told + heard
    assert "restart 1: all processes go on from the last checkpoint" in told
    own, other = weights(config), weights(by_torchrun[0])
    assert all(torch.equal(own[name], other[name]) for name in own)


def kill_worker(job: Path, rank: int, commands: list[subprocess.Popen[str]]) -> None:
    """Kill a worker as soon as an epoch is over."""
    events, end = job / "events-0.jsonl", time.monotonic() + LIMIT_S
    while not (events.is_file() and '["epoch"' in events.read_text()):
        assert time.monotonic() < end
        assert all(command.poll() is None for command in commands), finish(*commands)
        time.sleep(0.05)
    os.kill(json.loads((job / f"worker-{rank}.json").read_text())["pid"], signal.SIGKILL)
