"""Small data sets on disk, and a `DataSpec` over them with any transform."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import DataSpec, Split
from stages.augment.spec import TransformSpec

NUM_CLASSES = 5
NUM_PHOTOS = 22
NUM_TINY = 45

MakeSpec = Callable[..., DataSpec]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def natural_image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Draw an image whose spectrum falls with frequency, as that of photos does."""
    spectrum = np.fft.rfft2(rng.standard_normal((3, height, width)))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    pixels = np.fft.irfft2(
        spectrum / np.hypot(y, x).clip(1 / max(height, width)), s=(height, width)
    )
    pixels = (pixels - pixels.mean()) / pixels.std() * 45 + 128
    return pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def encode(pixels: NDArray[np.uint8], format: str) -> bytes:
    """Encode (H, W, 3) or (H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=92)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def jpeg() -> Callable[[int, int], bytes]:
    """Return a function from height and width to the bytes of a JPEG."""
    return lambda height, width: encode(
        natural_image(np.random.default_rng([height, width]), height, width), "JPEG"
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder manifest over JPEGs and PNGs of several sizes, colour and gray."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    lines = []
    for i in range(NUM_PHOTOS):
        pixels = natural_image(rng, 48 + 7 * (i % 4), 60 - 9 * (i % 3))
        name, format = (f"{i}.png", "PNG") if i % 4 == 3 else (f"{i}.jpg", "JPEG")
        data = encode(pixels[..., 0] if i % 5 == 4 else pixels, format)
        (folder / name).write_bytes(data)
        lines.append(json.dumps({"file": name, "label": i % NUM_CLASSES}))
    manifest = folder / "all.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture(scope="session")
def shards(photos: Path) -> Path:
    """The photos again, in two tar shards with one sample too many, which is excluded."""
    entries = [json.loads(line) for line in photos.read_text().splitlines()]
    half = len(entries) // 2
    for number, part in enumerate((entries[:half], entries[half:])):
        with tarfile.open(photos.parent / f"s{number}.tar", "w") as tar:
            for entry in part:
                data = (photos.parent / entry["file"]).read_bytes()
                stem, ending = entry["file"].split(".")
                _add(tar, f"{stem}.cls", f"class {entry['label']}".encode())
                _add(tar, f"{stem}.{ending}", data)
            _add(tar, f"extra{number}.jpg", b"not an image")
            _add(tar, f"extra{number}.cls", b"class 0")
    manifest = photos.parent / "shards.json"
    described = {
        "shards": ["s0.tar", "s1.tar"],
        "samples": len(entries),
        "classes": [f"class {label}" for label in range(NUM_CLASSES)],
        "excluded": ["extra0", "extra1"],
    }
    manifest.write_text(json.dumps(described))
    return manifest


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An array manifest over gray 28x28 images."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(2)
    images = np.stack([natural_image(rng, 28, 28)[..., 0] for _ in range(NUM_TINY)])
    np.save(folder / "x.npy", images)
    np.save(folder / "y.npy", np.arange(NUM_TINY) % NUM_CLASSES)
    manifest = folder / "all.json"
    manifest.write_text(json.dumps({"images": "x.npy", "labels": "y.npy"}))
    return manifest


@pytest.fixture
def make_spec(tmp_path: Path, photos: Path, shards: Path, tiny: Path) -> MakeSpec:
    """Build a `DataSpec` whose splits are all one and the same manifest."""
    manifests = {"folder": photos, "webdataset": shards, "array": tiny}
    samples = {"folder": NUM_PHOTOS, "webdataset": NUM_PHOTOS, "array": NUM_TINY}

    def make(
        train: Sequence[object] = (),
        eval: Sequence[object] = (),
        *,
        reader: str = "folder",
        backend: str = "torchvision",
        size: tuple[int, int] = (32, 32),
        channels: int = 3,
        batch_size: int = 4,
        manifest: Path | None = None,
        num_samples: int | None = None,
    ) -> DataSpec:
        transforms = tmp_path / "transforms.json"
        TransformSpec.model_validate({"train": list(train), "eval": list(eval)}).save(transforms)
        split = Split(
            manifest=manifest or manifests[reader], samples=num_samples or samples[reader]
        )
        return DataSpec(
            kind="image",
            name="test",
            backend=backend,
            reader=reader,
            transforms=transforms,
            splits={"train": split, "eval": split, "calibration": split},
            classes=tuple(f"class {label}" for label in range(NUM_CLASSES)),
            height=size[0],
            width=size[1],
            channels=channels,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            batch_size=batch_size,
            digest="test",
        )

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep findings of scans out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
