"""DataCard: what a data set is made of, and what about it should worry its user."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.files import write_atomic
from stages.augment.sources import Finding, Source

CARD_FILE = "card.json"
IMBALANCE = 10.0
"""From here on the largest class is worth a warning."""
_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCard:
    """Counts, sizes and duplicates of one data set."""

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Images by split and class; `calibration` is a part of `train`."""
    widths: tuple[int, int, int]
    """Smallest, median and largest."""
    heights: tuple[int, int, int]
    """Smallest, median and largest."""
    modes: dict[str, int]
    """Images by Pillow's pixel mode."""
    leaks: tuple[tuple[str, str], ...]
    """Names of equal files of which one stands in train and one in eval."""
    repeats: int
    """Files of train that are equal to another file of train."""
    conflicts: tuple[tuple[str, str], ...]
    """Names of equal files with different labels."""
    damaged: int
    unseen: int = 0
    """Samples that were listed and not looked at."""
    noun: str = "image"
    """What one sample is called."""

    @property
    def imbalance(self) -> float:
        """Size of the largest training class over that of the smallest."""
        return max(self.counts["train"]) / max(1, min(self.counts["train"]))

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should act on, a sentence each."""
        said: list[str] = []
        if self.unseen:
            said.append(
                f"limit_batches: {self.unseen:,} {self.noun}s were not looked at; all figures, and "
                "what is said of damage, are of the others."
            )
        if self.leaks:
            said.append(
                f"{len(self.leaks)} eval {self.noun}(s) are equal to a training {self.noun}, so "
                f"accuracy is overstated: {_pairs(self.leaks)}. Keep each on one side."
            )
        if self.conflicts:
            said.append(
                f"{len(self.conflicts)} {self.noun}(s) stand in two classes: "
                f"{_pairs(self.conflicts)}. Decide on one label."
            )
        if self.imbalance >= IMBALANCE:
            largest, smallest = (
                self.classes[int(pick(self.counts["train"]))] for pick in (np.argmax, np.argmin)
            )
            said.append(
                f"class {largest} has {self.imbalance:.0f} times the {self.noun}s of {smallest}; "
                "top-1 accuracy will say little about the small classes."
            )
        return tuple(said)

    def save(self, folder: Path) -> None:
        """Write the card as JSON."""
        write_atomic(folder / CARD_FILE, json.dumps(asdict(self), indent=1) + "\n")


def make_card(
    source: Source,
    findings: Sequence[Finding],
    splits: Mapping[str, Sequence[int]],
    *,
    num_damaged: int,
    num_unseen: int = 0,
) -> DataCard:
    """Describe the samples that stand in a split."""
    used = sorted({index for chosen in splits.values() for index in chosen})
    labels = [item.label for item in source.items]
    counts: dict[str, tuple[int, ...]] = {}
    for split, chosen in splits.items():
        counted = Counter(labels[index] for index in chosen)
        counts[split] = tuple(counted[label] for label in range(len(source.classes)))
    leaks, conflicts, repeats = _duplicates(source, findings, splits)
    return DataCard(
        name=source.name, classes=source.classes, counts=counts,
        widths=_spread([findings[index].width for index in used]),
        heights=_spread([findings[index].height for index in used]),
        modes=dict(Counter(findings[index].mode for index in used).most_common()),
        leaks=leaks, repeats=repeats, conflicts=conflicts, damaged=num_damaged,
        unseen=num_unseen, noun=source.noun,
    )  # fmt: skip


def _duplicates(
    source: Source, findings: Sequence[Finding], splits: Mapping[str, Sequence[int]]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...], int]:
    """Return pairs across splits, pairs of different labels, and how many repeat within train."""
    by_content: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for split in ("train", "eval"):
        for index in splits[split]:
            by_content[findings[index].sha256].append((split, index))
    leaks: list[tuple[str, str]] = []
    conflicts: list[tuple[str, str]] = []
    repeats = 0
    for equal in by_content.values():
        if len(equal) == 1:
            continue
        trained = [index for split, index in equal if split == "train"]
        repeats += max(0, len(trained) - 1)
        items = [source.items[index] for _, index in equal]
        if trained:
            first = source.items[trained[0]].name
            leaks += [(source.items[i].name, first) for split, i in equal if split == "eval"]
        conflicts += [(i.name, items[0].name) for i in items if i.label != items[0].label]
    return tuple(leaks), tuple(conflicts), repeats


def _spread(values: Sequence[int]) -> tuple[int, int, int]:
    return min(values), int(np.median(values)), max(values)


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    told = ", ".join(f"{one} = {other}" for one, other in pairs[:_NAMED])
    return told + (f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else "")
