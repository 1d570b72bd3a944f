"""Glance: where a few batches are wanted, no more samples are looked at than these take.

Looking at a sample means to read and decode its file, which takes minutes to hours for a large data
set; listing it takes moments, so every class is still known. What is found out about a file is
all there is to know of it: later runs need not look again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.context import Context
from pipeline.errors import DataError
from stages.augment.arrange import choose_splits
from stages.augment.config import AugmentConfig
from stages.augment.sources import Finding, Item, Narrows, Source
from stages.augment.split import by_label

_SPARE = 1.25
"""Times what is wanted: shares of classes are rounded, and some files may be damaged."""
_LEAST = 2
"""Of each class, so that it can stand in train and in eval."""


def look(source: Source, config: AugmentConfig, ctx: Context) -> tuple[Source, list[Finding]]:
    """Look at all samples, or with `limit_batches` at as few as will do; return these alone."""
    if config.limit_batches is not None and isinstance(source, Narrows):
        wanted = config.limit_batches * config.batch_size
        factor = _SPARE
        while len(chosen := _drawn(source.items, factor * wanted, config)) < len(source.items):
            part = source.narrowed(chosen)
            findings = part.inspect(ctx)
            if _is_enough(source, part, findings, wanted, config):
                return part, findings
            factor *= 2
    return source, source.inspect(ctx)


def _drawn(items: Sequence[Item], wanted: float, config: AugmentConfig) -> list[int]:
    """Draw that many of train and of eval, classes in their shares; more contain all of fewer."""
    if not any(item.part == "eval" for item in items):  # eval is going to be split off
        wanted /= min(config.eval_share, 1 - config.eval_share)
    chosen: list[int] = []
    for part in ("train", "eval", "any"):
        listed = [index for index, item in enumerate(items) if item.part == part]
        for label, members in by_label([items[index].label for index in listed]).items():
            count = max(_LEAST, math.ceil(wanted * len(members) / len(listed)))
            order = np.random.default_rng([config.split_seed, label]).permutation(len(members))
            chosen += [listed[members[position]] for position in order[:count]]
    return sorted(chosen)


def _is_enough(
    source: Source, part: Source, findings: Sequence[Finding], wanted: int, config: AugmentConfig
) -> bool:
    """Tell whether the usable ones of a part fill the splits, and leave no class empty."""
    usable = [index for index, finding in enumerate(findings) if not finding.problem]
    trained = {part.items[index].label for index in usable if part.items[index].part != "eval"}
    if len(trained) < len(source.classes):
        return False
    try:
        splits = choose_splits(part.items, findings, usable, config)
    except DataError:  # it may hold for all of them too, and is told then
        return False
    listed, looked_at = (Counter(item.part for item in each.items) for each in (source, part))
    return all(
        len(splits[split]) >= wanted or (0 < listed[split] == looked_at[split])
        for split in ("train", "eval")
    )
