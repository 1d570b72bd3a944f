"""Texts end to end: a table in, a quantized model that answers about strings out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from stages.augment.text import packages

ROOT = Path(__file__).parents[1]
SMALL = (
    "stages.augment.batch_size=16", "stages.augment.text.vocabulary=200",
    "stages.augment.text.length=24", "stages.train.epochs=20", "stages.train.eval_every=20",
    "stages.train.target=null",
    "stages.train.schedule.warmup_epochs=0", "stages.train.model_options.width=32",
    "stages.train.optimizer.lr=1e-2", "stages.train.rehearsal=false",
    "stages.export.backend=onnxruntime",
    "stages.export.precisions=[fp32, int8]", "stages.export.calibration.samples=32",
    "stages.export.latency.seconds=0.1", "stages.export.max_drop=100", "max_drop=100",
    "stages.deploy.load.seconds=0.3", "stages.deploy.load.concurrency=[1, 4]",
    "stages.deploy.slo.p99_ms=10000",
)  # fmt: skip
WORDS = {
    "bird": ("wing", "beak", "feather", "nest", "egg"),
    "fish": ("fin", "gill", "scale", "reef", "roe"),
    "tree": ("leaf", "root", "bark", "branch", "seed"),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and what they are about, and two rows that cannot be used."""
    path = tmp_path_factory.mktemp("texts") / "animals.csv"
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "context", "answer"])
        for i in range(150):
            name = list(WORDS)[i % 3]
            words = [*rng.choice(WORDS[name], rng.integers(1, 4)), *rng.choice(["a", "the"], 2)]
            context = ", ".join(rng.permutation(words))
            writer.writerow([f"What is it, {rng.choice(['please', 'then'])}?", context, name])
        writer.writerow(["What is it?", "", "fish"])
        file.write("only one field\n")
    return path


@pytest.fixture(scope="module")
def finished(table: Path, dlpipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    dlpipe(
        "run", "configs/text_fff.yaml",
        f"stages.augment.dataset={{text: {table}, column: [question, context], label: answer}}",
        *SMALL, "--runs-dir", runs,
    )  # fmt: skip
    return runs / "text_fff"


def test_what_is_served_for_strings_is_what_was_measured_offline(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["ran"] * 4
    top1 = {hop["name"]: hop["top1"] for hop in record["hops"]}
    assert top1["fp32"] > 0.8
    gates = json.loads((finished / "deploy" / "artifact.json").read_text())["artifact"]["gates"]
    same = next(gate for gate in gates if gate["name"] == "served equals offline")
    # 30 texts as tokens alone and in batches, and as strings: over HTTP and over gRPC.
    assert same["passed"]
    assert same["message"].startswith(f"{30 * 3 * 2} answers compared")


def test_rows_that_cannot_be_used_are_named_and_the_report_shows_texts(finished: Path) -> None:
    damaged = json.loads((finished / "augment" / "damaged.json").read_text())
    assert [row["problem"] for row in damaged] == [
        "has no text in column 'context'", "has 1 fields, and the header 3",
    ]  # fmt: skip
    html = (finished / "report.html").read_text(encoding="utf-8")
    for word in (
        "Training texts",
        "Texts by class and split",
        "Forms of layers",
        "BYTES",
        "pip install tokenizers",
    ):
        assert word in html


def test_a_plain_json_request_asks_about_several_texts_at_once(finished: Path, served) -> None:
    pairs = [["What is it, then?", "a fin, the reef"], ["What is it, please?", "the bark"]]
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2, 2], "data": pairs}]}
    with served(finished) as (http, _):
        request = urllib.request.Request(
            f"http://127.0.0.1:{http}/v2/models/packages_pipeline/infer",
            data=json.dumps(body).encode(),
        )
        answer = json.loads(urllib.request.urlopen(request, timeout=30).read())
        example = subprocess.run(
            [
                sys.executable, "examples/query_the_server/query.py", "--model", "packages",
                "--http", f"127.0.0.1:{http}", "--text", "What is it, then?", "a fin, the reef",
            ],
            capture_output=True, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["labels"]["shape"][0] == 2
    assert outputs["labels"]["data"][0] == "fish"
    assert example.returncode == 0, example.stderr
    assert example.stdout.startswith("fish (")


@pytest.mark.skipif(bool(packages.why_not()), reason="apt has no package lists here")
def test_package_descriptions_can_be_trained_on(dlpipe, tmp_path: Path) -> None:
    dlpipe(
        "run", "configs/text_fff.yaml", "--fast-dev-run", "--until", "train",
        "--runs-dir", tmp_path,
    )  # fmt: skip
    folder = tmp_path / "text_fff-fast-dev-run"
    record = json.loads((folder / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]][:2] == ["ran"] * 2
    spec = json.loads((folder / "augment" / "artifact.json").read_text())["artifact"]
    assert (spec["kind"], len(spec["classes"]) > 50) == ("text", True)
