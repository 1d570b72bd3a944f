"""The main job end to end: digits in, a quantized model on a real Triton server out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]


def test_the_promises_of_the_quickstart_hold(quickstart) -> None:
    top1 = quickstart.top1()
    assert top1["fp32"] >= 0.97
    assert 100 * (top1["fp32"] - top1["onnx int8"]) <= 0.5
    assert top1["served"] == top1["onnx int8"]
    assert quickstart.record["verdict"] == "passed"


def test_engines_for_gpus_were_built_with_proof_of_their_precision(quickstart) -> None:
    record = json.loads((quickstart.path / "export" / "artifact.json").read_text())
    proofs = {v["name"]: v["proof"] for v in record["artifact"]["variants"]}
    assert proofs["tensorrt-rtx-int8"]["int8"] == proofs["tensorrt-rtx-fp16"]["fp16"] > 0


def test_the_report_stands_alone(quickstart) -> None:
    html = (quickstart.path / "report.html").read_text(encoding="utf-8")
    for word in ("Accuracy from training to serving", "Confusion", "onnxruntime-int8", "p99"):
        assert word in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    json.loads((quickstart.path / "report.json").read_text(encoding="utf-8"))


def test_the_second_run_is_served_from_cache(quickstart, dlpipe) -> None:
    done = dlpipe("run", "configs/quickstart.yaml", "--runs-dir", quickstart.path.parent)
    assert done.err.count("cached: nothing it depends on has changed") == 4
    assert set(quickstart.statuses().values()) == {"cached"}


def test_the_plan_tells_what_a_change_would_rerun(quickstart, dlpipe) -> None:
    done = dlpipe(
        "plan", "configs/quickstart.yaml", "stages.export.max_drop=2",
        "--runs-dir", quickstart.path.parent,
    )  # fmt: skip
    assert re.search(r"train\s+cached", done.out)
    assert re.search(r"export\s+run\s+max_drop 0.5 → 2.0", done.out)


def test_a_finished_run_is_served_and_answers_the_example(
    quickstart, served, tmp_path: Path
) -> None:
    with served(quickstart.path) as (http, grpc):
        image = tmp_path / "seven.png"
        Image.open(digit(quickstart.path, 7)).convert("RGB").save(image)
        done = subprocess.run(
            [
                sys.executable, "examples/query_the_server/query.py", str(image),
                "--model", "digits",
                "--http", f"127.0.0.1:{http}", "--grpc", f"127.0.0.1:{grpc}",
            ],
            capture_output=True, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "seven.png: 7 (" in done.stdout
    assert "class by HTTP 7, by gRPC 7" in done.stdout


def digit(run: Path, label: int) -> Path:
    """Return the eval image of a class that the model is surest of."""
    manifest = run / "augment" / "eval.jsonl"
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    with np.load(run / "train" / "predictions.npz") as arrays:
        sureness = np.where(arrays["targets"] == label, arrays["logits"][:, label], -np.inf)
    return manifest.parent / entries[int(sureness.argmax())]["file"]
