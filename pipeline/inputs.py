"""Inputs: the artifacts that a stage works from, read back from where earlier stages left them."""

from __future__ import annotations

from pipeline.artifacts import Artifact
from pipeline.config import ChainConfig, StageEntry
from pipeline.plan import artifact_folder, input_sources
from pipeline.run_folder import RunFolder
from pipeline.store import load_artifact


def load_inputs(chain: ChainConfig, entry: StageEntry, folder: RunFolder) -> dict[type, Artifact]:
    """Return what a stage requires, and what else is at hand: the latest of each type.

    Raises:
        MissingArtifact: one that it requires is not there.
    """
    earlier = chain.stages[: chain.stages.index(entry)]
    artifacts: dict[type, Artifact] = {}
    for candidate in earlier:
        if folder.has_artifact(candidate.name):
            kind = candidate.stage.produces
            artifacts[kind] = load_artifact(kind, folder.stage(candidate.name))
    sources = input_sources(entry, earlier)
    for kind in entry.stage.requires:
        place = artifact_folder(chain, kind, sources, folder, entry.name)
        artifacts[kind] = load_artifact(kind, place)
    return artifacts
