"""Scan: every image file is read, checked and decoded once; findings are kept for the next run.

DALI stops at a damaged file, sometimes without naming it, and cannot skip it: all are found first.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline.context import Context
from stages.augment.media import Media
from stages.augment.scan_cache import ScanCache, Stamp
from stages.augment.sources import Finding

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
MODES = ("L", "RGB", "RGBA", "LA", "P", "1")
MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs."""
_CHUNK = 256
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError,
    OverflowError, ZeroDivisionError, zlib.error, NotImplementedError, RuntimeError, AttributeError,
    MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow's plugins are known to raise on hostile bytes."""


def scan_files(
    files: Sequence[Path], roots: Sequence[Path], ctx: Context, media: Media | None = None
) -> list[Finding]:
    """Look at every file; those that have not changed since the last scan are not read again."""
    media = media or IMAGES
    inside = any(root.is_relative_to(ctx.dir.resolve()) for root in roots[:1])
    cache = ScanCache.load("" if inside else _cache_key(roots[0], media), Finding)
    stamps = [stamp_of(file) for file in files]
    findings: dict[int, Finding] = {}
    for index, (file, stamp) in enumerate(zip(files, stamps, strict=True)):
        known = cache.get(str(file), stamp)
        if known is not None:
            findings[index] = known
    fresh = [index for index in range(len(files)) if index not in findings]
    if not fresh:
        return [findings[index] for index in range(len(files))]
    try:
        with (
            bombs_are_errors(),
            ctx.events.progress("scan", total=len(files), unit=media.noun) as bar,
            ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
        ):
            bar.advance(len(findings))
            for start in range(0, len(fresh), _CHUNK):
                ctx.stop.check()
                chunk = fresh[start : start + _CHUNK]
                looked = pool.map(lambda index: check_file(files[index], roots, media.check), chunk)
                for index, finding in zip(chunk, looked, strict=True):
                    findings[index] = finding
                    if finding.sha256:
                        cache.put(str(files[index]), stamps[index], finding)
                bar.advance(len(chunk))
    finally:
        warning = cache.save()
        if warning:
            ctx.events.info(warning)
    return [findings[index] for index in range(len(files))]


def _cache_key(root: Path, media: Media) -> str:
    return str(root) if media is IMAGES else f"{root} {media.noun}s"


def check_file(file: Path, roots: Sequence[Path], check: Callable[[bytes], Finding]) -> Finding:
    """Look at one file; never raises for what the file may be."""
    try:
        target = file.resolve(strict=True)
        if not any(target.is_relative_to(root) for root in roots):
            return Finding(problem=f"is a link that leads out of the data folder, to {target}")
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            return Finding(problem="is not a regular file")
        if status.st_size == 0:
            return Finding(problem="is empty (0 bytes)")
        if status.st_size > MAX_FILE_BYTES:
            return Finding(problem=f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        data = target.read_bytes()
    except (OSError, RuntimeError) as error:  # resolve() raises RuntimeError for a loop of links
        return Finding(problem=f"cannot be read: {getattr(error, 'strerror', None) or error}")
    return check(data)


def check_image(data: bytes) -> Finding:
    """Look at the bytes of one encoded image: format, size, mode, end marker, and a full decode."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        with Image.open(io.BytesIO(data)) as image:
            (width, height), mode, kind = image.size, image.mode, image.format or "?"
            problem = _header_problem(kind, mode, width, height) or _end_problem(kind, data)
            if not problem:
                image.load()
    except UnidentifiedImageError:
        return Finding(sha256=digest, problem="is not an image: no known header")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Finding(sha256=digest, problem=f"has more than {MAX_PIXELS:,} pixels")
    except _DECODE_ERRORS as error:
        return Finding(sha256=digest, problem=f"cannot be decoded: {error}")
    return Finding(sha256=digest, width=width, height=height, mode=mode, kind=kind, problem=problem)


def _header_problem(kind: str, mode: str, width: int, height: int) -> str:
    if kind not in FORMATS:
        return f"is a {kind} image; allowed are {', '.join(FORMATS)}"
    if width * height > MAX_PIXELS:
        return f"has more than {MAX_PIXELS:,} pixels"
    if mode not in MODES:
        return f"has the pixel mode {mode}; convert it to 8-bit RGB or grey"
    return ""


def _end_problem(kind: str, data: bytes) -> str:
    """Tell a file that was cut short from one with trailing bytes, which decoders accept."""
    if kind == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return "is truncated: a JPEG without its end marker"
    if kind == "PNG" and data.rfind(b"IEND") < 0:
        return "is truncated: a PNG without its end chunk"
    return ""


IMAGES = Media(
    noun="image",
    endings=(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    example="cat/001.jpg and dog/001.jpg", check=check_image,
)  # fmt: skip


def stamp_of(file: Path) -> Stamp | None:
    """Return what changes when a file does; None when it cannot be seen."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Make Pillow refuse images that are too large, and keep its other warnings to itself.

    Filters are global to the process, so this is set around a pool and not inside its threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
