"""Chapter: the augment stage's part of the report."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.artifacts import DataSpec
from pipeline.report.blocks import (
    BarChart,
    Block,
    Cell,
    Code,
    Facts,
    Gallery,
    Note,
    Picture,
    Section,
    Table,
)
from stages.augment.card import DataCard
from stages.augment.measure import Throughput
from stages.augment.quarantine import DAMAGED_FILE, Damaged
from stages.augment.spec import TransformSpec

_MAX_ROWS = 50
_MAX_BARS = 30


def make_section(
    spec: DataSpec,
    card: DataCard,
    *,
    damaged: Sequence[Damaged],
    throughput: Throughput,
    preview: str,
    transforms: TransformSpec,
    reason: str,
) -> Section:
    """Compose what the report shows of the data."""
    blocks: list[Block] = [Note(text=text, level="warning") for text in card.warnings()]
    blocks += [
        _facts(spec, card, throughput),
        Note(text=f"Loader: {reason}."),
        _counts(card),
        *([_bars(card)] if len(card.classes) <= _MAX_BARS else []),
        Gallery(
            title="Augmented training samples",
            pictures=(Picture(path=preview, caption="one row a class, as the model sees them"),),
        ),
        *([_damaged_table(damaged)] if damaged else [_no_damage()]),
        Code(
            title="Transforms",
            text=transforms.model_dump_json(indent=1),
            language="json",
            folded=True,
        ),
    ]
    summary = (
        f"{sum(card.counts['train']):,} training and {sum(card.counts['eval']):,} eval images in "
        f"{len(card.classes)} classes"
        + (f"; {len(damaged):,} damaged ones left out." if damaged else "; none damaged.")
    )
    return Section(title="Data", blocks=tuple(blocks), summary=summary)


def _facts(spec: DataSpec, card: DataCard, throughput: Throughput) -> Facts:
    items: tuple[tuple[str, str | int | float], ...] = (
        ("Data set", spec.name),
        ("Classes", len(spec.classes)),
        ("Handed over", f"uint8 {spec.height} x {spec.width} x {spec.channels}"),
        ("Backend", spec.backend),
        ("Loader alone", f"{throughput.images_per_s:,.0f} images/s"),
        ("Width, least / median / most", _triple(card.widths)),
        ("Height, least / median / most", _triple(card.heights)),
        ("Pixel modes", ", ".join(f"{mode} {count:,}" for mode, count in card.modes.items())),
        ("Mean", ", ".join(f"{value:.4f}" for value in spec.mean)),
        ("Standard deviation", ", ".join(f"{value:.4f}" for value in spec.std)),
        ("Largest over smallest class", round(card.imbalance, 2)),
        ("Equal files in train and eval", len(card.leaks)),
        ("Equal files within train", card.repeats),
        ("Digest", spec.digest[:16]),
    )
    return Facts(title="Data card", items=items)


def _counts(card: DataCard) -> Table:
    splits = tuple(card.counts)
    rows: list[tuple[Cell, ...]] = [
        (name, *(card.counts[split][label] for split in splits))
        for label, name in enumerate(card.classes[:_MAX_ROWS])
    ]
    hidden = len(card.classes) - len(rows)
    return Table(
        title="Images by class and split",
        columns=("class", *splits),
        rows=(*rows, ("all", *(sum(card.counts[split]) for split in splits))),
        caption="Calibration images are drawn from train."
        + (f" {hidden} more classes are in card.json." if hidden else ""),
    )


def _bars(card: DataCard) -> BarChart:
    return BarChart(
        title="Training images by class",
        names=card.classes,
        values=tuple(float(count) for count in card.counts["train"]),
        unit="images",
    )


def _damaged_table(damaged: Sequence[Damaged]) -> Table:
    more = f"The first {_MAX_ROWS} of {len(damaged):,}. " if len(damaged) > _MAX_ROWS else ""
    return Table(
        title="Damaged images, left out",
        columns=("image", "what is wrong"),
        rows=tuple((entry.name, entry.problem) for entry in damaged[:_MAX_ROWS]),
        caption=f"{more}All are named in {DAMAGED_FILE}.",
    )


def _no_damage() -> Note:
    return Note(text="Every image was read and decoded; none is damaged.", level="good")


def _triple(values: tuple[int, int, int]) -> str:
    return " / ".join(str(value) for value in values)
