"""Linter: contradictions between Kubernetes objects, which their schemas cannot see.

The schemas know that a port is a number; that the Service names a port the pod has is found here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from stages.deploy.kubernetes.lint_pod import pod_problems
from stages.deploy.kubernetes.node import Object, lookup, mapping, number, sequence, text
from stages.deploy.kubernetes.quantity import parse_quantity

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def lint(objects: Sequence[Object]) -> list[str]:
    """Return every contradiction in and between the objects, each naming where it is."""
    counts = Counter(_identity(o) for o in objects)
    problems = [
        f"{name}: stands there {n} times; names are unique" for name, n in counts.items() if n > 1
    ]
    for o in objects:
        checks = [_names(o)]
        match text(o, "kind"):
            case "Deployment":
                checks += [
                    _deployment(o, objects),
                    pod_problems(mapping(o, "spec", "template", "spec")),
                ]
            case "Service":
                checks.append(_service(o, objects))
            case "HorizontalPodAutoscaler":
                checks.append(_autoscaler(o, objects))
            case "PodDisruptionBudget":
                checks.append(_budget(o, objects))
            case "ServiceMonitor":
                checks.append(_monitor(o, objects))
        problems += [f"{_identity(o)}: {problem}" for check in checks for problem in check]
    return problems


def _identity(o: Object) -> str:
    return f"{text(o, 'kind')}/{text(o, 'metadata', 'name')}"


def _names(o: Object) -> Iterator[str]:
    name, is_service = text(o, "metadata", "name"), text(o, "kind") == "Service"
    form = _LABEL if is_service else _SUBDOMAIN
    if not form.fullmatch(name) or len(name) > 253 or (is_service and not name[0].isalpha()):
        yield f"metadata.name: {name!r} is no DNS-1123 name; use a-z, 0-9 and '-'"
    for key, value in mapping(o, "metadata", "labels").items():
        if not _LABEL_VALUE.fullmatch(str(value)):
            yield f"metadata.labels.{key}: {value!r} is no label value (63 of A-Z a-z 0-9 - _ .)"


def _deployment(o: Object, objects: Sequence[Object]) -> Iterator[str]:
    selector = mapping(o, "spec", "selector", "matchLabels")
    labels = mapping(o, "spec", "template", "metadata", "labels")
    if not selector or not _selects(selector, labels):
        yield f"spec.selector: {dict(selector)} does not select {dict(labels)}"
    for constraint in sequence(o, "spec", "template", "spec", "topologySpreadConstraints"):
        if not _selects(mapping(constraint, "labelSelector", "matchLabels"), labels):
            yield "topologySpreadConstraints: the selector does not select the pod itself"
    if str(lookup(o, "spec", "strategy", "rollingUpdate", "maxUnavailable")) not in ("0", "0%"):
        yield "spec.strategy: maxUnavailable is not 0; a rollout would first take a server away"
    elif str(lookup(o, "spec", "strategy", "rollingUpdate", "maxSurge")) in ("0", "0%"):
        yield "spec.strategy: maxSurge and maxUnavailable are both 0; no rollout could ever start"
    budgets = [
        mapping(b, "spec", "selector", "matchLabels") for b in _of(objects, "PodDisruptionBudget")
    ]
    if not any(_selects(budget, labels) for budget in budgets):
        yield "no PodDisruptionBudget covers it; draining nodes may take every server at once"


def _service(o: Object, objects: Sequence[Object]) -> Iterator[str]:
    ports = sequence(o, "spec", "ports")
    if len(ports) > 1 and not all(text(port, "name") for port in ports):
        yield "spec.ports: with several ports each needs a name"
    yield from _repeated("spec.ports: the name", (text(port, "name") for port in ports))
    yield from _repeated("spec.ports: the port", (text(port, "port") for port in ports))
    pods = _selected_templates(mapping(o, "spec", "selector"), objects)
    if not pods:
        yield f"spec.selector: {dict(mapping(o, 'spec', 'selector'))} selects no pod"
    for port in ports:
        if not 1 <= (number(port, "port") or 0) <= 65535:
            yield f"spec.ports: {text(port, 'port')} is no port; 1 to 65535"
        target = text(port, "targetPort") or text(port, "port")
        if any(target not in _container_ports(pod) for pod in pods):
            yield f"spec.ports: targetPort {target!r} is not a port of the pods"


def _autoscaler(o: Object, objects: Sequence[Object]) -> Iterator[str]:
    low, high = number(o, "spec", "minReplicas") or 1, number(o, "spec", "maxReplicas") or 0
    if low > high:
        yield f"spec: minReplicas ({low:g}) is above maxReplicas ({high:g})"
    target = mapping(o, "spec", "scaleTargetRef")
    identity = f"{text(target, 'kind')}/{text(target, 'name')}"
    found = [t for t in objects if _identity(t) == identity]
    if not found:
        yield f"spec.scaleTargetRef: {identity} is not among the objects"
    for deployment in found:
        if text(deployment, "apiVersion") != text(target, "apiVersion"):
            yield f"spec.scaleTargetRef: apiVersion is not {text(deployment, 'apiVersion')!r}"
        if lookup(deployment, "spec", "replicas") is not None:
            yield f"{identity} sets spec.replicas too; applying it would undo the autoscaler's work"
    if not sequence(o, "spec", "metrics"):
        yield "spec.metrics: there is none; nothing would be scaled on"
    for metric in sequence(o, "spec", "metrics"):
        if text(metric, "type") == "Pods":
            yield from _positive(
                "spec.metrics.averageValue", text(metric, "pods", "target", "averageValue")
            )


def _budget(o: Object, objects: Sequence[Object]) -> Iterator[str]:
    spec = mapping(o, "spec")
    bounds = [key for key in ("minAvailable", "maxUnavailable") if key in spec]
    if len(bounds) != 1:
        yield f"spec: needs one of minAvailable and maxUnavailable; it has {bounds or 'neither'}"
    if not _selected_templates(mapping(spec, "selector", "matchLabels"), objects):
        yield "spec.selector: selects no pod"
    floor = min(
        (number(h, "spec", "minReplicas") or 1 for h in _of(objects, "HorizontalPodAutoscaler")),
        default=None,
    )
    kept = number(spec, "minAvailable") or 0
    if floor is not None and kept >= floor:
        yield f"spec.minAvailable: {kept:g} of {floor:g} servers; no node could ever be drained"


def _monitor(o: Object, objects: Sequence[Object]) -> Iterator[str]:
    selector = mapping(o, "spec", "selector", "matchLabels")
    services = [
        s for s in _of(objects, "Service") if _selects(selector, mapping(s, "metadata", "labels"))
    ]
    names = {
        text(port, "name") for service in services for port in sequence(service, "spec", "ports")
    }
    for endpoint in sequence(o, "spec", "endpoints"):
        if text(endpoint, "port") not in names:
            yield f"spec.endpoints: {text(endpoint, 'port')!r} is no port of a selected Service"


def _of(objects: Iterable[Object], kind: str) -> list[Object]:
    return [o for o in objects if text(o, "kind") == kind]


def _selects(selector: Object, labels: Object) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _selected_templates(selector: Object, objects: Sequence[Object]) -> list[Object]:
    templates = [mapping(d, "spec", "template") for d in _of(objects, "Deployment")]
    return [t for t in templates if _selects(selector, mapping(t, "metadata", "labels"))]


def _container_ports(template: Object) -> set[str]:
    containers = sequence(template, "spec", "containers")
    ports = [port for container in containers for port in sequence(container, "ports")]
    return {text(port, key) for port in ports for key in ("name", "containerPort")}


def _repeated(what: str, values: Iterable[str]) -> Iterator[str]:
    for value, count in Counter(v for v in values if v).items():
        if count > 1:
            yield f"{what} {value!r} is there {count} times"


def _positive(place: str, quantity: str) -> Iterator[str]:
    try:
        if parse_quantity(quantity) <= 0:
            yield f"{place}: {quantity!r} is not above 0"
    except ValueError as error:
        yield f"{place}: {error}"
