"""What every loader promises, whatever the backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts import DataSpec
from pipeline.device import CPU, Device, cuda_device_count
from pipeline.errors import BackendUnavailable, DataError
from stages.augment.loader import Batch, Loader, open_loader, preprocess_bytes

MakeSpec = Callable[..., DataSpec]

RANDOM = ["random_resized_crop", "flip", {"rotate": {"degrees": 20}},
          {"color_jitter": {"brightness": 0.3, "hue": 30}}, "erase", "mixup"]  # fmt: skip
EVAL = [{"resize": {"shorter": 36}}, "center_crop"]
CPU_BACKENDS = ["array", "torchvision", "dali-cpu"]

needs_gpu = pytest.mark.skipif(not cuda_device_count(), reason="no CUDA device")
backends = pytest.mark.parametrize(
    "backend", [*CPU_BACKENDS, pytest.param("dali-gpu", marks=[pytest.mark.gpu, needs_gpu])]
)


def device_of(backend: str) -> Device:
    return Device("cuda", 0) if backend == "dali-gpu" else CPU


def open_train(spec: DataSpec, seed: int = 7) -> Loader:
    return open_loader(spec, "train", seed=seed, device=device_of(spec.backend))


def same(a: Batch, b: Batch) -> bool:
    mixes = (a.mix is None) == (b.mix is None)
    if a.mix is not None and b.mix is not None:
        mixes = torch.equal(a.mix.partner, b.mix.partner) and torch.equal(
            a.mix.weight, b.mix.weight
        )
    return (
        mixes
        and torch.equal(a.index, b.index)
        and torch.equal(a.targets, b.targets)
        and torch.equal(a.inputs, b.inputs)
    )


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


@backends
def test_batches_are_uint8_nhwc_with_labels_and_positions(
    make_spec: MakeSpec, backend: str
) -> None:
    loader = open_train(make_spec(RANDOM, EVAL, backend=backend, size=(24, 40)))
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    for batch in batches:
        assert batch.inputs.shape == (4, 24, 40, 3)
        assert batch.inputs.dtype == torch.uint8
        assert batch.inputs.is_contiguous()
        assert torch.equal(batch.targets, batch.index % 5)
    loader.close()


@backends
def test_same_seed_gives_the_same_epochs_and_another_seed_does_not(
    make_spec: MakeSpec, backend: str
) -> None:
    spec = make_spec(RANDOM, backend=backend)
    one, two, other = open_train(spec), open_train(spec), open_train(spec, seed=8)
    first = list(one)
    assert equal(first, list(two))
    assert not equal(first, list(other))
    second = list(one)
    assert equal(second, list(two))
    assert not equal(first, second)


@backends
@pytest.mark.parametrize("consumed", [0, 1, 4, 5, 7])
def test_resuming_anywhere_gives_the_batches_that_followed(
    make_spec: MakeSpec, backend: str, consumed: int
) -> None:
    spec = make_spec(RANDOM, backend=backend)
    loader = open_train(spec)
    stream: list[Batch] = []
    state = loader.state_dict()
    for _ in range(2):
        for batch in loader:
            stream.append(batch)
            if len(stream) == consumed:
                state = json.loads(json.dumps(loader.state_dict()))
    resumed = open_train(spec)
    resumed.load_state_dict(state)
    follow = list(resumed)
    if consumed < 5:
        follow += list(resumed)
    assert equal(follow, stream[consumed:])


@backends
def test_leaving_an_epoch_early_goes_on_with_the_next_one(
    make_spec: MakeSpec, backend: str
) -> None:
    spec = make_spec(RANDOM, backend=backend)
    undisturbed = open_train(spec)
    list(undisturbed)
    second = list(undisturbed)
    loader = open_train(spec)
    for _ in loader:
        break
    assert equal(list(loader), second)


@backends
def test_a_loader_that_went_on_can_go_back(make_spec: MakeSpec, backend: str) -> None:
    loader = open_train(make_spec(RANDOM, backend=backend))
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    rest = list(iterator)
    list(loader)
    loader.load_state_dict(state)
    assert equal(list(loader), rest)


def test_an_iterator_that_was_never_used_takes_nothing_away(make_spec: MakeSpec) -> None:
    loader = open_train(make_spec(RANDOM))
    first, second, *_ = list(loader)
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "number": 1})
    iter(loader)
    assert same(next(iter(loader)), second)
    assert not same(first, second)


@backends
def test_eval_keeps_manifest_order_and_the_short_batch(make_spec: MakeSpec, backend: str) -> None:
    spec = make_spec(RANDOM, EVAL, backend=backend)
    loader = open_loader(spec, "eval", device=device_of(backend))
    batches = list(loader)
    assert torch.cat([b.index for b in batches]).tolist() == list(range(22))
    assert [len(b.targets) for b in batches] == [4, 4, 4, 4, 4, 2]
    assert loader.num_samples == 22
    assert equal(batches, list(loader))


@backends
def test_automatic_augmentation_can_be_resumed_too(make_spec: MakeSpec, backend: str) -> None:
    spec = make_spec(["trivial_augment"], backend=backend, batch_size=8)
    loader = open_train(spec)
    first, second = list(loader)
    resumed = open_train(spec)
    resumed.load_state_dict({**loader.state_dict(), "epoch": 0, "number": 1})
    assert same(next(iter(resumed)), second)
    plain = list(open_train(make_spec([], backend=backend, batch_size=8)))
    assert torch.equal(plain[0].index, first.index)
    assert not torch.equal(plain[0].inputs, first.inputs)


@pytest.mark.parametrize("backend", ["torchvision", "dali-cpu"])
def test_the_number_of_threads_changes_nothing(
    make_spec: MakeSpec, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(RANDOM, backend=backend)
    streams = []
    for cores in (1, 4):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        loader = open_train(spec)
        streams.append(list(loader))
        loader.close()
    assert equal(*streams)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_reader_gives_what_it_holds(make_spec: MakeSpec, backend: str, channels: int) -> None:
    def pixels(reader: str) -> torch.Tensor:
        spec = make_spec(eval=EVAL, reader=reader, backend=backend, channels=channels)
        batches = list(open_loader(spec, "eval"))
        assert all(torch.equal(b.targets, b.index % 5) for b in batches)
        return torch.cat([b.inputs for b in batches])

    assert torch.equal(pixels("folder"), pixels("webdataset"))
    assert pixels("array").shape == (45, 32, 32, channels)


def test_bytes_become_the_pixels_of_the_eval_loader(make_spec: MakeSpec, photos: Path) -> None:
    files = [json.loads(line)["file"] for line in photos.read_text().splitlines()]
    encoded = [(photos.parent / file).read_bytes() for file in files]
    for backend in CPU_BACKENDS:
        spec = make_spec(RANDOM, EVAL, backend=backend)
        batches = list(open_loader(spec, "eval"))
        assert np.array_equal(
            preprocess_bytes(spec, encoded), torch.cat([b.inputs for b in batches]).numpy()
        )
        assert preprocess_bytes(spec, []).shape == (0, 32, 32, 3)
        with pytest.raises(DataError, match="image 1: the image cannot be decoded"):
            preprocess_bytes(spec, [encoded[0], b"\xff\xd8\xff no image"])


def test_a_state_of_another_loader_is_refused(make_spec: MakeSpec) -> None:
    spec = make_spec()
    state = open_train(spec, seed=1).state_dict()
    with pytest.raises(DataError, match="loader state: seed is 1, and this loader has 2"):
        open_train(spec, seed=2).load_state_dict(state)


def test_a_split_smaller_than_a_batch_is_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(DataError, match="22 samples make no batch of 64"):
        open_loader(make_spec(batch_size=64), "train")


def test_an_unknown_backend_is_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(BackendUnavailable, match="Did you mean 'dali-cpu'"):
        open_loader(make_spec(), "train", backend="dali-cpi")
