"""Cluster files: Kubernetes manifests, and the repository in the form their container takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.backend import is_installed
from pipeline.context import Context
from stages.deploy.canary import Canary
from stages.deploy.kubernetes.manifests import write_manifests
from stages.deploy.kubernetes_config import KubernetesConfig
from stages.deploy.plan import ServingPlan
from stages.deploy.repository import write_repository

MANIFESTS = "kubernetes"
CONTAINER_REPOSITORY = "repository-container"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterFiles:
    """What a cluster is given."""

    manifests: tuple[Path, ...] = ()
    problems: tuple[str, ...] | None = None
    """What the Kubernetes schemas object to; None where nothing was checked against them."""
    repository: Path | None = None
    """The models with native backends, where those that were verified here are Python files."""


def write_cluster_files(
    ctx: Context,
    config: KubernetesConfig,
    p99_ms: float | None,
    plan: ServingPlan,
    canary: Canary | None,
    warmup_image: bytes | None,
) -> ClusterFiles:
    """Write everything that a cluster needs, and check it by the schemas if they are installed."""
    repository = None
    if plan.runtime != "native":
        repository = ctx.dir / CONTAINER_REPOSITORY
        write_repository(repository, replace(plan, runtime="native"), canary, warmup_image)
    manifests = write_manifests(
        config,
        name=plan.name,
        model=plan.pipeline_name if plan.preprocess is not None else plan.name,
        folder=ctx.dir / MANIFESTS,
        p99_ms=p99_ms,
    )
    problems = None
    if is_installed("kubernetes_validate"):
        from stages.deploy.kubernetes.schema import file_problems

        problems = tuple(file_problems(manifests))
    else:
        ctx.events.warning(
            "the Kubernetes manifests were not checked against the schemas: "
            "pip install 'dlpipe[kubernetes]'"
        )
    return ClusterFiles(manifests=manifests, problems=problems, repository=repository)
