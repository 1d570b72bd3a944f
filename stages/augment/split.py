"""Split: which samples are held out for eval and which calibrate; seeded and stratified."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from pipeline.errors import DataError


def stratified_split(
    labels: Sequence[int], share: float, seed: int, *, groups: Sequence[Hashable] | None = None
) -> tuple[list[int], list[int]]:
    """Return the indices of the train and of the eval part; every class stands in both.

    Args:
        labels: one a sample.
        share: of each class that goes to eval, in (0, 1).
        seed: same seed, same split.
        groups: samples of one group and class stay together (files of equal content: no leak).

    Raises:
        DataError: a class has fewer than two distinct samples.
    """
    train: list[int] = []
    held_out: list[int] = []
    for label, members in by_label(labels).items():
        bundles: dict[Hashable, list[int]] = defaultdict(list)
        for index in members:
            bundles[index if groups is None else groups[index]].append(index)
        if len(bundles) < 2:
            raise DataError(
                f"split: class number {label} has {len(bundles)} distinct sample(s), and a "
                "split into train and eval needs at least 2. Add some, or give a folder for eval."
            )
        wanted = max(1, round(len(members) * share))
        order = np.random.default_rng([seed, label]).permutation(len(bundles))
        queue = [bundle for _, bundle in sorted(zip(order, bundles.values(), strict=True))]
        taken = _fill(queue, wanted)
        held_out += [index for bundle in queue[:taken] for index in bundle]
        train += [index for bundle in queue[taken:] for index in bundle]
    return sorted(train), sorted(held_out)


def stratified_sample(labels: Sequence[int], num_samples: int, seed: int) -> list[int]:
    """Return indices of a seeded sample in which classes have their shares, in ascending order."""
    members_of = by_label(labels)
    counts = _apportion([len(members) for members in members_of.values()], num_samples)
    chosen: list[int] = []
    for (label, members), count in zip(members_of.items(), counts, strict=True):
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen += [members[position] for position in order[:count]]
    return sorted(chosen)


def by_label(labels: Sequence[int]) -> dict[int, list[int]]:
    """Return the positions of each label, labels in ascending order."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    return dict(sorted(members.items()))


def _fill(queue: Sequence[Sequence[int]], wanted: int) -> int:
    """Return how many bundles reach the wanted number of samples, leaving at least one over."""
    filled = 0
    for taken, bundle in enumerate(queue[:-1]):
        if filled >= wanted:
            return taken
        filled += len(bundle)
    return len(queue) - 1


def _apportion(sizes: Sequence[int], total: int) -> list[int]:
    """Share out `total` in proportion to sizes, by largest remainder; one each if it suffices."""
    total = min(total, sum(sizes))
    floor = 1 if total >= len(sizes) else 0
    ideal = [total * size / sum(sizes) for size in sizes]
    counts = [max(floor, int(share)) for share in ideal]
    by_need = sorted(range(len(sizes)), key=lambda i: counts[i] - ideal[i])
    while sum(counts) < total:
        for i in by_need:
            if sum(counts) < total and counts[i] < sizes[i]:
                counts[i] += 1
    for i in reversed(by_need):
        while sum(counts) > total and counts[i] > floor:
            counts[i] -= 1
    return counts
