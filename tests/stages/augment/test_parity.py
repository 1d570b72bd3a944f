"""One spec, the same pixels: every operation on every backend, against the torchvision backend.

The random numbers of a batch are drawn once for all backends, so random operations are compared
pixel by pixel as well. Only RandAugment and its like, which each vendor defines for itself, are
compared by statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torchvision.transforms.v2 import functional as vision

from pipeline.artifacts import DataSpec
from pipeline.device import CPU, Device, cuda_device_count
from stages.augment.images import decode_pil
from stages.augment.loader import open_loader

MakeSpec = Callable[..., DataSpec]


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences of pixel values, of 255."""

    max: int
    """Away from the rim of the target."""
    rim: int
    """On the outermost pixels, where libraries extend an image differently when they shrink it."""
    mean: float


CUT = Tolerance(max=2, rim=2, mean=0.6)
"""Nothing is interpolated: what is left is how decoders round."""
RESIZED = Tolerance(max=3, rim=9, mean=0.6)
"""DALI repeats the border where Pillow and torch give the pixels inside more weight."""
WARPED = Tolerance(max=7, rim=9, mean=0.6)
"""The rim of what was shrunk first may come to lie anywhere."""
STRONGER = Tolerance(max=5, rim=14, mean=0.8)
"""Brightness and contrast above one enlarge the differences too."""

CASES: dict[str, tuple[list[object], Tolerance]] = {
    "decode": ([{"center_crop": {}}], CUT),
    "stretch": ([], RESIZED),
    "resize": (["resize"], RESIZED),
    "resize, center_crop": ([{"resize": {"shorter": 40}}, "center_crop"], RESIZED),
    "center_crop, enlarging": ([{"center_crop": {"size": 70}}], RESIZED),
    "random_resized_crop": (["random_resized_crop"], RESIZED),
    "flip horizontally": ([{"flip": {"horizontal": 1}}], RESIZED),
    "flip vertically": ([{"flip": {"horizontal": 0, "vertical": 1}}], RESIZED),
    "random flip": (["center_crop", {"flip": {"vertical": 0.5}}], CUT),
    "rotate": ([{"rotate": {"degrees": [30, 30]}}], WARPED),
    "rotate, edge": ([{"rotate": {"degrees": [30, 30], "fill": "edge"}}], WARPED),
    "affine": ([{"affine": {"degrees": [9, 9], "scale": [0.8, 0.8], "shear": [8, 8]}}], WARPED),
    "crop, flip, rotate": (["random_resized_crop", "flip", "rotate"], WARPED),
    "random affine": (
        [{"affine": {"degrees": 20, "scale": 0.3, "shear": 10, "translate": [0.2, 0.1]}}], WARPED
    ),
    "gaussian_blur": (["center_crop", {"gaussian_blur": {"sigma": [1.3, 1.3]}}], CUT),
    "random blur": (["center_crop", {"gaussian_blur": {"p": 0.5}}], CUT),
    "brightness": ([{"color_jitter": {"brightness": [1.3, 1.3]}}], STRONGER),
    "contrast": ([{"color_jitter": {"contrast": [0.6, 0.6]}}], RESIZED),
    "saturation": (["center_crop", {"color_jitter": {"saturation": [0.4, 0.4]}}], CUT),
    "hue": (["center_crop", {"color_jitter": {"hue": [40, 40]}}], STRONGER),
    "random colour": (
        ["center_crop", {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "hue": 20}}], STRONGER
    ),
    "erase": (["center_crop", {"erase": {"p": 1}}], CUT),
    "mixup": (["center_crop", "mixup"], CUT),
    "cutmix": (["center_crop", "cutmix"], CUT),
    "everything": (
        ["random_resized_crop", "flip", "rotate", {"color_jitter": {"saturation": 0.5}},
         "gaussian_blur", "erase", "mixup"],
        WARPED,
    ),
}  # fmt: skip

needs_gpu = pytest.mark.skipif(not cuda_device_count(), reason="no CUDA device")
others = pytest.mark.parametrize(
    "backend",
    ["array", "dali-cpu", pytest.param("dali-gpu", marks=[pytest.mark.gpu, needs_gpu])],
)


def train_images(spec: DataSpec) -> torch.Tensor:
    device = Device("cuda", 0) if spec.backend == "dali-gpu" else CPU
    loader = open_loader(spec, "train", seed=3, device=device)
    images = torch.cat([batch.inputs.cpu() for batch in loader])
    loader.close()
    return images


def difference(a: torch.Tensor, b: torch.Tensor) -> tuple[int, int, float]:
    """Return the largest difference inside and on the rim, and the mean one."""
    delta = (a.int() - b.int()).abs()
    inside = int(delta[:, 1:-1, 1:-1].max())
    return inside, int(delta.max()), float(delta.float().mean())


@others
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("case", CASES)
def test_backends_agree(make_spec: MakeSpec, case: str, channels: int, backend: str) -> None:
    operations, allowed = CASES[case]
    whole = [{"decode": {"scaled": False}}, *operations]

    def images(name: str) -> torch.Tensor:
        return train_images(
            make_spec(whole, backend=name, size=(33, 38), channels=channels, batch_size=11)
        )

    inside, anywhere, mean = difference(images(backend), images("torchvision"))
    assert inside <= allowed.max
    assert anywhere <= allowed.rim
    assert mean <= allowed.mean


@others
@pytest.mark.parametrize("operation", ["rand_augment", "trivial_augment", "auto_augment"])
def test_automatic_augmentation_changes_images_about_as_much_everywhere(
    make_spec: MakeSpec, operation: str, backend: str
) -> None:
    def change(name: str) -> float:
        changed, plain = (
            train_images(make_spec(train, backend=name, batch_size=22))
            for train in (["center_crop", operation], ["center_crop"])
        )
        return float((changed.int() - plain.int()).abs().float().mean())

    mine, reference = change(backend), change("torchvision")
    assert mine > 3
    assert 0.4 < mine / reference < 2.5


def test_large_photos_decoded_at_a_reduced_scale_look_the_same(
    make_spec: MakeSpec, jpeg: Callable[[int, int], bytes], tmp_path: Path
) -> None:
    (tmp_path / "large.jpg").write_bytes(jpeg(420, 560))
    manifest = tmp_path / "large.jsonl"
    manifest.write_text(json.dumps({"file": "large.jpg", "label": 0}) + "\n")

    def image(scaled: bool, train: list[object]) -> torch.Tensor:
        operations = [{"decode": {"scaled": scaled}}, *train]
        return train_images(
            make_spec(operations, manifest=manifest, num_samples=1, batch_size=1, size=(48, 64))
        )

    for train in ([], ["random_resized_crop", "flip"], [{"rotate": {"degrees": [10, 10]}}]):
        _, _, mean = difference(image(True, train), image(False, train))
        assert 0 < mean < 2.5


def test_resizing_is_what_torchvision_does(make_spec: MakeSpec, photos: Path) -> None:
    names = [json.loads(line)["file"] for line in photos.read_text().splitlines()]
    for backend in ("torchvision", "array"):
        spec = make_spec(eval=["resize"], backend=backend, size=(33, 38), batch_size=len(names))
        (batch,) = open_loader(spec, "eval")
        for name, image in zip(names, batch.inputs, strict=True):
            source = torch.from_numpy(decode_pil((photos.parent / name).read_bytes(), 3))
            expected = vision.resize(source.permute(2, 0, 1), [33, 38], antialias=True)
            assert (image.int() - expected.permute(1, 2, 0).int()).abs().max() <= 1


@pytest.mark.parametrize("degrees", [90.0, -90.0, 180.0])
def test_right_angles_turn_the_way_torchvision_turns(
    make_spec: MakeSpec, tiny: Path, degrees: float
) -> None:
    spec = make_spec(
        eval=[{"rotate": {"degrees": [degrees, degrees]}}],
        reader="array",
        backend="array",
        size=(28, 28),
        channels=1,
    )
    batch = next(iter(open_loader(spec, "eval")))
    source = torch.from_numpy(np.load(tiny.parent / "x.npy")[:4])
    expected = torch.rot90(source, round(degrees / 90), (1, 2))
    assert torch.equal(batch.inputs[..., 0], expected)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("backend", ["array", "torchvision", "dali-cpu"])
def test_photos_are_shown_upright(
    make_spec: MakeSpec, tmp_path: Path, backend: str, orientation: int
) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = 250  # the first quarter of what lies in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    manifest = tmp_path / "turned.jsonl"
    manifest.write_text(json.dumps({"file": "turned.jpg", "label": 0}) + "\n")
    spec = make_spec(
        eval=[{"resize": {"shorter": 40}}, "center_crop"], manifest=manifest, num_samples=1,
        backend=backend, size=(40, 40), batch_size=1,
    )  # fmt: skip
    (batch,) = open_loader(spec, "eval")
    corners = batch.inputs[0, [2, 2, -3, -3], [2, -3, 2, -3], 0] > 128
    bright = {1: 0, 3: 3, 6: 1, 8: 2}[orientation]
    assert corners.nonzero().flatten().tolist() == [bright]


def test_one_model_is_as_accurate_whichever_backend_feeds_it(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    digits = load_digits()
    lines = []
    for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"file": f"{i}.png", "label": int(label)}))
    for split, part in (("train", lines[:1200]), ("eval", lines[1200:])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(part) + "\n")

    def read(split: str, backend: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        spec = make_spec(
            eval=[{"resize": {"shorter": 18}}, {"center_crop": {"size": 16}}], size=(16, 16),
            channels=1, backend=backend, batch_size=128, manifest=tmp_path / f"{split}.jsonl",
        )  # fmt: skip
        batches = list(open_loader(spec, "eval"))
        images = torch.cat([b.inputs for b in batches]).flatten(1).double() / 255
        return images.numpy(), torch.cat([b.targets for b in batches]).numpy()

    model = LogisticRegression(max_iter=200).fit(*read("train", "torchvision"))
    accuracy = {
        backend: model.score(*read("eval", backend))
        for backend in ("torchvision", "array", "dali-cpu")
    }
    assert min(accuracy.values()) > 0.9
    assert max(accuracy.values()) - min(accuracy.values()) <= 0.005
