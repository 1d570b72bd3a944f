"""A run folder as the runner leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from report_sections import (
    DIGITS,
    augment_section,
    deploy_section,
    export_section,
    train_section,
)

from pipeline.report.blocks import save_section

BEGAN = 1_795_300_000.0


def run_json() -> dict[str, object]:
    stages = [
        ("augment", "ran", 6.4),
        ("train", "ran", 48.2),
        ("export", "ran", 31.7),
        ("deploy", "ran", 14.9),
    ]
    at, listed = BEGAN, []
    for name, status, seconds in stages:
        listed.append(
            {
                "name": name,
                "uses": name,
                "status": status,
                "reason": "the configuration is new",
                "started": at,
                "seconds": seconds,
                "error": "",
            }
        )
        at += seconds + 0.3
    hops = [
        ("train", "fp32", 0.9777),
        ("train", "bf16", 0.9777),
        ("export", "onnx fp32", 0.9777),
        ("export", "onnx fp16", 0.9749),
        ("export", "onnx int8", 0.9721),
        ("deploy", "served", 0.9721),
    ]
    gates = [
        ("train", "target top-1", True, 0.975, 0.97, "", "The target was met in epoch 7."),
        (
            "export",
            "max drop",
            True,
            0.279,
            0.5,
            "points",
            "onnxruntime-int8 loses 0.28 points against fp32.",
        ),
        (
            "export",
            "precision proof",
            True,
            21.0,
            21.0,
            "layers",
            "Every convolution and matrix product runs in INT8.",
        ),
        ("deploy", "p99", True, 15.2, 20.0, "ms", "At 8 clients; the objective is 20 ms."),
        (
            "deploy",
            "served = offline",
            True,
            0.0,
            0.0,
            "samples",
            "No sample is answered differently through the wire.",
        ),
        (
            "chain",
            "accuracy budget",
            True,
            0.557,
            1.0,
            "points",
            "fp32 to served loses 0.56 points.",
        ),
    ]
    return {
        "name": "quickstart",
        "started": BEGAN,
        "finished": at,
        "status": "finished",
        "verdict": "passed",
        "stages": listed,
        "gates": [
            dict(
                zip(
                    ("stage", "name", "passed", "value", "limit", "unit", "message"), g, strict=True
                )
            )
            for g in gates
        ],
        "hops": [{"stage": s, "name": n, "top1": t, "samples": 359} for s, n, t in hops],
        "commands": [
            "dlpipe run configs/quickstart.yaml",
            "dlpipe stage train configs/quickstart.yaml",
        ],
    }


def write_run(folder: Path) -> Path:
    """Write a run folder like a real one."""
    folder.mkdir(parents=True)
    sections = {"train": train_section(), "export": export_section(), "deploy": deploy_section()}
    for name in ("augment", *sections):
        (folder / name).mkdir()
        section = sections.get(name) or augment_section(folder / name)
        save_section(section, folder / name)
        metrics = {
            "artifact": {
                "metrics": {"top1": 0.975, "images_per_s": 3912.4},
                "classes": list(DIGITS),
            }
        }
        (folder / name / "artifact.json").write_text(json.dumps(metrics))
    config = {
        "name": "quickstart",
        "device": "auto",
        "seed": 0,
        "max_drop": 1.0,
        "stages": [
            {"augment": {"dataset": "digits", "size": 32, "batch_size": 128}},
            {
                "train": {
                    "model": "resnet18",
                    "precision": "bf16",
                    "epochs": 8,
                    "target": {"top1": 0.97},
                }
            },
            {"export": {"precisions": ["fp32", "fp16", "int8"], "max_drop": 0.5}},
            {"deploy": {"backend": "auto", "slo": {"p99_ms": 20.0}}},
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {
        "dlpipe": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux-6.1-x86_64",
        "git_commit": "5c9e688",
        "packages": {"torch": "2.14.1", "onnxruntime": "1.31.1", "nvidia-dali-cuda130": "2.4.0"},
        "hardware": {
            "cpu": "AMD EPYC 9R14",
            "cores": 2,
            "features": ["avx512f", "avx512_vnni"],
            "memory_gb": 24.9,
        },
        "device": "cpu",
        "seed": 0,
        "command": "dlpipe run configs/quickstart.yaml",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "run.json").write_text(json.dumps(run_json()))
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "quickstart")
