from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageFailed
from stages.deploy.kubernetes.lint import lint
from stages.deploy.kubernetes.manifests import build_objects, to_yaml, write_manifests
from stages.deploy.kubernetes.pod import Ports
from stages.deploy.kubernetes.schema import file_problems, schema_problems
from stages.deploy.kubernetes_config import KubernetesConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "gpu": {"resources": {"gpus": 1}},
    "models from an image": {"models": {"kind": "image", "image": "registry/models:1.2"}},
    "models in a folder of a claim": {
        "models": {"kind": "claim", "claim": "m", "path": "digits/3"}
    },
    "fixed count": {"replicas": {"min": 3, "max": 3}},
    "single server": {"replicas": {"min": 1, "max": 1}},
    "everything": {"admin_secret": "triton-admin", "service_monitor": True, "namespace": "vision"},
}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_configuration_yields_objects_without_a_fault(values: dict[str, Any]) -> None:
    config = KubernetesConfig.model_validate(values)
    objects = build_objects(config, name="digits", model="digits_pipeline", p99_ms=20)
    assert lint(objects) == []
    assert schema_problems(objects) == []


@pytest.mark.parametrize("version", ["1.28.0", "1.30.0", "1.34.0"])
def test_older_clusters_take_the_objects_too(version: str) -> None:
    assert schema_problems(build_objects(KubernetesConfig(), name="a", model="a"), version) == []


def test_the_files_hold_the_objects_without_aliases(tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    paths = write_manifests(KubernetesConfig(), name="Digits v2", model="digits", folder=folder)
    assert sorted(folder.iterdir()) == sorted(paths)
    assert file_problems(paths) == []
    *objects, kustomization = [yaml.safe_load(path.read_text()) for path in paths]
    assert objects == [yaml.safe_load(to_yaml(o)) for o in build_objects(
        KubernetesConfig(), name="Digits v2", model="digits")]  # fmt: skip
    assert kustomization["resources"] == [path.name for path in paths[:-1]]
    assert all("&id" not in path.read_text() for path in paths)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        [
            p.read_bytes()
            for p in write_manifests(KubernetesConfig(), name="a", model="a", folder=tmp_path)
        ]
        for _ in range(2)
    )
    assert first == second


def test_contradictory_amounts_are_refused_with_the_place_to_change(tmp_path: Path) -> None:
    config = KubernetesConfig.model_validate(
        {"resources": {"memory": "1Gi", "shared_memory": "1Gi"}}
    )
    with pytest.raises(
        StageFailed, match=r"leaves nothing beside /dev/shm[\s\S]*under 'kubernetes'"
    ):
        write_manifests(config, name="a", model="a", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_autoscaler_targets_a_tenth_of_the_latency_objective() -> None:
    def target(config: KubernetesConfig, p99_ms: float | None) -> str:
        objects: Any = build_objects(config, name="a", model="a", p99_ms=p99_ms)
        (scaler,) = [o for o in objects if o["kind"] == "HorizontalPodAutoscaler"]
        return str(scaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"])

    assert target(KubernetesConfig(), 20) == "2000"
    assert target(KubernetesConfig(queue_time_us=700), 20) == "700"
    assert target(KubernetesConfig(), None) == "5000"


def test_the_server_is_told_the_ports_that_the_pod_declares() -> None:
    objects: Any = build_objects(
        KubernetesConfig(), name="a", model="a b", ports=Ports(http=9000, grpc=9001, metrics=9002)
    )
    server = objects[0]["spec"]["template"]["spec"]["containers"][0]
    assert "--grpc-port=9001" in server["args"]
    assert [port["containerPort"] for port in server["ports"]] == [9000, 9001, 9002]
    assert server["readinessProbe"]["httpGet"]["path"] == "/v2/models/a%20b/ready"


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=90), model=st.text(min_size=1, max_size=30))
def test_any_name_gives_faultless_objects(name: str, model: str) -> None:
    objects = build_objects(KubernetesConfig(), name=name, model=model)
    assert lint(objects) == []
    for o in objects:
        assert yaml.safe_load(to_yaml(o)) == yaml.safe_load(to_yaml(yaml.safe_load(to_yaml(o))))
