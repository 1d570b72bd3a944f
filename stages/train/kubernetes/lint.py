"""Linter: contradictions in and between the objects of a training job, which no schema sees."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from stages.train.kubernetes.job import CONFIG_FILE, NODE, Node, Object

_NAME_LIMIT = 63
_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
          "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}  # fmt: skip


def lint(objects: Sequence[Object]) -> list[str]:
    """Return every contradiction, each naming where it is."""
    names = Counter(_identity(o) for o in objects)
    problems = [f"{name}: stands there {n} times" for name, n in names.items() if n > 1]
    for o in objects:
        match _text(o, "kind"):
            case "JobSet":
                checks = _jobset(_text(o, "metadata", "name"), _at(o, "spec"), objects)
            case "TrainingRuntime":
                spec = _at(o, "spec", "template", "spec")
                checks = _jobset(_text(o, "metadata", "name"), spec, objects)
            case "TrainJob":
                checks = _trainjob(o, objects)
            case _:
                continue
        problems += [f"{_identity(o)}: {problem}" for problem in checks]
    return problems


def _trainjob(o: Object, objects: Sequence[Object]) -> Iterator[str]:
    identity = f"{_text(o, 'spec', 'runtimeRef', 'kind')}/{_text(o, 'spec', 'runtimeRef', 'name')}"
    runtimes = [other for other in objects if _identity(other) == identity]
    if not runtimes:
        yield f"spec.runtimeRef: {identity} is not among the objects"
    for runtime in runtimes:
        jobs = _at(runtime, "spec", "template", "spec", "replicatedJobs")
        nodes = _at(o, "spec", "trainer", "numNodes")
        if nodes != _at(runtime, "spec", "mlPolicy", "numNodes"):
            yield f"spec.trainer.numNodes: {nodes} is not the runtime's"
        processes = _at(o, "spec", "trainer", "numProcPerNode")
        for job in _list(jobs):
            for flags in map(_flags, _list(_pod(job), "containers")):
                if flags.get("--nproc-per-node") != str(processes):
                    yield f"spec.trainer.numProcPerNode: {processes} is not what torchrun starts"


def _jobset(name: str, spec: Node, objects: Sequence[Object]) -> Iterator[str]:
    jobs = _list(spec, "replicatedJobs")
    if NODE not in [_text(job, "name") for job in jobs]:
        yield f"replicatedJobs: none is called {NODE!r}, where the pods meet"
    for job in jobs:
        body = _at(job, "template", "spec")
        pods = _at(body, "completions")
        if _at(job, "replicas") != 1:
            yield "replicatedJobs.replicas: is not 1; every replica would train for itself"
        if _text(body, "completionMode") != "Indexed":
            yield "completionMode: is not Indexed; pods would have no names of their own"
        if pods != _at(body, "parallelism"):
            yield f"parallelism: {_at(body, 'parallelism')} of {pods} pods at a time never meet"
        if len(f"{name}-{NODE}-0-{pods}-xxxxx") > _NAME_LIMIT:
            yield f"metadata.name: {name!r} makes pod names of more than {_NAME_LIMIT} characters"
        if _at(spec, "network", "enableDNSHostnames") is not True:
            yield "network.enableDNSHostnames: is not true; the first pod cannot be found"
        yield from _pod_problems(name, spec, _pod(job), pods, objects)


def _pod_problems(
    name: str, spec: Node, pod: Node, pods: Node, objects: Sequence[Object]
) -> Iterator[str]:
    if _text(pod, "restartPolicy") not in ("Never", "OnFailure"):
        yield "restartPolicy: a Job takes Never or OnFailure"
    volumes = {_text(volume, "name"): volume for volume in _list(pod, "volumes")}
    maps = {_text(o, "metadata", "name"): o for o in objects if _text(o, "kind") == "ConfigMap"}
    for volume in volumes.values():
        source = _text(volume, "configMap", "name")
        if source and CONFIG_FILE not in _keys(maps.get(source), "data"):
            yield f"volumes: the ConfigMap {source!r} with {CONFIG_FILE} is not among the objects"
    for container in _list(pod, "containers"):
        mounts = {_text(m, "name"): _text(m, "mountPath") for m in _list(container, "volumeMounts")}
        yield from (f"volumeMounts: there is no volume {m!r}" for m in mounts.keys() - volumes)
        yield from (f"volumes.{v}: nothing mounts it" for v in volumes.keys() - mounts.keys())
        words = [str(word) for word in _list(container, "args")]
        for path in (word for word in words if word.startswith("/")):
            if not any(path.startswith(f"{mount}/") for mount in mounts.values()):
                yield f"args: {path} is on no volume"
        yield from _torchrun(name, spec, container, pods)
        yield from _amounts(container, volumes)


def _torchrun(name: str, spec: Node, container: Node, pods: Node) -> Iterator[str]:
    flags = _flags(container)
    if flags.get("--nnodes") != str(pods):
        yield f"args: --nnodes={flags.get('--nnodes')}, and there are {pods} pods"
    host, _, port = flags.get("--rdzv-endpoint", "").rpartition(":")
    subdomain = _text(spec, "network", "subdomain") or name
    if host != f"{name}-{NODE}-0-0.{subdomain}":
        yield f"args: --rdzv-endpoint: {host!r} is not the first pod"
    if port not in [_text(p, "containerPort") for p in _list(container, "ports")]:
        yield f"args: --rdzv-endpoint: port {port!r} is not among the container's ports"
    gpus = _text(container, "resources", "limits", "nvidia.com/gpu")
    if gpus and gpus != flags.get("--nproc-per-node"):
        yield f"args: --nproc-per-node={flags.get('--nproc-per-node')}, and a pod has {gpus} GPUs"


def _amounts(container: Node, volumes: Mapping[str, Node]) -> Iterator[str]:
    amounts: dict[tuple[str, str], float] = {}
    for side in ("requests", "limits"):
        for what in _keys(container, "resources", side):
            written = _text(container, "resources", side, what)
            match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]i?|m)?", written)
            if match is None or (match[2] or "") not in _UNITS:
                yield f"resources.{side}.{what}: {written!r} is no quantity"
                continue
            amounts[side, what] = float(match[1]) * _UNITS[match[2] or ""]
    for (side, what), asked in amounts.items():
        if side == "requests" and asked > amounts.get(("limits", what), asked):
            yield f"resources.requests.{what}: is above its limit"
    for volume in volumes.values():
        size = re.fullmatch(r"(\d+)([KMGT]i)", _text(volume, "emptyDir", "sizeLimit"))
        memory = amounts.get(("limits", "memory"))
        if size and memory is not None and float(size[1]) * _UNITS[size[2]] > memory:
            yield f"volumes.{_text(volume, 'name')}: is larger than the container's memory"


def _flags(container: Node) -> dict[str, str]:
    words = [str(word) for word in _list(container, "args")]
    return {w.partition("=")[0]: w.partition("=")[2] for w in words if w.startswith("--")}


def _pod(job: Node) -> Node:
    return _at(job, "template", "spec", "template", "spec")


def _identity(o: Object) -> str:
    return f"{_text(o, 'kind')}/{_text(o, 'metadata', 'name')}"


def _at(node: Node, *path: str) -> Node:
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _text(node: Node, *path: str) -> str:
    found = _at(node, *path)
    return "" if found is None else str(found)


def _list(node: Node, *path: str) -> Sequence[Node]:
    found = _at(node, *path)
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def _keys(node: Node, *path: str) -> list[str]:
    found = _at(node, *path)
    return list(found) if isinstance(found, Mapping) else []
