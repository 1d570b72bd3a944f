"""Manifests of a training job: in form, free of contradictions, and each seeded fault is found."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.config import load_config
from pipeline.dns import dns_label
from pipeline.errors import ConfigError
from stages.train.kubernetes.__main__ import main
from stages.train.kubernetes.job import first_pod, jobset_objects, trainjob_objects
from stages.train.kubernetes.lint import lint
from stages.train.kubernetes.schema import schema_problems
from stages.train.kubernetes.write import write_job
from stages.train.kubernetes_config import ClusterConfig
from stages.train.parallel_config import LaunchConfig

CLUSTER = {"image": "registry.example/dlpipe:1.0", "claim": "shared", "nodes": 2, "gpus": 4}
LAUNCH = LaunchConfig(processes=4, kubernetes=ClusterConfig.model_validate(CLUSTER))
BUILDERS = {"trainjob": trainjob_objects, "jobset": jobset_objects}
CONFIG = """
name: Digits_Run
stages:
  - augment: {dataset: digits, batch_size: 64}
  - train: {model: resnet18, epochs: 2, launch: {processes: 4, KUBERNETES}}
"""


def build(kind: str, cluster: ClusterConfig | None = None) -> list[dict]:
    objects = BUILDERS[kind]("digits", {"name": "digits"}, LAUNCH, cluster or LAUNCH.kubernetes)
    return copy.deepcopy([dict(o) for o in objects])


def problems(objects: list[dict]) -> list[str]:
    return [*lint(objects), *schema_problems(objects)]


def job(objects: list[dict]) -> dict:
    spec = objects[1]["spec"]
    jobset = spec["template"]["spec"] if objects[1]["kind"] == "TrainingRuntime" else spec
    return jobset["replicatedJobs"][0]["template"]["spec"]


def jobset(objects: list[dict]) -> dict:
    spec = objects[1]["spec"]
    return spec["template"]["spec"] if objects[1]["kind"] == "TrainingRuntime" else spec


def container(objects: list[dict]) -> dict:
    return job(objects)["template"]["spec"]["containers"][0]


def argument(objects: list[dict], flag: str, value: str) -> None:
    args = container(objects)["args"]
    number = next(i for i, word in enumerate(args) if word.startswith(f"--{flag}="))
    args[number] = f"--{flag}={value}"


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("changes", [{}, {"gpus": 0, "nodes": 1}, {"max_hours": 1.5}])
def test_what_is_written_has_no_fault(kind, changes):
    assert problems(build(kind, ClusterConfig.model_validate({**CLUSTER, **changes}))) == []


FAULTS: dict[str, tuple[Callable[[list[dict]], object], str]] = {
    "an unknown key": (lambda o: jobset(o).update(sucessPolicy={}), "sucessPolicy"),
    "a wrong type": (lambda o: jobset(o)["failurePolicy"].update(maxRestarts="3"), "maxRestarts"),
    "a dead version": (lambda o: o[1].update(apiVersion="jobset.x-k8s.io/v1"), "no such kind"),
    "an unknown key of the pod": (lambda o: container(o).update(imagee="x"), "imagee"),
    "no name": (lambda o: o[1]["metadata"].pop("name"), "'name' is a required property"),
    "too many nodes for torchrun": (lambda o: argument(o, "nnodes", "3"), "there are 2 pods"),
    "the wrong meeting point": (
        lambda o: argument(o, "rdzv-endpoint", "digits-node-0-1.digits:29400"), "not the first pod",
    ),
    "a port nobody has": (
        lambda o: argument(o, "rdzv-endpoint", f"{first_pod('digits')}:1"), "port '1' is not among",
    ),
    "fewer processes than GPUs": (lambda o: argument(o, "nproc-per-node", "2"), "has 4 GPUs"),
    "pods one after the other": (lambda o: job(o).update(parallelism=1), "never meet"),
    "pods without an index": (lambda o: job(o).update(completionMode="NonIndexed"), "not Indexed"),
    "two trainings": (
        lambda o: jobset(o)["replicatedJobs"][0].update(replicas=2), "would train for itself",
    ),
    "no names": (
        lambda o: jobset(o)["network"].update(enableDNSHostnames=False), "cannot be found",
    ),
    "a pod that is always restarted": (
        lambda o: job(o)["template"]["spec"].update(restartPolicy="Always"), "Never or OnFailure",
    ),
    "a mount of nothing": (
        lambda o: container(o)["volumeMounts"].append({"name": "data", "mountPath": "/data"}),
        "no volume 'data'",
    ),
    "a volume nobody mounts": (lambda o: container(o)["volumeMounts"].pop(), "nothing mounts it"),
    "a configuration that is not there": (lambda o: o.pop(0), "is not among the objects"),
    "a path on no volume": (lambda o: container(o)["args"].append("/data/x"), "is on no volume"),
    "no quantity": (
        lambda o: container(o)["resources"]["limits"].update(memory="16 GB"), "is no quantity",
    ),
    "a request above its limit": (
        lambda o: container(o)["resources"]["requests"].update(memory="17Gi"), "above its limit",
    ),
    "shared memory above memory": (
        lambda o: job(o)["template"]["spec"]["volumes"][2]["emptyDir"].update(sizeLimit="20Gi"),
        "larger than the container's memory",
    ),
    "twice the same": (lambda o: o.append(o[0]), "stands there 2 times"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_found_and_told(kind, fault):
    seed, told = FAULTS[fault]
    objects = build(kind)
    seed(objects)
    assert any(told in problem for problem in problems(objects)), problems(objects)


def test_a_trainjob_that_disagrees_with_its_runtime_is_found():
    objects = build("trainjob")
    objects[2]["spec"]["trainer"].update(numNodes=3, numProcPerNode=1)
    objects[2]["spec"]["runtimeRef"]["name"] = "digits"
    told = " ".join(lint(objects))
    assert "numNodes: 3 is not the runtime's" in told
    assert "numProcPerNode: 1 is not what torchrun starts" in told
    objects[2]["spec"]["runtimeRef"]["name"] = "other"
    assert any("TrainingRuntime/other is not among the objects" in p for p in lint(objects))


@pytest.mark.parametrize("name", ["Digits_Run", "9lives", "ümlaut", "a" * 64])
def test_every_run_has_a_name_that_kubernetes_takes(name):
    cluster = ClusterConfig.model_validate(CLUSTER)
    assert (
        problems(
            [dict(o) for o in jobset_objects(dns_label(name, prefix="run"), {}, LAUNCH, cluster)]
        )
        == []
    )


def write(folder: Path, kubernetes: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace(", KUBERNETES", kubernetes))
    return path


CLUSTER_YAML = ', kubernetes: {image: "registry.example/dlpipe:1.0", claim: shared, nodes: 2}'


def test_the_command_writes_both_kinds_with_the_configuration_of_the_run(tmp_path, capsys):
    output = tmp_path / "out"
    path = write(tmp_path, CLUSTER_YAML)
    assert main([str(path), "stages.train.epochs=7", "--output", str(output)]) == 0
    files = capsys.readouterr().out.split()
    assert sorted(Path(file).relative_to(output).as_posix() for file in files) == [
        "jobset/configmap.yaml", "jobset/jobset.yaml",
        "trainjob/configmap.yaml", "trainjob/trainingruntime.yaml", "trainjob/trainjob.yaml",
    ]  # fmt: skip
    held = yaml.safe_load((output / "jobset" / "configmap.yaml").read_text())["data"]["config.yaml"]
    assert "epochs: 7" in held
    again = tmp_path / "held.yaml"
    again.write_text(held)
    assert load_config(again).settings.name == "Digits_Run"


def test_without_a_cluster_the_error_says_what_to_add(tmp_path):
    chain = load_config(write(tmp_path, ""))
    with pytest.raises(ConfigError, match="launch: {kubernetes: {image: ..., claim: ...}}"):
        write_job(chain, tmp_path / "out")


def test_contradictions_are_told_before_anything_is_written(tmp_path, capsys):
    path = write(tmp_path, CLUSTER_YAML.replace("nodes: 2", "gpus: 2"))
    assert main([str(path), "--output", str(tmp_path / "out")]) == 2
    assert "and a pod has 2 GPUs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("image", ["dlpipe", "dlpipe:latest", "registry:5000/dlpipe"])
def test_an_image_has_to_name_one_build(image):
    with pytest.raises(ValidationError, match="names no fixed build"):
        ClusterConfig(image=image, claim="shared")


def test_the_command_is_light():
    code = "import sys, stages.train.kubernetes.__main__; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "False", ran.stderr
