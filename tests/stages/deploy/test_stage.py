"""The stage as the chain runs it: one real server, every answer compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.device import CPU
from pipeline.errors import DataError
from pipeline.report.blocks import Code, LineChart, Table, load_section
from pipeline.stage import Checks, Fingerprints, Rehearses, Serves
from stages.deploy.config import DeployConfig, LoadConfig, SloConfig, VerifyConfig
from stages.deploy.pbtxt import parse
from stages.deploy.server import Server
from stages.deploy.stage import Deploy

from .conftest import CLASSES, SAMPLES, Chain, Deployed, Recorder


def test_every_sample_is_answered_over_every_protocol_alone_and_in_batches(
    deployed: Deployed,
) -> None:
    checks = [event.fields for event in deployed.recorder.of("served")]
    ways = [(check["model"], check["protocol"], check["batch"]) for check in checks]
    assert ways == [
        ("classifier", "http", 1),
        ("classifier", "http", 4),
        ("classifier", "grpc", 1),
        ("classifier", "grpc", 4),
        ("classifier_pipeline", "http", 1),
        ("classifier_pipeline", "grpc", 1),
    ]
    assert all(check["samples"] == SAMPLES for check in checks)


def test_single_requests_are_bit_equal_to_the_offline_model(deployed: Deployed) -> None:
    for event in deployed.recorder.of("served"):
        if event.fields["batch"] == 1:
            assert event.fields["bit_equal"] == SAMPLES
            assert event.fields["max_difference"] == 0.0


def test_the_accuracy_through_the_server_is_a_hop(deployed: Deployed) -> None:
    pixels, files = deployed.deployment.hops
    assert (pixels.name, pixels.top1, pixels.samples) == ("served", 1.0, SAMPLES)
    assert (files.name, files.top1, files.samples) == ("served from files", 1.0, SAMPLES)


def test_every_gate_says_in_a_sentence_what_was_measured(deployed: Deployed) -> None:
    gates = {gate.name: gate for gate in deployed.deployment.gates}
    assert set(gates) == {"served equals offline", "no errors under load", "manifests valid"}
    assert all(gate.passed for gate in gates.values())
    assert "180 answers" in gates["served equals offline"].message


def test_latency_and_throughput_are_measured_at_each_concurrency(deployed: Deployed) -> None:
    metrics = deployed.deployment.metrics
    for concurrency in (1, 4):
        assert 0 < metrics[f"p50_ms_c{concurrency}"] <= metrics[f"p99_ms_c{concurrency}"]
        assert metrics[f"throughput_c{concurrency}"] > 10


def test_the_artifact_points_at_files_inside_the_stages_folder(deployed: Deployed) -> None:
    deployment, folder = deployed.deployment, deployed.context.dir
    for path in (deployment.repository, *deployment.manifests):
        assert path.is_relative_to(folder)
        assert path.exists()
    assert (deployment.model, deployment.pipeline) == ("classifier", "classifier_pipeline")
    assert deployment.classes == CLASSES


def test_no_file_that_is_kept_names_the_folder_it_was_written_in(deployed: Deployed) -> None:
    folder = str(deployed.context.dir).encode()
    kept = [path for path in deployed.deployment.repository.rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if folder in path.read_bytes()] == []


def test_serving_leaves_the_published_repository_as_it_was(deployed: Deployed) -> None:
    assert list(deployed.deployment.repository.rglob("__pycache__")) == []


def test_the_container_gets_the_same_models_with_native_backends(deployed: Deployed) -> None:
    repository = deployed.context.dir / "repository-container"
    backends = {
        path.parent.name: parse(path.read_text()).backend
        for path in repository.glob("*/config.pbtxt")
    }
    assert backends == {
        "classifier": "onnxruntime",
        "classifier_preprocess": "dali",
        "classifier_postprocess": "python",
        "classifier_pipeline": "",
    }
    for name in ("classifier/1/model.onnx", "classifier_preprocess/1/model.dali"):
        ours = deployed.deployment.repository / name
        assert (repository / name).read_bytes() == ours.read_bytes()


def test_the_report_shows_verification_load_and_how_to_ask(deployed: Deployed) -> None:
    section = load_section(deployed.context.dir)
    assert section is not None
    titles = {getattr(block, "title", "") for block in section.blocks}
    assert {"Service", "Verification through the server", "Load", "Throughput"} <= titles
    assert any(isinstance(block, LineChart) and block.series for block in section.blocks)
    assert any(isinstance(block, Table) and block.rows for block in section.blocks)
    code = {block.title: block for block in section.blocks if isinstance(block, Code)}
    assert code["classifier/config.pbtxt"].folded
    assert parse(code["classifier/config.pbtxt"].text).name == "classifier"


def test_the_python_example_of_the_report_runs(
    deployed: Deployed, chain: Chain, server: Server, tmp_path: Path, monkeypatch, capsys
) -> None:
    section = load_section(deployed.context.dir)
    assert section is not None
    (example,) = (b.text for b in section.blocks if getattr(b, "title", "") == "Ask it from Python")
    (tmp_path / "image.jpg").write_bytes(chain.encoded(1))
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("127.0.0.1:8000", server.endpoints.http), "example", "exec"), {})
    assert "b'bee'" in capsys.readouterr().out


def test_the_stage_keeps_the_contract() -> None:
    stage = Deploy(DeployConfig())
    assert isinstance(stage, Checks)
    assert isinstance(stage, Fingerprints)
    assert isinstance(stage, Rehearses)
    assert isinstance(stage, Serves)
    assert {"numpy", "tritonclient", "backend"} <= set(stage.fingerprint(CPU))


def test_a_rehearsal_serves_two_samples_of_a_model_without_predictions(
    chain: Chain, tmp_path: Path
) -> None:
    recorder = Recorder()
    untrained = chain.with_variant(predictions=None)
    stage = Deploy(DeployConfig(backend="triton-embedded"))
    deployment = stage.rehearse(untrained.context(tmp_path, recorder))
    assert [event.fields["samples"] for event in recorder.of("served")] == [2] * 6
    assert not recorder.of("load")
    assert deployment.manifests == ()
    assert all(gate.passed for gate in deployment.gates)


def test_files_writes_the_repository_and_says_what_had_no_effect(
    chain: Chain, tmp_path: Path
) -> None:
    recorder = Recorder()
    deployment = Deploy(DeployConfig(backend="files")).run(chain.context(tmp_path, recorder))
    assert (deployment.repository / "classifier" / "1" / "model.onnx").exists()
    assert "'verify', 'load' and 'slo' have no effect" in recorder.messages
    assert deployment.hops == ()
    assert [gate.name for gate in deployment.gates] == ["manifests valid"]


def test_without_a_dali_graph_only_the_tensor_model_is_served(chain: Chain, tmp_path: Path) -> None:
    bare = replace(chain, spec=replace(chain.spec, preprocess=None))
    config = DeployConfig(
        backend="triton-embedded",
        model_name="plain",
        verify=VerifyConfig(samples=3, protocols=("grpc",)),
        load=LoadConfig(concurrency=(1,), seconds=0.2, protocol="grpc"),
        slo=SloConfig(p99_ms=1e-6),
        kubernetes=None,
        warmup=False,
    )
    deployment = Deploy(config).run(bare.context(tmp_path))
    assert deployment.pipeline == ""
    assert [path.name for path in deployment.repository.iterdir()] == ["plain"]
    gates = {gate.name: gate for gate in deployment.gates}
    assert gates["served equals offline"].passed
    assert not gates["slo p99"].passed
    assert "may be 1e-06 ms" in gates["slo p99"].message


def test_predictions_of_other_samples_are_found_out(chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, logits=np.zeros((SAMPLES, 3), np.float32), targets=np.full(SAMPLES, 2))
    stage = Deploy(DeployConfig(backend="files"))
    with pytest.raises(DataError, match="belong to other samples"):
        stage.run(chain.with_variant(predictions=path).context(tmp_path))
