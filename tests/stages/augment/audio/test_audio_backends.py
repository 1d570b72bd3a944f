"""One spec, the same spectrograms: DALI, its twin in torch, and the graph that is served."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline

from pipeline.artifacts import DataSpec
from pipeline.device import CPU, Device, cuda_device_count
from pipeline.errors import BackendUnavailable, DataError
from stages.augment.loader import open_loader, preprocess_bytes
from stages.augment.serve_graph import eval_plan, write_serving_graph
from stages.augment.spec import TransformSpec

MakeSpec = Callable[..., DataSpec]

TRAINS: dict[str, list[object]] = {
    "nothing": [],
    "time_shift": ["time_shift"],
    "random_crop": ["random_crop"],
    "speed": [{"speed": {"factor": 0.3}}],
    "gain": [{"gain": {"decibels": 12}}],
    "noise": [{"noise": {"snr": [0, 20], "p": 0.7}}],
    "masks": [{"time_mask": {"count": 2}}, {"frequency_mask": {"count": 3}}],
    "everything": [
        "speed", "random_crop", "time_shift", "gain", "noise", "time_mask", "frequency_mask",
        "mixup",
    ],
}  # fmt: skip
MOST_DIFFERING = 5e-4
"""Share of cells that may differ, each by one step of 255: rounding in the last bit of a float."""

needs_gpu = pytest.mark.skipif(not cuda_device_count(), reason="no CUDA device")
dali = pytest.mark.parametrize(
    "backend", ["dali-cpu", pytest.param("dali-gpu", marks=[pytest.mark.gpu, needs_gpu])]
)


def wav(samples: NDArray[np.float64], rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV")
    return buffer.getvalue()


def train_images(spec: DataSpec, *, seed: int = 3) -> torch.Tensor:
    device = Device("cuda", 0) if spec.backend == "dali-gpu" else CPU
    with closing(open_loader(spec, "train", seed=seed, device=device)) as loader:
        return torch.cat([batch.inputs.cpu() for batch in loader])


@dali
@pytest.mark.parametrize("case", TRAINS)
def test_backends_agree_to_one_step(make_clip_spec: MakeSpec, case: str, backend: str) -> None:
    one, other = (
        train_images(make_clip_spec(TRAINS[case], backend=name)) for name in ("soundfile", backend)
    )
    difference = (one.int() - other.int()).abs()
    assert one.shape == (24, 32, 51, 1)
    assert one.float().std() > 10
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= MOST_DIFFERING


@pytest.mark.parametrize(
    "audio",
    [
        {"sample_rate": 22_050, "window_ms": 24.99},
        {"sample_rate": 11_025, "window_ms": 23.0, "hop_ms": 9.0, "low_hz": 90.0, "mels": 20},
        {"sample_rate": 8_000, "floor_db": -60.0, "high_hz": 3_000.0, "mels": 16},
    ],
)
def test_backends_agree_on_any_spectrogram(
    make_clip_spec: MakeSpec, files: list[bytes], audio: dict[str, float]
) -> None:
    rng = np.random.default_rng(0)
    others = [wav(0.2 * rng.standard_normal(n), 44_100) for n in (1, 2, 50, 132_300)]
    one, other = (
        preprocess_bytes(make_clip_spec(backend=name, **audio), [*files, *others])
        for name in ("soundfile", "dali-cpu")
    )
    difference = np.abs(one.astype(int) - other.astype(int))
    assert one.shape == other.shape
    assert difference.max() <= 1
    assert (difference > 0).mean() <= MOST_DIFFERING


@pytest.mark.parametrize("backend", ["soundfile", "dali-cpu"])
def test_the_same_seed_makes_the_same_batches(make_clip_spec: MakeSpec, backend: str) -> None:
    spec = make_clip_spec(TRAINS["everything"], backend=backend)
    first = train_images(spec)
    assert torch.equal(train_images(spec), first)
    assert not torch.equal(train_images(spec, seed=4), first)


@pytest.mark.parametrize("backend", ["soundfile", "dali-cpu"])
def test_a_loader_resumes_in_mid_epoch(make_clip_spec: MakeSpec, backend: str) -> None:
    spec = make_clip_spec(TRAINS["everything"], backend=backend)
    loader, again = open_loader(spec, "train"), open_loader(spec, "train")
    with closing(loader), closing(again):
        batches = iter(loader)
        next(batches)
        again.load_state_dict(loader.state_dict())
        for expected, found in zip(batches, again, strict=True):
            assert torch.equal(expected.inputs, found.inputs)


def test_the_served_graph_gives_the_loader_s_spectrograms(
    make_clip_spec: MakeSpec, files: list[bytes], tmp_path: Path
) -> None:
    spec = make_clip_spec(TRAINS["everything"], backend="dali-cpu")
    plan = eval_plan(TransformSpec.load(spec.transforms), height=32, width=51, channels=1)
    write_serving_graph(plan, tmp_path / "graph.dali", threads=1)
    pipeline = Pipeline.deserialize(filename=str(tmp_path / "graph.dali"), device_id=None)
    pipeline.build()
    # A server's batch is padded with zeros to its longest file; decoders must not mind.
    longest = max(map(len, files))
    padded = [np.frombuffer(file.ljust(longest, b"\0"), np.uint8) for file in files]
    (images,) = pipeline.run(encoded=padded)
    assert np.array_equal(images.as_array(), preprocess_bytes(spec, files))


@pytest.mark.parametrize("backend", ["soundfile", "dali-cpu"])
def test_a_damaged_clip_is_named_and_left_out(
    make_clip_spec: MakeSpec, files: list[bytes], tmp_path: Path, backend: str
) -> None:
    for i, file in enumerate(files[:4]):
        (tmp_path / f"{i}.wav").write_bytes(b"RIFFnonsense" if i == 2 else file)
    manifest = tmp_path / "four.jsonl"
    lines = [json.dumps({"file": f"{i}.wav", "label": 0}) for i in range(4)]
    manifest.write_text("\n".join(lines) + "\n")
    spec = make_clip_spec(backend=backend, manifest=manifest, num_samples=4, batch_size=4)
    told: list[str] = []
    loader = open_loader(spec, "eval", on_bad_file=lambda name, reason: told.append(name))
    with closing(loader):
        (batch,) = list(loader)
    assert batch.index.tolist() == [0, 1, 3]
    assert [Path(name).name for name in told] == ["2.wav"]
    with (
        closing(open_loader(spec, "eval", on_error="fail")) as strict,
        pytest.raises(DataError, match=r"2\.wav: the clip cannot be decoded"),
    ):
        list(strict)


def test_backends_of_images_do_not_take_clips(make_clip_spec: MakeSpec) -> None:
    with pytest.raises(BackendUnavailable, match="'torchvision' is no backend.*'soundfile'"):
        open_loader(make_clip_spec(backend="torchvision"), "eval")
