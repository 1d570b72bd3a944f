"""Each fault is seeded into objects that are faultless otherwise; the linter has to name it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest

from stages.deploy.kubernetes.lint import lint
from stages.deploy.kubernetes.manifests import build_objects
from stages.deploy.kubernetes.quantity import parse_quantity
from stages.deploy.kubernetes_config import KubernetesConfig

Objects = dict[str, Any]
"""Objects by kind; the first of each kind."""


def objects() -> list[Any]:
    config = KubernetesConfig.model_validate(
        {"service_monitor": True, "models": {"kind": "image", "image": "models:1"}}
    )
    return deepcopy(build_objects(config, name="digits", model="digits"))


def _pod(by_kind: Objects) -> Any:
    return by_kind["Deployment"]["spec"]["template"]["spec"]


def _server(by_kind: Objects) -> Any:
    return _pod(by_kind)["containers"][0]


def _put(place: Callable[[Objects], Any], key: str, value: object) -> Callable[[Objects], None]:
    def seed(by_kind: Objects) -> None:
        place(by_kind)[key] = value

    return seed


def _drop(place: Callable[[Objects], Any], key: str) -> Callable[[Objects], None]:
    def seed(by_kind: Objects) -> None:
        del place(by_kind)[key]

    return seed


def _extend(place: Callable[[Objects], Any], value: object) -> Callable[[Objects], None]:
    def seed(by_kind: Objects) -> None:
        place(by_kind).append(value)

    return seed


def _spec(kind: str) -> Callable[[Objects], Any]:
    return lambda by_kind: by_kind[kind]["spec"]


FAULTS: dict[str, tuple[Callable[[Objects], None], str]] = {
    "selector misses the template": (
        _put(
            lambda o: o["Deployment"]["spec"]["selector"]["matchLabels"],
            "app.kubernetes.io/name",
            "x",
        ),
        "does not select",
    ),
    "service selects nothing": (
        _put(_spec("Service"), "selector", {"app": "other"}),
        "selects no pod",
    ),
    "container port out of range": (
        _put(lambda o: _server(o)["ports"][0], "containerPort", 99999),
        "99999 is no port",
    ),
    "service port out of range": (
        _put(lambda o: o["Service"]["spec"]["ports"][0], "port", 0),
        "0 is no port",
    ),
    "port name twice": (
        _put(lambda o: _server(o)["ports"][1], "name", "http"),
        "'http' is there 2 times",
    ),
    "port number twice": (
        _put(lambda o: _server(o)["ports"][1], "containerPort", 8000),
        "'8000' is there 2 times",
    ),
    "port name too long": (
        _put(lambda o: _server(o)["ports"][1], "name", "a-name-of-17-char"),
        "is no port name",
    ),
    "service port without a name": (
        _drop(lambda o: o["Service"]["spec"]["ports"][0], "name"),
        "each needs a name",
    ),
    "service target that is no port": (
        _put(lambda o: o["Service"]["spec"]["ports"][0], "targetPort", "web"),
        "targetPort 'web'",
    ),
    "argument and port differ": (
        _put(lambda o: _server(o)["ports"][2], "containerPort", 8102),
        "--metrics-port=8002 is not among",
    ),
    "probe of an unknown port": (
        _put(lambda o: _server(o)["livenessProbe"]["httpGet"], "port", "web"),
        "port 'web' is not a port",
    ),
    "probe with two handlers": (
        _put(lambda o: _server(o)["readinessProbe"], "tcpSocket", {"port": "http"}),
        "readinessProbe: needs one of",
    ),
    "no startup probe": (_drop(_server, "startupProbe"), "startupProbe: there is none"),
    "bad quantity": (
        _put(lambda o: _server(o)["resources"]["requests"], "memory", "4 Gigs"),
        "is no quantity",
    ),
    "request above limit": (
        _put(lambda o: _server(o)["resources"]["requests"], "memory", "8Gi"),
        "above its limit",
    ),
    "no cpu request": (
        _drop(lambda o: _server(o)["resources"]["requests"], "cpu"),
        "requests.cpu: there is none",
    ),
    "shared memory fills the pod": (
        _put(lambda o: _pod(o)["volumes"][1]["emptyDir"], "sizeLimit", "4Gi"),
        "leaves nothing",
    ),
    "shared memory on disk": (
        _put(lambda o: _pod(o)["volumes"][1], "emptyDir", {}),
        "/dev/shm is no Memory volume",
    ),
    "mount without a volume": (
        _extend(lambda o: _server(o)["volumeMounts"], {"name": "gone", "mountPath": "/x"}),
        "no volume 'gone'",
    ),
    "volume that nothing mounts": (
        _extend(lambda o: _pod(o)["volumes"], {"name": "spare", "emptyDir": {}}),
        "nothing mounts it",
    ),
    "volume with two sources": (
        _put(lambda o: _pod(o)["volumes"][0], "hostPath", {"path": "/"}),
        "exactly one source",
    ),
    "mount path twice": (
        _extend(lambda o: _server(o)["volumeMounts"], {"name": "tmp", "mountPath": "/tmp"}),
        "'/tmp' is there 2",
    ),
    "autoscaler bounds reversed": (
        _put(_spec("HorizontalPodAutoscaler"), "minReplicas", 9),
        "minReplicas (9) is above maxReplicas",
    ),
    "autoscaler without a target": (
        _put(lambda o: o["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"], "name", "gone"),
        "Deployment/gone is not among",
    ),
    "autoscaler of an old version": (
        _put(
            lambda o: o["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"],
            "apiVersion",
            "apps/v1beta1",
        ),
        "apiVersion is not 'apps/v1'",
    ),
    "autoscaler without a metric": (
        _put(_spec("HorizontalPodAutoscaler"), "metrics", []),
        "nothing would be scaled",
    ),
    "autoscaler fights the count": (
        _put(_spec("Deployment"), "replicas", 3),
        "undo the autoscaler",
    ),
    "budget with both bounds": (
        _put(_spec("PodDisruptionBudget"), "minAvailable", 1),
        "needs one of minAvailable",
    ),
    "budget with neither bound": (
        _drop(_spec("PodDisruptionBudget"), "maxUnavailable"),
        "it has neither",
    ),
    "budget of other pods": (
        _put(_spec("PodDisruptionBudget"), "selector", {"matchLabels": {"app": "x"}}),
        "no PodDisruptionBudget covers",
    ),
    "grace too short": (_put(_pod, "terminationGracePeriodSeconds", 20), "would be killed"),
    "no wait before the end": (_drop(_server, "lifecycle"), "preStop: does not wait"),
    "rollout takes servers first": (
        _put(
            lambda o: o["Deployment"]["spec"]["strategy"]["rollingUpdate"], "maxUnavailable", "25%"
        ),
        "maxUnavailable is not 0",
    ),
    "rollout that cannot start": (
        _put(lambda o: o["Deployment"]["spec"]["strategy"]["rollingUpdate"], "maxSurge", 0),
        "could ever start",
    ),
    "name that DNS refuses": (
        _put(lambda o: o["ConfigMap"]["metadata"], "name", "My_Config"),
        "no DNS-1123 name",
    ),
    "container name that DNS refuses": (
        _put(_server, "name", "Triton Server"),
        "no DNS-1123 label",
    ),
    "label value that is none": (
        _put(lambda o: o["ConfigMap"]["metadata"]["labels"], "x", "a b"),
        "no label value",
    ),
    "moving image": (_put(_server, "image", "nvcr.io/nvidia/tritonserver"), "names no fixed build"),
    "root": (_put(lambda o: _pod(o)["securityContext"], "runAsUser", 0), "which is root"),
    "writable root file system": (
        _put(lambda o: _server(o)["securityContext"], "readOnlyRootFilesystem", False),
        "readOnlyRootFilesystem",
    ),
    "monitor of an unknown port": (
        _put(lambda o: o["ServiceMonitor"]["spec"]["endpoints"][0], "port", "prom"),
        "'prom' is no port",
    ),
}


@pytest.mark.parametrize(("seed", "expected"), FAULTS.values(), ids=FAULTS.keys())
def test_a_seeded_fault_is_named(seed: Callable[[Objects], None], expected: str) -> None:
    seeded = objects()
    seed({o["kind"]: o for o in reversed(seeded)})
    assert any(expected in problem for problem in lint(seeded)), lint(seeded)


def test_the_objects_are_faultless_before_a_fault_is_seeded() -> None:
    assert lint(objects()) == []


def test_the_same_object_twice_is_named() -> None:
    once = objects()
    assert any("stands there 2 times" in problem for problem in lint([*once, once[0]]))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"kind": "Deployment"},
        {"kind": "Service", "spec": None},
        {"kind": "HorizontalPodAutoscaler", "spec": [1]},
    ],
)
def test_objects_that_are_hardly_there_give_problems_and_no_traceback(
    broken: dict[str, Any],
) -> None:
    assert lint([broken])


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("1", "1"),
        ("500m", "0.5"),
        ("4Gi", "4294967296"),
        ("2k", "2000"),
        ("1.5M", "1500000"),
        ("1e3", "1000"),
    ],
)
def test_a_quantity_is_read_as_kubernetes_reads_it(written: str, amount: str) -> None:
    assert parse_quantity(written) == Decimal(amount)


@pytest.mark.parametrize("written", ["", "Gi", "4 Gi", "4GB", "1K", "--1", "1.2.3"])
def test_what_is_no_quantity_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(written)
