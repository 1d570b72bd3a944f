"""Write: the manifests of a configuration's train stage, checked before they are written."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.backend import is_installed
from pipeline.config import ChainConfig
from pipeline.dns import dns_label
from pipeline.errors import ConfigError
from pipeline.files import write_atomic
from stages.train.config import TrainConfig
from stages.train.kubernetes.job import Object, jobset_objects, trainjob_objects
from stages.train.kubernetes.lint import lint


class _PlainDumper(yaml.SafeDumper):
    """Writes a value again where it is used twice, instead of an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def write_job(chain: ChainConfig, folder: Path) -> list[Path]:
    """Write ``trainjob/`` and ``jobset/``, one file an object; return the files.

    Raises:
        ConfigError: the train stage says nothing about a cluster, or what it says contradicts
            itself; every problem is listed.
    """
    configs = [entry.config for entry in chain.stages]
    config = next((c for c in configs if isinstance(c, TrainConfig)), None)
    if config is None or config.launch.kubernetes is None:
        raise ConfigError(
            f"{chain.file}: stages.train.launch.kubernetes is not set, so there is no cluster to "
            "write manifests for. Add at least: launch: {kubernetes: {image: ..., claim: ...}}."
        )
    name, settings = dns_label(chain.settings.name, prefix="run"), chain.resolved()
    written = []
    for kind, build in (("trainjob", trainjob_objects), ("jobset", jobset_objects)):
        objects = build(name, settings, config.launch, config.launch.kubernetes)
        if problems := [*lint(objects), *_schema_problems(objects)]:
            raise ConfigError(
                f"{chain.file}: stages.train.launch.kubernetes: the manifests contradict "
                "themselves:\n  " + "\n  ".join(problems)
            )
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for o in objects:
            path = folder / kind / f"{str(o['kind']).lower()}.yaml"
            write_atomic(path, yaml.dump(o, Dumper=_PlainDumper, sort_keys=False, width=100))
            written.append(path)
    return written


def _schema_problems(objects: list[Object]) -> list[str]:
    if not is_installed("kubernetes_validate"):
        return []
    from stages.train.kubernetes.schema import schema_problems

    return schema_problems(objects)
