"""Loader: images a second from ours, from torchvision and from raw DALI, on the same JPEGs.

python -m benchmarks.loader

Every side reads the same generated photos (500x375, about 93 kB), cuts a random part out, lays it
onto 224x224 and mirrors half of them. "ours" is what ``backend: auto`` takes for them. Ours hands
over uint8; the normalization that others do in the loader is our model's first layer, so one more
side does it here too. A second table is about photos of 2400x1800 that are taken whole, a third
about small images that are held as one array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.clock import Stopwatch
from benchmarks.command import conclude, make_parser, print_table, rates, rounds_of
from benchmarks.loaders import SIZE, Batches, as_levels
from benchmarks.loaders.ours import array_spec, normalized, open_ours, photo_spec
from benchmarks.loaders.raw_dali import raw_dali
from benchmarks.loaders.torchvision_pil import array_batches, photo_batches
from benchmarks.machine import Watch, num_threads
from benchmarks.measure import Measured, Side, Turn, take_turns
from benchmarks.photos import (
    CLASSES,
    LARGE_PHOTO,
    PHOTO,
    Photo,
    mean_kilobytes,
    small_images,
    write_photos,
)
from pipeline.device import CPU
from stages.augment.backends import choose_backend
from stages.train.allocator import freed_memory_kept

OURS, OURS_FLOAT, OURS_DALI = "ours", "ours + normalize", "ours dali-cpu"
PIL, RAW, RAW_UINT8 = "torchvision PIL", "raw DALI float", "raw DALI uint8"
ARRAY, PER_SAMPLE = "ours array", "torchvision per sample"
SMALL_SIDE, SMALL_CHANNELS, ARRAY_BATCH = 28, 1, 256
LARGE_BATCH = 16
PREPARED_BATCHES = 4
"""More than any side prepares ahead: two workers with two batches each."""

TARGETS = {
    "photos: ours / torchvision PIL": 2.0,
    "photos: ours / raw DALI float": 1.3,
    "photos: ours dali-cpu / raw DALI uint8": 0.95,
    "large photos: ours / raw DALI float": 2.0,
    "ours array / torchvision per sample": 10.0,
}
_CHECKED_BATCHES = 2
_LEVELS_OFF, _SPREAD_OFF = 6.0, 0.15
"""How far mean and standard deviation of a few hundred randomly cut photos may lie apart."""


def main() -> None:
    parser = make_parser("loader", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch, rounds = Watch(), rounds_of(options)
    batch_size, batches = (8, 2) if options.quick else (64, 8)
    with TemporaryDirectory(prefix="dlpipe-loader-") as scratch, ExitStack() as stack:
        stack.enter_context(freed_memory_kept())  # as the train stage does, here for all sides
        usual = open_photos(Path(scratch) / "photos", PHOTO, 64 if options.quick else 256)
        large = open_photos(Path(scratch) / "large", LARGE_PHOTO, 16 if options.quick else 64)
        feeds = open_photo_feeds(usual, batch_size, stack)
        check_same_work(feeds, (batch_size, SIZE, SIZE, 3))
        measured = take_turns(_sides(feeds, batches), rounds=rounds, unit="img")
        large_batch = 2 if options.quick else LARGE_BATCH
        large_feeds = open_large_feeds(large, large_batch, stack)
        check_same_work(large_feeds, (large_batch, SIZE, SIZE, 3))
        measured_large = take_turns(_sides(large_feeds, batches), rounds=rounds, unit="img")
        small = open_array_feeds(Path(scratch), 2_000 if options.quick else 20_000, stack)
        check_same_work(small, (ARRAY_BATCH, SMALL_SIDE, SMALL_SIDE, SMALL_CHANNELS))
        arrays = take_turns(_sides(small, 2 if options.quick else 8), rounds=rounds, unit="img")
    print_table(f"photos 500x375, {usual.kilobytes:.0f} kB, to {SIZE}x{SIZE}", measured, PIL)
    print_table(
        f"photos 2400x1800, {large.kilobytes:.0f} kB, to {SIZE}x{SIZE}", measured_large, PIL
    )
    print_table(f"small images {SMALL_SIDE}x{SMALL_SIDE}, held in memory", arrays, PER_SAMPLE)
    notes = [
        f"{num_threads()} threads or worker processes; 1 thread for small images",
        "ours and raw DALI uint8 leave the normalization to the model",
    ]
    conclude("loader", watch, figures_of(measured, measured_large, arrays), TARGETS, notes)


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos on disk."""

    folder: Path
    photos: list[Photo]
    kilobytes: float


def open_photos(folder: Path, size: tuple[int, int], count: int) -> Photos:
    """Write so many photos of a size (H, W)."""
    photos = write_photos(folder, count, size)
    return Photos(folder, photos, mean_kilobytes(photos))


def open_photo_feeds(usual: Photos, batch_size: int, stack: ExitStack) -> dict[str, Batches]:
    """Open every loader over the same photos, of which random parts are cut out."""
    threads = num_threads()
    # First, because its workers are forks: they should inherit no other side's threads.
    pil = photo_batches(usual.folder, batch_size, threads)
    next(pil)
    spec = photo_spec(usual.folder, usual.photos, batch_size)
    taken, _ = choose_backend(
        "auto", CPU, reader=spec.reader, source_size=PHOTO, target=(SIZE, SIZE),
        samples=len(usual.photos), crops=True, geometry_only=True,
    )  # fmt: skip
    return {
        OURS: stack.enter_context(open_ours(spec, taken)),
        OURS_FLOAT: normalized(stack.enter_context(open_ours(spec, taken)), channels=3),
        OURS_DALI: stack.enter_context(open_ours(spec, "dali-cpu")),
        PIL: pil,
        RAW: raw_dali(usual.photos, batch_size, threads, normalize=True),
        RAW_UINT8: raw_dali(usual.photos, batch_size, threads, normalize=False),
    }


def open_large_feeds(large: Photos, batch_size: int, stack: ExitStack) -> dict[str, Batches]:
    """Open every loader over large photos that are taken whole."""
    threads = num_threads()
    pil = photo_batches(large.folder, batch_size, threads, crop=False)
    next(pil)
    spec = photo_spec(large.folder, large.photos, batch_size, crop=False)
    taken, _ = choose_backend(
        "auto", CPU, reader=spec.reader, source_size=LARGE_PHOTO, target=(SIZE, SIZE),
        samples=len(large.photos), geometry_only=True,
    )  # fmt: skip
    return {
        OURS: stack.enter_context(open_ours(spec, taken)),
        PIL: pil,
        RAW: raw_dali(large.photos, batch_size, threads, normalize=True, crop=False),
    }


def open_array_feeds(folder: Path, count: int, stack: ExitStack) -> dict[str, Batches]:
    """Open both loaders of small images; both hand over normalized float32."""
    images = small_images(0, count, SMALL_SIDE, SMALL_CHANNELS)
    spec = array_spec(folder, images, ARRAY_BATCH)
    tensors, labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.arange(count) % CLASSES
    return {
        ARRAY: normalized(stack.enter_context(open_ours(spec, "array")), SMALL_CHANNELS),
        PER_SAMPLE: array_batches(tensors.contiguous(), labels, ARRAY_BATCH),
    }


def check_same_work(feeds: Mapping[str, Batches], shape: tuple[int, int, int, int]) -> None:
    """Compare the first batches of all sides: their shape, and how their pixels are distributed.

    Raises:
        AssertionError: a side hands over something else than the others.
    """
    count, height, width, channels = shape
    found: dict[str, tuple[float, float]] = {}
    for name, batches in feeds.items():
        levels = torch.cat([as_levels(next(batches)) for _ in range(_CHECKED_BATCHES)])
        expected = (_CHECKED_BATCHES * count, channels, height, width)
        assert levels.shape == expected, f"{name}: {tuple(levels.shape)} instead of {expected}"
        found[name] = (float(levels.mean()), float(levels.std()))
    means, deviations = zip(*found.values(), strict=True)
    assert max(means) - min(means) < _LEVELS_OFF, f"the sides' mean pixels differ: {found}"
    assert max(deviations) < (1 + _SPREAD_OFF) * min(deviations), f"contrast differs: {found}"


def _sides(feeds: Mapping[str, Batches], batches: int) -> list[Side]:
    return [Side(name, _turn(feed, batches)) for name, feed in feeds.items()]


def _turn(feed: Batches, batches: int) -> Callable[[], Turn]:
    def turn() -> Turn:
        # What a side has prepared in the background comes out at once: not part of its speed.
        for _ in range(PREPARED_BATCHES):
            next(feed)
        watch = Stopwatch()
        images = sum(len(next(feed)) for _ in range(batches))
        return Turn(units=images, wall_s=watch.wall_s, cpu_s=watch.cpu_s)

    return turn


def figures_of(photos: Measured, large: Measured, arrays: Measured) -> dict[str, float]:
    """Return speeds and ratios by name."""
    figures = {**rates("photos", photos), **rates("large photos", large), **rates("arrays", arrays)}
    pairs = [(OURS, PIL), (OURS, RAW), (OURS_FLOAT, PIL), (OURS_FLOAT, RAW), (OURS_DALI, PIL),
             (OURS_DALI, RAW_UINT8), (RAW, PIL)]  # fmt: skip
    for title, measured in (("photos", photos), ("large photos", large)):
        for side, other in pairs:
            if side in measured.turns and other in measured.turns:
                ratio = f"{title}: {side} / {other}"
                figures[ratio] = measured.ratio(side, other)
                figures[f"{ratio}, cpu"] = measured.ratio(side, other, "cpu")
    # One thread each, so on an idle machine both clocks agree, and this one on a busy one too.
    figures[f"{ARRAY} / {PER_SAMPLE}"] = arrays.ratio(ARRAY, PER_SAMPLE, "cpu")
    return figures


if __name__ == "__main__":
    main()
