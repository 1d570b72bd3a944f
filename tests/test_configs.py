"""Every configuration we ship is valid, and what can run on a CPU is run, at reduced size."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.check import chain_warnings
from pipeline.config import load_config
from pipeline.schema import config_schema
from pipeline.yaml_source import read_yaml

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml")) + sorted((ROOT / "examples").glob("*/*.yaml"))
SMALL = (
    "stages.train.epochs=1", "stages.train.rehearsal=false",
    "stages.train.schedule.warmup_epochs=0",
    "stages.export.backend=onnxruntime", "stages.export.precisions=[fp32, int8]",
    "stages.export.calibration.samples=32", "stages.export.latency.seconds=0.1",
    "stages.export.max_drop=100", "stages.deploy.load.seconds=0.3",
    "stages.deploy.verify.samples=40", "stages.deploy.load.concurrency=[1]",
)  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    chain = load_config(path)
    assert [entry.name for entry in chain.stages][:2] == ["augment", "train"]
    assert not chain_warnings(chain.stages)


def test_a_shipped_configuration_warns_when_only_its_size_is_changed() -> None:
    path, smaller = ROOT / "configs" / "image_folder.yaml", "stages.augment.size=96"
    [warning] = chain_warnings(load_config(path, [smaller]).stages)
    assert warning.path == "stages.augment.eval"
    assert "center_crop keeps 96 of it (the target's size, 38%)" in warning.message
    assert "use resize: {shorter: 110}" in warning.message
    mended = "stages.augment.eval.0.resize.shorter=110"
    assert not chain_warnings(load_config(path, [smaller, mended]).stages)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_fits_the_schema_it_names(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    schema = (path.parent / first.partition("$schema=")[2]).resolve()
    assert schema == ROOT / "configs" / "schema.json"
    jsonschema.validate(read_yaml(path).plain(), json.loads(schema.read_text(encoding="utf-8")))


def test_the_schema_in_the_repository_is_the_current_one() -> None:
    kept = json.loads((ROOT / "configs" / "schema.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(config_schema())), "run `make schema`"


def test_the_schema_refuses_what_the_engine_refuses() -> None:
    document = read_yaml(ROOT / "configs" / "quickstart.yaml").plain()
    document["stages"][1]["train"]["epoch"] = 3
    with pytest.raises(jsonschema.ValidationError, match="epoch"):
        jsonschema.validate(document, config_schema())


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images * 15.9375).astype(np.uint8), data.target.astype(np.uint8)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def test_fashion_mnist_runs_on_files_of_its_form(digits, tmp_path: Path, dlpipe) -> None:
    images, labels = digits
    big = images.repeat(4, axis=1).repeat(4, axis=2)[:, 2:30, 2:30]
    for name, part in (("train", slice(0, 600)), ("t10k", slice(600, 800))):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", big[part])
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels[part])
    dlpipe(
        "run", "configs/fashion_mnist.yaml", f"stages.augment.dataset.idx={tmp_path}",
        "stages.augment.batch_size=64", "stages.train.target=null", *SMALL, "--runs-dir", tmp_path,
    )  # fmt: skip
    record = json.loads((tmp_path / "fashion_mnist" / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["ran"] * 4


def test_an_image_folder_runs_with_a_damaged_file_named(digits, tmp_path: Path, dlpipe) -> None:
    images, labels = digits
    root = tmp_path / "images"
    for i, (image, label) in enumerate(zip(images[:240], labels[:240], strict=True)):
        folder = root / f"digit {label % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        rgb = np.stack([image] * 3, axis=-1).repeat(6, axis=0).repeat(6, axis=1)
        Image.fromarray(rgb).save(folder / f"{i}.jpg", quality=92)
    damaged = root / "digit 0" / "broken.jpg"
    damaged.write_bytes((root / "digit 0" / "0.jpg").read_bytes()[:200])
    done = dlpipe(
        "run", "configs/image_folder.yaml", f"stages.augment.dataset.folder={root}",
        "stages.augment.size=32", "stages.augment.eval=[resize]", *SMALL, "--runs-dir", tmp_path,
        check=None,
    )  # fmt: skip
    assert done.code in {0, 3}, done.err
    assert "broken.jpg" in (tmp_path / "image_folder" / "augment" / "damaged.json").read_text()
    record = json.loads((tmp_path / "image_folder" / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["ran"] * 4


def test_fine_tuning_starts_from_the_quickstarts_weights(quickstart, tmp_path, dlpipe) -> None:
    weights = quickstart.path / "train" / "model.safetensors"
    dlpipe(
        "run", "configs/finetune.yaml", f"stages.train.pretrained={weights}",
        "stages.train.target=null", "stages.train.unfreeze_after=null", *SMALL,
        "--until", "train", "--runs-dir", tmp_path,
    )  # fmt: skip
    record = json.loads((tmp_path / "finetune" / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]][:2] == ["ran", "ran"]
    assert record["hops"][0]["top1"] > 0.9


def test_a_gpu_recipe_says_on_this_machine_what_it_lacks(dlpipe) -> None:
    from pipeline.device import cuda_device_count

    if cuda_device_count():
        pytest.skip("this machine has a GPU")
    done = dlpipe("check", "configs/resnet50_int8_gpu.yaml", check=2)
    assert "device: 'cuda' is not there" in done.err
