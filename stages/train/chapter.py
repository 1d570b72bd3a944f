"""Chapter: the train stage's part of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.report.blocks import (
    Block,
    Cell,
    Facts,
    Gallery,
    LineChart,
    Matrix,
    Note,
    Picture,
    Section,
    Series,
    Table,
)
from stages.augment.loader import read_texts
from stages.train.amp_check import AmpCheck
from stages.train.batch_search import load_batch_search
from stages.train.efficiency import Efficiency
from stages.train.evaluate import Evaluation
from stages.train.fff.conversion import load_conversion
from stages.train.loop import Loop
from stages.train.profile import FOLDER, TRACE, read_operators
from stages.train.rate_search import load_search
from stages.train.stall import TOLERABLE

_MATRIX_LIMIT = 40
_PICTURES = 12
_PICTURE_PX = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What there is to tell."""

    trained: TrainedModel
    reference: Evaluation
    source: str
    """Where the chosen weights come from."""
    check: AmpCheck | None
    efficiency: Efficiency | None


def write_chapter(loop: Loop, outcome: Outcome) -> None:
    """Compose the chapter and leave it in the stage's folder."""
    trained = outcome.trained
    blocks: list[Block] = [_facts(loop, outcome), *_notes(loop, outcome), *_curves(loop)]
    search = load_search(loop.ctx.dir)
    blocks += [search.chart()] if search else []
    sizes = load_batch_search(loop.ctx.dir)
    blocks += [sizes.table()] if sizes else []
    conversion = load_conversion(loop.ctx.dir)
    blocks += [conversion.table()] if conversion else []
    blocks += [*_operators(loop), *loop.told]
    blocks += [_confusion(trained, outcome.reference), *_mistakes(loop, outcome)]
    section = Section(
        title="Training",
        summary=f"{loop.config.model} reaches {trained.metrics['top1']:.2%} top-1 in "
        f"{loop.position.epoch} epoch(s), trained in {trained.precision}.",
        blocks=tuple(blocks),
    )
    loop.ctx.write_section(section)


def _facts(loop: Loop, outcome: Outcome) -> Facts:
    metrics = outcome.trained.metrics
    items: list[tuple[str, Cell]] = [
        ("Model", loop.config.model),
        ("Parameters", f"{int(metrics['parameters']):,}"),
        ("Top-1, fp32", f"{metrics['top1']:.2%} of {len(outcome.reference.targets):,}"),
        *((f"Top-1, {hop.name}", f"{hop.top1:.2%}") for hop in outcome.trained.hops[1:]),
        ("Eval loss", round(metrics["loss"], 4)),
        ("Weights from", outcome.source),
        ("Stopped by", loop.position.finished),
        ("Epochs, steps", f"{loop.position.epoch}, {loop.learner.num_steps:,}"),
        ("Precision", f"{loop.learner.precision.name} ({loop.learner.precision.reason})"),
        ("Training time", f"{metrics['train_s']:.1f} s"),
        ("Speed", f"{metrics['images_per_s']:,.0f} {loop.ctx.get(DataSpec).noun}s/s"),
        ("Input stall", f"{metrics['input_stall']:.1%} of training time"),
        (
            "Waited for input",
            f"{metrics['input_wait_p50_ms']:.3g} ms or less in half of the steps, "
            f"{metrics['input_wait_p99_ms']:.3g} ms in 99 %; {metrics['stalled_steps']:.1%} of "
            f"steps waited for more than {TOLERABLE:.0%} of their time",
        ),
        ("Peak memory", f"{metrics['peak_memory_mb']:,.0f} MiB"),
    ]
    if outcome.efficiency is not None:
        items.append(("Model FLOPs utilization", str(outcome.efficiency)))
    return Facts(title="Result", items=tuple(items))


def _notes(loop: Loop, outcome: Outcome) -> list[Block]:
    notes: list[Block] = []
    if outcome.check is not None:
        text = f"AMP check before the first epoch: {outcome.check}."
        suspicious = outcome.check.is_suspicious
        notes.append(Note(text=text, level="warning" if suspicious else "good"))
    guard = loop.learner.guard
    skipped = guard.total
    if skipped or guard.rollbacks:
        text = (
            f"{skipped} step(s) were skipped for a loss or gradient that was not finite, and "
            f"training went back {guard.rollbacks} time(s); the learning rate ended at "
            f"x {loop.learner.schedule.scale:g}."
        )
        notes.append(Note(text=text, level="warning"))
    return notes


def _curves(loop: Loop) -> list[Block]:
    history, curve = loop.position.history, loop.position.curve
    evaluated = [row for row in history if row.top1 is not None]
    averaged = [row for row in history if row.ema_top1 is not None]
    losses = [
        Series(name="train", x=tuple(float(s) for s, _ in curve), y=tuple(v for _, v in curve))
    ]
    losses += _series("eval", [(row.step, row.eval_loss) for row in evaluated])
    losses += _series("eval, EMA", [(row.step, row.ema_loss) for row in averaged])
    accuracy = _series("model", [(row.step, row.top1) for row in evaluated])
    accuracy += _series("EMA", [(row.step, row.ema_top1) for row in averaged])
    rates = [(step, loop.learner.schedule.rate_at(step - 1)) for step, _ in curve]
    return [
        LineChart(title="Loss", x_label="step", y_label="cross-entropy", series=tuple(losses)),
        LineChart(title="Accuracy", x_label="step", y_label="top-1", series=tuple(accuracy)),
        LineChart(
            title="Learning rate",
            x_label="step",
            y_label="rate",
            series=tuple(_series("rate", [(s, r) for s, r in rates])),
        ),
    ]


def _operators(loop: Loop) -> list[Block]:
    found = read_operators(loop.ctx.dir / FOLDER)
    if not found:
        return []
    rows = tuple(
        (one.name, round(one.calls, 1), round(one.self_ms, 3), f"{one.share:.1%}") for one in found
    )
    return [
        Table(
            title="Slowest operators of a step",
            columns=("operator", "calls", "own time, ms", "share"),
            rows=rows,
            caption=f"Recorded by torch's profiler; the trace is {FOLDER}/{TRACE}.",
        )
    ]


def _series(name: str, points: list[tuple[int, float | None]]) -> list[Series]:
    known = [(float(x), y) for x, y in points if y is not None]
    return (
        [Series(name=name, x=tuple(x for x, _ in known), y=tuple(y for _, y in known))]
        if known
        else []
    )


def _confusion(trained: TrainedModel, reference: Evaluation) -> Block:
    counts = confusion(reference.logits.argmax(1), reference.targets, len(trained.classes))
    if len(trained.classes) <= _MATRIX_LIMIT:
        return Matrix(
            title="Confusion on the eval split",
            row_label="is",
            column_label="was taken for",
            names=trained.classes,
            values=tuple(tuple(int(v) for v in row) for row in counts),
        )
    np.fill_diagonal(counts, 0)
    worst = np.argsort(counts, axis=None)[::-1][:20]
    pairs = [(int(i) // len(counts), int(i) % len(counts)) for i in worst]
    rows = tuple(
        (trained.classes[a], trained.classes[b], int(counts[a, b]))
        for a, b in pairs
        if counts[a, b]
    )
    return Table(
        title="Most frequent confusions", columns=("is", "was taken for", "times"), rows=rows
    )


def confusion(answers: torch.Tensor, targets: torch.Tensor, classes: int) -> NDArray[np.int64]:
    """Count (target, answer) pairs: rows are what a sample is, columns what it was taken for."""
    pairs = torch.bincount(targets * classes + answers, minlength=classes * classes)
    return pairs.view(classes, classes).numpy().astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A sample that was answered wrongly."""

    index: int
    """Its position in the manifest."""
    true: str
    said: str
    confidence: str


def _mistakes(loop: Loop, outcome: Outcome) -> list[Block]:
    """Show the samples that were answered wrongly with most confidence."""
    reference, classes = outcome.reference, outcome.trained.classes
    confidence, answers = reference.logits.softmax(1).max(1)
    wrong = (answers != reference.targets).nonzero().flatten()
    if not len(wrong):
        return [Note(text="No sample of the eval split is answered wrongly.", level="good")]
    worst = [
        Mistake(
            index=int(reference.index[row]),
            true=classes[int(reference.targets[row])],
            said=classes[int(answers[row])],
            confidence=f"{float(confidence[row]):.0%}",
        )
        for row in wrong[confidence[wrong].argsort(descending=True)][:_PICTURES].tolist()
    ]
    caption = f"The {len(worst)} of {len(wrong)} mistakes that the model was surest of."
    if loop.ctx.get(DataSpec).kind == "text":
        return [_table_of(worst, loop, caption)]
    return [_gallery_of(worst, loop, caption)]


def _table_of(worst: Sequence[Mistake], loop: Loop, caption: str) -> Table:
    texts = read_texts(loop.ctx.get(DataSpec), "eval")
    rows = [(" | ".join(texts[m.index]), m.true, m.said, m.confidence) for m in worst]
    columns = ("text", "is", "taken for", "confidence")
    return Table(title="Surest mistakes", columns=columns, rows=tuple(rows), caption=caption)


def _gallery_of(worst: Sequence[Mistake], loop: Loop, caption: str) -> Gallery:
    images = _images_at({mistake.index for mistake in worst}, loop)
    folder = loop.ctx.dir / "mistakes"
    folder.mkdir(exist_ok=True)
    pictures = []
    for mistake in worst:
        if mistake.index not in images:
            continue
        _draw(images[mistake.index]).save(folder / f"{mistake.index}.png")
        told = f"is {mistake.true}, taken for {mistake.said} ({mistake.confidence})"
        pictures.append(Picture(path=f"mistakes/{mistake.index}.png", caption=told))
    return Gallery(title="Surest mistakes", pictures=tuple(pictures), caption=caption)


def _images_at(wanted: set[int], loop: Loop) -> dict[int, NDArray[np.uint8]]:
    found: dict[int, NDArray[np.uint8]] = {}
    for batch in loop.eval_loader:
        loop.ctx.stop.check()
        for row, index in enumerate(batch.index.tolist()):
            if index in wanted:
                found[index] = batch.inputs[row].cpu().numpy()
        if len(found) == len(wanted):
            break
    return found


def _draw(pixels: NDArray[np.uint8]) -> Image.Image:
    # Mode L has no channel axis in Pillow.
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3])
    factor = max(1, _PICTURE_PX // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
