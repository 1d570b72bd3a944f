"""Linter of a pod: its ports, probes, volumes, amounts, safety, and how it ends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

from stages.deploy.kubernetes.node import Node, Object, lookup, mapping, number, sequence, text
from stages.deploy.kubernetes.quantity import parse_quantity

_CONTAINER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_HANDLERS = ("httpGet", "tcpSocket", "grpc", "exec")
_PORT_FLAGS = ("--http-port", "--grpc-port", "--metrics-port")
DEFAULT_GRACE_S = 30


def pod_problems(spec: Object) -> Iterator[str]:
    """Yield every contradiction inside a pod's spec."""
    servers = sequence(spec, "containers")
    containers = [*sequence(spec, "initContainers"), *servers]
    volumes = {text(volume, "name"): volume for volume in sequence(spec, "volumes")}
    if not servers:
        yield "containers: there is none"
    yield from _repeated("containers: the name", (text(c, "name") for c in containers))
    yield from _repeated("volumes: the name", (text(v, "name") for v in sequence(spec, "volumes")))
    for volume, content in volumes.items():
        if len(mapping(content)) != 2:
            yield f"volumes.{volume}: needs exactly one source"
    mounted = {text(m, "name") for c in containers for m in sequence(c, "volumeMounts")}
    for name in sorted(volumes.keys() - mounted):
        yield f"volumes.{name}: nothing mounts it"
    for container in containers:
        name = text(container, "name")
        checks = [
            _image(container),
            _mounts(container, volumes.keys()),
            _amounts(container),
            _safety(spec, container),
        ]
        if not _CONTAINER_NAME.fullmatch(name):
            yield f"containers: {name!r} is no DNS-1123 label; use a-z, 0-9 and '-'"
        if container in servers:
            checks += [
                _ports(container),
                _probes(container),
                _ending(spec, container),
                _memory(container, volumes.values()),
            ]
        for check in checks:
            yield from (f"containers.{name}.{problem}" for problem in check)


def _image(container: Node) -> Iterator[str]:
    image = text(container, "image")
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        yield f"image: {image!r} names no fixed build; add a tag or a digest"


def _ports(container: Node) -> Iterator[str]:
    ports = sequence(container, "ports")
    yield from _repeated("ports: the name", (text(port, "name") for port in ports))
    yield from _repeated("ports: the number", (text(port, "containerPort") for port in ports))
    for port in ports:
        if not 1 <= (number(port, "containerPort") or 0) <= 65535:
            yield f"ports: {text(port, 'containerPort')} is no port; 1 to 65535"
        if "name" in mapping(port) and not _PORT_NAME.fullmatch(text(port, "name")):
            yield f"ports: {text(port, 'name')!r} is no port name; at most 15 of a-z, 0-9 and '-'"
    declared = {text(port, "containerPort") for port in ports}
    for flag, value in _flags(container).items():
        if flag in _PORT_FLAGS and value not in declared:
            yield f"args: {flag}={value} is not among the declared ports {sorted(declared)}"


def _probes(container: Node) -> Iterator[str]:
    ports = [mapping(port) for port in sequence(container, "ports")]
    known = {text(port, key) for port in ports for key in ("name", "containerPort")}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = mapping(container, name)
        handlers = [handler for handler in _HANDLERS if handler in probe]
        if not probe:
            yield f"{name}: there is none"
        elif len(handlers) != 1:
            yield f"{name}: needs one of {', '.join(_HANDLERS)}; it has {handlers or 'none'}"
        for handler in handlers:
            port = text(probe, handler, "port")
            if handler != "exec" and port not in known:
                yield f"{name}: port {port!r} is not a port of the container"


def _mounts(container: Node, volumes: Iterable[str]) -> Iterator[str]:
    mounts = sequence(container, "volumeMounts")
    yield from _repeated("volumeMounts: the path", (text(m, "mountPath") for m in mounts))
    for mount in mounts:
        if text(mount, "name") not in volumes:
            yield f"volumeMounts: there is no volume {text(mount, 'name')!r}"
        if not text(mount, "mountPath").startswith("/"):
            yield f"volumeMounts: {text(mount, 'mountPath')!r} is not absolute"


def _amounts(container: Node) -> Iterator[str]:
    amounts: dict[tuple[str, str], Decimal] = {}
    for side in ("requests", "limits"):
        for resource, written in mapping(container, "resources", side).items():
            try:
                amounts[side, resource] = parse_quantity(str(written))
            except ValueError as error:
                yield f"resources.{side}.{resource}: {error}"
    for (side, resource), amount in amounts.items():
        limit = amounts.get(("limits", resource))
        if side == "requests" and limit is not None and amount > limit:
            yield f"resources: requests {resource} {amount:f}, which is above its limit {limit:f}"
    for resource in ("cpu", "memory"):
        if ("requests", resource) not in amounts:
            yield f"resources.requests.{resource}: there is none; the scheduler would guess"


def _memory(container: Node, volumes: Iterable[Node]) -> Iterator[str]:
    paths = {text(m, "mountPath"): text(m, "name") for m in sequence(container, "volumeMounts")}
    by_name = {text(volume, "name"): volume for volume in volumes}
    shared = by_name.get(paths.get("/dev/shm", ""))
    if text(shared, "emptyDir", "medium") != "Memory":
        yield "volumeMounts: /dev/shm is no Memory volume; the default is too small, 64 MB"
    try:
        size = parse_quantity(text(shared, "emptyDir", "sizeLimit"))
        limit = parse_quantity(text(container, "resources", "limits", "memory"))
    except ValueError:
        return  # a missing or unreadable amount is reported where it stands
    if size >= limit:
        yield f"resources.limits.memory: {limit:f} leaves nothing beside /dev/shm of {size:f}"


def _safety(spec: Object, container: Node) -> Iterator[str]:
    own, pod = mapping(container, "securityContext"), mapping(spec, "securityContext")
    if lookup(own, "runAsNonRoot") is not True and lookup(pod, "runAsNonRoot") is not True:
        yield "securityContext: runAsNonRoot is not true"
    if 0 in (number(own, "runAsUser"), number(pod, "runAsUser")):
        yield "securityContext: runAsUser is 0, which is root"
    if lookup(own, "readOnlyRootFilesystem") is not True:
        yield "securityContext: readOnlyRootFilesystem is not true"
    if lookup(own, "allowPrivilegeEscalation") is not False or lookup(own, "privileged") is True:
        yield "securityContext: privileges can be escalated"


def _ending(spec: Object, container: Node) -> Iterator[str]:
    command = [str(part) for part in sequence(container, "lifecycle", "preStop", "exec", "command")]
    match command:
        case [path, seconds] if path.rpartition("/")[2] == "sleep" and seconds.isdecimal():
            drain_s = float(seconds)
        case _:
            drain_s = number(container, "lifecycle", "preStop", "sleep", "seconds") or 0
    if drain_s <= 0:
        yield "lifecycle.preStop: does not wait; requests that balancers still send would be lost"
    grace_s = number(spec, "terminationGracePeriodSeconds")
    grace_s = DEFAULT_GRACE_S if grace_s is None else grace_s
    exit_s = float(_flags(container).get("--exit-timeout-secs", DEFAULT_GRACE_S))
    if grace_s <= drain_s + exit_s:
        yield (
            f"lifecycle: terminationGracePeriodSeconds ({grace_s:g}) is not above the preStop wait "
            f"({drain_s:g}) plus the exit timeout ({exit_s:g}); requests in flight would be killed"
        )


def _flags(container: Node) -> dict[str, str]:
    pairs = (str(argument).partition("=") for argument in sequence(container, "args"))
    return {flag: value for flag, _, value in pairs}


def _repeated(what: str, values: Iterable[str]) -> Iterator[str]:
    for value, count in Counter(v for v in values if v).items():
        if count > 1:
            yield f"{what} {value!r} is there {count} times"
