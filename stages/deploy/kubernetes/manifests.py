"""Manifests: every object a served model needs in a cluster, ready for ``kubectl apply -k``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from pipeline.dns import dns_label
from pipeline.errors import StageFailed
from pipeline.files import write_atomic
from stages.deploy.kubernetes.lint import lint
from stages.deploy.kubernetes.node import Node, Object, text
from stages.deploy.kubernetes.pod import Ports, pod_template
from stages.deploy.kubernetes_config import KubernetesConfig

QUEUE_METRIC = "avg_time_queue_us"
DEFAULT_QUEUE_TIME_US = 5000
"""Used when neither the configuration nor a latency objective says otherwise."""


class _PlainDumper(yaml.SafeDumper):
    """Writes a value again where it is used twice, instead of an alias that people stumble over."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def write_manifests(
    config: KubernetesConfig,
    *,
    name: str,
    model: str,
    folder: Path,
    ports: Ports | None = None,
    p99_ms: float | None = None,
) -> tuple[Path, ...]:
    """Write one YAML file an object, and a ``kustomization.yaml`` that lists them.

    Args:
        config: What is known about the cluster.
        name: Base name of every object; turned into a valid Kubernetes name.
        model: The Triton model whose readiness is the pod's; the ensemble where there is one.
        folder: Where the files go; made if it is not there.
        ports: Ports of the server inside the pod.
        p99_ms: The latency objective, from which the autoscaler's target follows.

    Raises:
        StageFailed: the objects contradict each other, as the linter sees it.
    """
    objects = build_objects(config, name=name, model=model, ports=ports, p99_ms=p99_ms)
    if problems := lint(objects):
        raise StageFailed(
            "deploy.kubernetes: the manifests contradict themselves:\n  "
            + "\n  ".join(problems)
            + "\nChange the named values under 'kubernetes' in the YAML."
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{text(o, 'kind').lower()}-{text(o, 'metadata', 'name')}.yaml": o for o in objects}
    kustomization: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    for file, content in {**files, "kustomization.yaml": kustomization}.items():
        write_atomic(folder / file, to_yaml(content))
    return tuple(folder / file for file in (*files, "kustomization.yaml"))


def build_objects(
    config: KubernetesConfig,
    *,
    name: str,
    model: str,
    ports: Ports | None = None,
    p99_ms: float | None = None,
) -> list[Object]:
    """Return the objects as plain data, in the order in which they should be applied."""
    app = dns_label(name, prefix="model")
    ports = ports or Ports()
    selector = {"app.kubernetes.io/name": "tritonserver", "app.kubernetes.io/instance": app}
    labels = {**selector, "app.kubernetes.io/managed-by": "dlpipe"}

    def entry(kind: str, version: str, suffix: str = "", **rest: Node) -> Object:
        metadata: Node = {"name": app + suffix, "namespace": config.namespace, "labels": labels}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    scales = config.replicas.min < config.replicas.max
    deployment = entry("Deployment", "apps/v1", spec={
        # An autoscaler owns the count: applying the file again must not reset it.
        **({} if scales else {"replicas": config.replicas.min}),
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": config.startup_s + 60,
        "selector": {"matchLabels": selector},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        },
        "template": pod_template(config, labels=labels, model=model, ports=ports),
    })  # fmt: skip
    service = entry("Service", "v1", spec={
        "type": "ClusterIP",
        "selector": selector,
        "ports": [
            *_service_ports(ports),
            {"name": "metrics", "port": ports.metrics, "targetPort": "metrics"},
        ],
    })  # fmt: skip
    # gRPC keeps one connection: only clients that see every pod can spread calls over them.
    headless = entry("Service", "v1", "-headless", spec={
        "clusterIP": "None", "selector": selector, "ports": _service_ports(ports),
    })  # fmt: skip
    budget = entry("PodDisruptionBudget", "policy/v1", spec={
        "maxUnavailable": 1, "selector": {"matchLabels": selector},
    })  # fmt: skip
    objects = [deployment, service, headless, budget]
    if scales:
        target_us = config.queue_time_us or (
            round(p99_ms * 100) if p99_ms else DEFAULT_QUEUE_TIME_US
        )
        objects.append(
            entry(
                "HorizontalPodAutoscaler", "autoscaling/v2", spec=_scaling(config, app, target_us)
            )
        )
        if config.prometheus_adapter:
            rules = {"config.yaml": to_yaml(_adapter_rule(model))}
            objects.append(entry("ConfigMap", "v1", "-prometheus-adapter", data=rules))
    if config.service_monitor:
        objects.append(entry("ServiceMonitor", "monitoring.coreos.com/v1", spec={
            "selector": {"matchLabels": selector},
            "endpoints": [{"port": "metrics", "interval": "15s"}],
        }))  # fmt: skip
    return objects


def _service_ports(ports: Ports) -> list[Node]:
    http, grpc = "http", "kubernetes.io/h2c"
    return [
        {"name": "http", "port": ports.http, "targetPort": "http", "appProtocol": http},
        {"name": "grpc", "port": ports.grpc, "targetPort": "grpc", "appProtocol": grpc},
    ]


def _scaling(config: KubernetesConfig, app: str, target_us: int) -> Object:
    target: Node = {"type": "AverageValue", "averageValue": str(max(1, target_us))}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": app},
        "minReplicas": config.replicas.min,
        "maxReplicas": config.replicas.max,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": QUEUE_METRIC}, "target": target}}],
        "behavior": {
            "scaleUp": {"stabilizationWindowSeconds": 0},
            "scaleDown": {"stabilizationWindowSeconds": 300},
        },
    }


def _adapter_rule(model: str) -> Object:
    """Return prometheus-adapter's rule: each pod's microseconds in the queue per request."""
    # json.dumps quotes a string as PromQL does.
    where = f"{{<<.LabelMatchers>>,model={json.dumps(model)}}}"

    def rate(series: str) -> str:
        return f"sum(rate({series}{where}[1m])) by (<<.GroupBy>>)"

    waited, answered = rate("nv_inference_queue_duration_us"), rate("nv_inference_request_success")
    rule: Node = {
        "seriesQuery": 'nv_inference_queue_duration_us{namespace!="",pod!=""}',
        "resources": {"overrides": {k: {"resource": k} for k in ("namespace", "pod")}},
        "name": {"matches": "^nv_inference_queue_duration_us$", "as": QUEUE_METRIC},
        "metricsQuery": f"{waited} / clamp_min({answered}, 0.001)",
    }
    return {"rules": [rule]}


def to_yaml(content: Mapping[str, Node]) -> str:
    """Return an object as YAML, in the order in which it was written."""
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, width=100)
