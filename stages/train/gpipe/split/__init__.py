"""Splitting: any network that is a chain of layers, cut into blocks without its author's help."""

from stages.train.gpipe.split.declared import PipelineBlocks
from stages.train.gpipe.split.errors import CannotSplit
from stages.train.gpipe.split.network import split, state_names

__all__ = ["CannotSplit", "PipelineBlocks", "split", "state_names"]
