"""The pod: one Triton server, its probes, its volumes, and how it leaves without loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from stages.deploy.kubernetes.node import Node, Object
from stages.deploy.kubernetes_config import ClaimModels, ImageModels, KubernetesConfig

USER_ID = 1000
"""The unprivileged user of NVIDIA's image."""
REPOSITORY = "/models"
GRACE_MARGIN_S = 15
RESTRICTED = "model-repository,shared-memory,trace,logging"
"""The APIs that change the server or write files; nobody who only wants predictions needs them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The three ports of a Triton server."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def pod_template(
    config: KubernetesConfig, *, labels: Mapping[str, str], model: str, ports: Ports
) -> Object:
    """Return the template of a pod that serves `model`."""
    models = config.models
    copies = [_copy_models(models)] if isinstance(models, ImageModels) else []
    shared_memory: Node = {"medium": "Memory", "sizeLimit": config.resources.shared_memory}
    spec: dict[str, Node] = {
        "automountServiceAccountToken": False,
        # Drain, then finish what is in flight, then a margin: SIGKILL must never come first.
        "terminationGracePeriodSeconds": config.drain_s + config.exit_timeout_s + GRACE_MARGIN_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"initContainers": copies} if copies else {}),
        "containers": [_server(config, model=model, ports=ports)],
        "volumes": [
            _models_volume(models),
            {"name": "shm", "emptyDir": shared_memory},
            {"name": "tmp", "emptyDir": {}},
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
    }  # fmt: skip
    return {"metadata": {"labels": labels}, "spec": spec}


def _server(config: KubernetesConfig, *, model: str, ports: Ports) -> Object:
    # Since server 2.65 a model's readiness notices a dead Python stub; the server's own never does.
    path = f"/v2/models/{quote(model, safe='')}/ready"
    amounts: dict[str, Node] = {"memory": config.resources.memory}
    if config.resources.gpus:
        amounts["nvidia.com/gpu"] = str(config.resources.gpus)
    return {
        "name": "triton",
        "image": config.image,
        "command": ["tritonserver"],
        "args": _arguments(config, ports),
        **({"env": [_admin_key(config.admin_secret)]} if config.admin_secret else {}),
        "ports": [
            {"name": "http", "containerPort": ports.http},
            {"name": "grpc", "containerPort": ports.grpc},
            {"name": "metrics", "containerPort": ports.metrics},
        ],
        "resources": {"requests": {"cpu": config.resources.cpu, **amounts}, "limits": amounts},
        "startupProbe": _probe(path, period_s=5, failures=-(-config.startup_s // 5)),
        "readinessProbe": _probe(path, period_s=2, failures=2),
        "livenessProbe": _probe(path, period_s=10, failures=3),
        # A draining Triton answers gRPC with NOT_FOUND, which no proxy retries: leave them first.
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sleep", str(config.drain_s)]}}},
        "securityContext": _locked_down(),
        "volumeMounts": [
            _models_mount(config.models),
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }  # fmt: skip


def _arguments(config: KubernetesConfig, ports: Ports) -> list[Node]:
    arguments: list[Node] = [
        f"--model-repository={REPOSITORY}",
        "--model-control-mode=none",
        "--strict-readiness=true",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--exit-timeout-secs={config.exit_timeout_s}",
    ]
    if config.admin_secret:
        arguments.append(f"--http-restricted-api={RESTRICTED}:admin-key=$(ADMIN_KEY)")
        arguments.append(f"--grpc-restricted-protocol={RESTRICTED}:admin-key=$(ADMIN_KEY)")
    return arguments


def _admin_key(secret: str) -> Object:
    source: Node = {"secretKeyRef": {"name": secret, "key": "admin-key"}}
    return {"name": "ADMIN_KEY", "valueFrom": source}


def _probe(path: str, *, period_s: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": min(5, period_s),
        "failureThreshold": failures,
    }


def _locked_down() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _models_volume(models: ClaimModels | ImageModels) -> Object:
    if isinstance(models, ImageModels):
        return {"name": "models", "emptyDir": {}}
    claim: Node = {"claimName": models.claim, "readOnly": True}
    return {"name": "models", "persistentVolumeClaim": claim}


def _models_mount(models: ClaimModels | ImageModels) -> Object:
    mount: dict[str, Node] = {"name": "models", "mountPath": REPOSITORY, "readOnly": True}
    if isinstance(models, ClaimModels) and models.path:
        mount["subPath"] = models.path
    return mount


def _copy_models(models: ImageModels) -> Object:
    return {
        "name": "models",
        "image": models.image,
        "command": ["cp", "-R", f"{models.path.rstrip('/')}/.", REPOSITORY],
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "securityContext": _locked_down(),
        "volumeMounts": [{"name": "models", "mountPath": REPOSITORY}],
    }
