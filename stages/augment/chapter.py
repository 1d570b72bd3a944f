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

FactRows = tuple[tuple[str, str | int | float], ...]
"""Names and values."""


def make_section(
    spec: DataSpec,
    card: DataCard,
    *,
    damaged: Sequence[Damaged],
    throughput: Throughput,
    examples: Block,
    facts: FactRows,
    transforms: TransformSpec,
    reason: str,
) -> Section:
    """Compose what the report shows of the data.

    Args:
        spec: what loaders hand over.
        card: counts and duplicates.
        damaged: what was left out.
        throughput: of the train loader alone.
        examples: samples as the model sees them.
        facts: what there is to say of images, of clips or of texts.
        transforms: the spec that every backend executes.
        reason: why this backend.
    """
    blocks: list[Block] = [Note(text=text, level="warning") for text in card.warnings()]
    blocks += [
        _facts(spec, card, throughput, facts),
        Note(text=f"Loader: {reason}."),
        _counts(card),
        *([_bars(card)] if len(card.classes) <= _MAX_BARS else []),
        examples,
        *([_damaged_table(damaged, card.noun)] if damaged else [_no_damage(card)]),
        Code(
            title="Transforms",
            text=transforms.to_json(),
            language="json",
            folded=True,
        ),
    ]
    summary = (
        f"{sum(card.counts['train']):,} training and {sum(card.counts['eval']):,} eval "
        f"{card.noun}s in {len(card.classes)} classes"
        + (f"; {len(damaged):,} damaged ones left out." if damaged else "; none damaged.")
    )
    return Section(title="Data", blocks=tuple(blocks), summary=summary)


def image_gallery(preview: str) -> Gallery:
    """Return the picture of augmented samples."""
    caption = "one row a class, as the model sees them"
    return Gallery(
        title="Augmented training samples", pictures=(Picture(path=preview, caption=caption),)
    )


def image_facts(card: DataCard) -> FactRows:
    """Return what the data card says of images alone."""
    return (
        ("Width, least / median / most", _triple(card.widths)),
        ("Height, least / median / most", _triple(card.heights)),
        ("Pixel modes", ", ".join(f"{mode} {count:,}" for mode, count in card.modes.items())),
    )


def _facts(spec: DataSpec, card: DataCard, throughput: Throughput, facts: FactRows) -> Facts:
    items: FactRows = (
        ("Data set", spec.name),
        ("Classes", len(spec.classes)),
        ("Handed over", _handed_over(spec)),
        ("Backend", spec.backend),
        ("Loader alone", f"{throughput.images_per_s:,.0f} {card.noun}s/s"),
        *facts,
        *_normalization(spec),
        ("Largest over smallest class", round(card.imbalance, 2)),
        (f"Equal {card.noun}s in train and eval", len(card.leaks)),
        (f"Equal {card.noun}s within train", card.repeats),
        ("Digest", spec.digest[:16]),
    )
    return Facts(title="Data card", items=items)


def _handed_over(spec: DataSpec) -> str:
    if spec.tokens is not None:
        return f"int32 tokens, up to {spec.tokens.length} a text"
    return f"uint8 {spec.height} x {spec.width} x {spec.channels}"


def _normalization(spec: DataSpec) -> FactRows:
    if not spec.mean:
        return ()
    return (
        ("Mean", ", ".join(f"{value:.4f}" for value in spec.mean)),
        ("Standard deviation", ", ".join(f"{value:.4f}" for value in spec.std)),
    )


def _counts(card: DataCard) -> Table:
    splits = tuple(card.counts)
    rows: list[tuple[Cell, ...]] = [
        (name, *(card.counts[split][label] for split in splits))
        for label, name in enumerate(card.classes[:_MAX_ROWS])
    ]
    hidden = len(card.classes) - len(rows)
    return Table(
        title=f"{card.noun.capitalize()}s by class and split",
        columns=("class", *splits),
        rows=(*rows, ("all", *(sum(card.counts[split]) for split in splits))),
        caption=f"Calibration {card.noun}s are drawn from train."
        + (f" {hidden} more classes are in card.json." if hidden else ""),
    )


def _bars(card: DataCard) -> BarChart:
    return BarChart(
        title=f"Training {card.noun}s by class",
        names=card.classes,
        values=tuple(float(count) for count in card.counts["train"]),
        unit=f"{card.noun}s",
    )


def _damaged_table(damaged: Sequence[Damaged], noun: str) -> Table:
    more = f"The first {_MAX_ROWS} of {len(damaged):,}. " if len(damaged) > _MAX_ROWS else ""
    return Table(
        title=f"Damaged {noun}s, left out",
        columns=(noun, "what is wrong"),
        rows=tuple((entry.name, entry.problem) for entry in damaged[:_MAX_ROWS]),
        caption=f"{more}All are named in {DAMAGED_FILE}.",
    )


def _no_damage(card: DataCard) -> Note:
    if card.unseen:
        return Note(text=f"None of the {card.noun}s that were looked at is damaged.")
    return Note(text=f"Every {card.noun} was read; none is damaged.", level="good")


def _triple(values: tuple[int, int, int]) -> str:
    return " / ".join(str(value) for value in values)
