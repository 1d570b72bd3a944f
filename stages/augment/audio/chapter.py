"""Chapter: what the report shows of clips: how long and how fast they are, and their spectrograms.

The gallery has two columns of pictures a class: a training clip as eval would see it, and the same
clip as training saw it once, with its shift, noise and masks.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.artifacts import DataSpec
from pipeline.context import Context
from pipeline.files import write_atomic
from pipeline.report.blocks import Gallery, Picture
from stages.augment.audio.features import AudioFeatures
from stages.augment.chapter import FactRows
from stages.augment.loader import open_loader
from stages.augment.sources import Finding

MAX_CLASSES = 12
_FOLDER = "spectrograms"
_SCALE = 2
_GAP = 4
_MAX_CLIPS = 4096

Pictures = NDArray[np.uint8]  # (N, H, W, 1)


def clip_facts(findings: Sequence[Finding], features: AudioFeatures) -> FactRows:
    """Return rates, durations and formats of the clips, and what becomes of them."""
    seconds = sorted(finding.seconds for finding in findings)
    median = seconds[len(seconds) // 2]
    return (
        ("Seconds, least / median / most", f"{seconds[0]:.2f} / {median:.2f} / {seconds[-1]:.2f}"),
        ("Sample rates", _counted(f"{f.sample_rate:,} Hz" for f in findings)),
        ("Channels", _counted(f.mode for f in findings)),
        ("Formats", _counted(f.kind for f in findings)),
        ("Taken of each", f"{features.seconds:g} s at {features.sample_rate:,} Hz, mono"),
        (
            "Spectrogram",
            f"{features.mels} mel bands from {features.low_hz:g} to {features.top_hz:,.0f} Hz, "
            f"windows of {features.window_ms:g} ms every {features.hop_ms:g} ms",
        ),
        ("One step of uint8", f"{-features.floor_db / 255:.2f} dB, from {features.floor_db:g} dB"),
    )


def clip_gallery(spec: DataSpec, ctx: Context) -> Gallery:
    """Draw one clip of each of the first classes, before and after augmentation."""
    after = _first_of_each(spec, ctx)
    before = _unchanged(spec, [index for index, _ in after.values()], ctx)
    pictures: list[Picture] = []
    (ctx.dir / _FOLDER).mkdir(exist_ok=True)
    for label, (index, changed) in sorted(after.items()):
        path = f"{_FOLDER}/{label}.png"
        buffer = io.BytesIO()
        _side_by_side(before[index], changed).save(buffer, format="PNG")
        write_atomic(ctx.dir / path, buffer.getvalue())
        pictures.append(Picture(path=path, caption=spec.classes[label]))
    return Gallery(
        title="Spectrograms of training clips",
        pictures=tuple(pictures),
        caption="Left as eval sees the clip, right as training saw it once. Time runs to "
        "the right, low frequencies are at the bottom, bright is loud.",
    )


def _first_of_each(spec: DataSpec, ctx: Context) -> dict[int, tuple[int, Pictures]]:
    """Return by class the manifest position and the augmented picture of one training clip."""
    wanted = min(len(spec.classes), MAX_CLASSES)
    found: dict[int, tuple[int, Pictures]] = {}
    seen = 0
    with closing(open_loader(spec, "train", device=ctx.device, seed=ctx.seed)) as loader:
        for batch in loader:
            ctx.stop.check()
            pictures = batch.inputs.cpu().numpy()
            for row, label in enumerate(batch.targets.tolist()):
                if label < wanted:
                    found.setdefault(label, (int(batch.index[row]), pictures[row]))
            seen += len(pictures)
            if len(found) == wanted or seen >= _MAX_CLIPS:
                break
    return found


def _unchanged(spec: DataSpec, wanted: Sequence[int], ctx: Context) -> dict[int, Pictures]:
    """Return training clips by manifest position, through the eval transform."""
    as_eval = replace(spec, splits={"eval": spec.splits["train"]})
    found: dict[int, Pictures] = {}
    with closing(open_loader(as_eval, "eval", device=ctx.device)) as loader:
        for batch in loader:
            ctx.stop.check()
            for row, index in enumerate(batch.index.tolist()):
                if index in wanted:
                    found[index] = batch.inputs[row].cpu().numpy()
            if len(found) == len(set(wanted)):
                break
    return found


def _side_by_side(before: Pictures, after: Pictures) -> Image.Image:
    height, width = before.shape[:2]
    canvas = np.full((height, 2 * width + _GAP), 255, dtype=np.uint8)
    canvas[:, :width], canvas[:, width + _GAP :] = before[..., 0], after[..., 0]
    picture = Image.fromarray(canvas)
    size = (picture.width * _SCALE, picture.height * _SCALE)
    return picture.resize(size, Image.Resampling.NEAREST)


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {count:,}" for word, count in Counter(words).most_common(6))
