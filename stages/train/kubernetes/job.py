"""Job: the objects of a training job, as plain data: for Kubeflow Trainer, or for JobSet alone.

Both run ``torchrun ... -m pipeline run`` in every pod. The pods meet at the first one; when a
process dies, torchrun starts all of them again from the last checkpoint; when a pod dies, JobSet
starts all pods again, and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import yaml

from pipeline.yaml_source import Plain
from stages.train.kubernetes_config import ClusterConfig
from stages.train.parallel_config import LaunchConfig

Node: TypeAlias = "str | int | float | bool | Sequence[Node] | Mapping[str, Node] | None"
Object: TypeAlias = Mapping[str, Node]

CONFIG_FOLDER = "/etc/dlpipe"
CONFIG_FILE = "config.yaml"
NODE = "node"
"""Kubeflow Trainer looks for a job and a container of this name."""
GRACE_S = 120
"""For the checkpoint that follows SIGTERM."""
USER_ID = 1000


def trainjob_objects(
    name: str, settings: Plain, launch: LaunchConfig, cluster: ClusterConfig
) -> list[Object]:
    """Return the objects for Kubeflow Trainer: configuration, runtime and TrainJob.

    Args:
        name: of the run; a valid Kubernetes name.
        settings: the whole configuration of the run.
        launch: how many processes, how often started again.
        cluster: where they run.
    """
    template = _jobset_spec(name, launch, cluster, labels={_ANCESTOR: "trainer"})
    policy: Node = {"numNodes": cluster.nodes, "torch": {}}
    runtime = _object(
        "trainer.kubeflow.org/v1alpha1", "TrainingRuntime", name, cluster,
        spec={"mlPolicy": policy, "template": {"spec": template}},
    )  # fmt: skip
    limit = {} if cluster.max_hours is None else {"activeDeadlineSeconds": _deadline_s(cluster)}
    job = _object(
        "trainer.kubeflow.org/v1alpha1", "TrainJob", name, cluster,
        spec={
            **limit,
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": name,
            },
            "trainer": {"numNodes": cluster.nodes, "numProcPerNode": launch.processes},
        },
    )  # fmt: skip
    return [_config_map(name, settings, cluster), runtime, job]


def jobset_objects(
    name: str, settings: Plain, launch: LaunchConfig, cluster: ClusterConfig
) -> list[Object]:
    """Return the objects for JobSet alone: configuration and JobSet."""
    jobset = _object(
        "jobset.x-k8s.io/v1alpha2", "JobSet", name, cluster,
        spec=_jobset_spec(name, launch, cluster, labels={}),
    )  # fmt: skip
    return [_config_map(name, settings, cluster), jobset]


def first_pod(name: str) -> str:
    """Return the DNS name of the pod where the others meet."""
    return f"{name}-{NODE}-0-0.{name}"


_ANCESTOR = "trainer.kubeflow.org/trainjob-ancestor-step"


def _object(version: str, kind: str, name: str, cluster: ClusterConfig, **rest: Node) -> Object:
    labels: Node = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "dlpipe"}
    metadata: Node = {"name": name, "namespace": cluster.namespace, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _config_map(name: str, settings: Plain, cluster: ClusterConfig) -> Object:
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return _object("v1", "ConfigMap", name, cluster, data={CONFIG_FILE: text})


def _jobset_spec(
    name: str, launch: LaunchConfig, cluster: ClusterConfig, labels: Mapping[str, str]
) -> Object:
    deadline = {} if cluster.max_hours is None else {"activeDeadlineSeconds": _deadline_s(cluster)}
    job: Node = {
        "metadata": {"labels": labels},
        "spec": {
            **deadline,
            "completionMode": "Indexed",
            "completions": cluster.nodes,
            "parallelism": cluster.nodes,
            "backoffLimit": 0,
            "template": {"spec": _pod(name, launch, cluster)},
        },
    }
    return {
        # Each pod is known to the others by its name as soon as it has an address, ready or not.
        "network": {
            "enableDNSHostnames": True, "subdomain": name, "publishNotReadyAddresses": True,
        },
        "successPolicy": {"operator": "All"},
        "failurePolicy": {"maxRestarts": launch.max_restarts},
        "replicatedJobs": [{"name": NODE, "replicas": 1, "template": job}],
    }  # fmt: skip


def _pod(name: str, launch: LaunchConfig, cluster: ClusterConfig) -> Object:
    shared_memory: Node = {"medium": "Memory", "sizeLimit": cluster.shared_memory}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER_ID, "runAsGroup": USER_ID, "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(name, launch, cluster)],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": cluster.claim}},
            {"name": "config", "configMap": {"name": name}},
            {"name": "shm", "emptyDir": shared_memory},
            {"name": "tmp", "emptyDir": {}},
        ],
    }  # fmt: skip


def _container(name: str, launch: LaunchConfig, cluster: ClusterConfig) -> Object:
    amounts: dict[str, Node] = {"memory": cluster.memory}
    if cluster.gpus:
        amounts["nvidia.com/gpu"] = str(cluster.gpus)
    return {
        "name": NODE,
        "image": cluster.image,
        "workingDir": cluster.mount,
        "command": ["torchrun"],
        "args": [
            f"--nnodes={cluster.nodes}",
            f"--nproc-per-node={launch.processes}",
            f"--max-restarts={launch.max_restarts}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={first_pod(name)}:{launch.port}",
            f"--rdzv-id={name}",
            "-m", "pipeline", "run", f"{CONFIG_FOLDER}/{CONFIG_FILE}",
            "--runs-dir", f"{cluster.mount}/runs",
        ],
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
        "ports": [{"name": "meeting", "containerPort": launch.port}],
        "resources": {"requests": {"cpu": cluster.cpu, **amounts}, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "work", "mountPath": cluster.mount},
            {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }  # fmt: skip


def _deadline_s(cluster: ClusterConfig) -> int:
    return round((cluster.max_hours or 0) * 3600)
