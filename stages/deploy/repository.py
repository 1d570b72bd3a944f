"""The model repository: what Triton serves, as files.

repository/
  classifier/              config.pbtxt  labels.txt  canary.npz  1/{model.onnx, model.py}
  classifier_preprocess/   config.pbtxt  warmup/encoded          1/{model.dali, model.py}
  classifier_postprocess/  config.pbtxt  labels.txt              1/model.py
  classifier_pipeline/     config.pbtxt                          1/

For texts the preprocess model holds ``tokenizer.json`` instead of a graph, and no warm-up file.
Beside a graph with operators of our own stands their library, ``operators.so``.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from pipeline.graph_forms import OPERATORS_FILE
from stages.deploy import model_configs
from stages.deploy.canary import CANARY_FILE, Canary
from stages.deploy.model_configs import LABELS_FILE, WARMUP_FILE
from stages.deploy.pbtxt import CONFIG_FILE, render
from stages.deploy.plan import ServingPlan
from stages.deploy.publish import published

MODEL_FILES = Path(__file__).parent / "models"


def write_repository(
    target: Path, plan: ServingPlan, canary: Canary | None, encoded: bytes | None
) -> None:
    """Write and publish the repository of a plan.

    Args:
        target: the repository's folder; replaced whole, in one step.
        plan: what is to be served.
        canary: samples with known answers, kept with the model so that any server can be checked.
        encoded: one encoded image to warm the preprocess model with, if there is one.
    """
    with published(target) as folder:
        _write_tensor_model(folder, plan, canary)
        if plan.preprocess is not None:
            _write_pipeline(folder, plan, plan.preprocess, encoded)


def _write_tensor_model(repository: Path, plan: ServingPlan, canary: Canary | None) -> None:
    version_dir = _add_model(repository, model_configs.tensor_model(plan), plan)
    (version_dir.parent / LABELS_FILE).write_text(labels_text(plan.classes), encoding="utf-8")
    if canary is not None:
        canary.save(version_dir.parent / CANARY_FILE)
    suffix = "plan" if plan.variant.format == "engine" else "onnx"
    shutil.copyfile(plan.variant.path, version_dir / f"model.{suffix}")
    if plan.variant.operators is not None:
        shutil.copyfile(plan.variant.operators, version_dir / OPERATORS_FILE)
    if plan.runtime == "python":
        shutil.copyfile(MODEL_FILES / "tensor.py", version_dir / "model.py")


def _write_pipeline(
    repository: Path, plan: ServingPlan, preprocess: Path, encoded: bytes | None
) -> None:
    version_dir = _add_model(
        repository, model_configs.preprocess_model(plan, len(encoded or b"")), plan
    )
    shutil.copyfile(preprocess, version_dir / (preprocess.name if plan.tokens else "model.dali"))
    if plan.tokens is not None:
        shutil.copyfile(MODEL_FILES / "tokenize.py", version_dir / "model.py")
    elif encoded:
        warmup_dir = version_dir.parent / "warmup"
        warmup_dir.mkdir()
        (warmup_dir / WARMUP_FILE).write_bytes(encoded)
    if plan.tokens is None and plan.runtime == "python":
        shutil.copyfile(MODEL_FILES / "preprocess.py", version_dir / "model.py")

    version_dir = _add_model(repository, model_configs.postprocess_model(plan), plan)
    (version_dir.parent / LABELS_FILE).write_text(labels_text(plan.classes), encoding="utf-8")
    shutil.copyfile(MODEL_FILES / "postprocess.py", version_dir / "model.py")

    version_dir = _add_model(repository, model_configs.pipeline_model(plan), plan)
    (version_dir / ".keep").touch()  # git and object stores lose empty folders, and Triton wants it


def _add_model(repository: Path, config: ModelConfig, plan: ServingPlan) -> Path:
    """Write a model's configuration and return its version folder."""
    version_dir = repository / str(config.name) / str(plan.version)
    version_dir.mkdir(parents=True)
    (version_dir.parent / CONFIG_FILE).write_text(render(config), encoding="utf-8")
    return version_dir


def label_lines(classes: tuple[str, ...]) -> list[str]:
    """Return the class names as ``labels.txt`` can hold them, without line breaks inside."""
    return [re.sub(r"[\r\n]+", " ", name) for name in classes]


def labels_text(classes: tuple[str, ...]) -> str:
    """Return one class name a line."""
    return "".join(line + "\n" for line in label_lines(classes))
