"""EncodedImages: files as bytes, with the sizes that their headers state."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.augment.images import DamagedImage
from stages.augment.reader import FileReader

ORIENTATION = 0x0112
"""EXIF tag."""
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
HEADER_ERRORS = (OSError, ValueError, SyntaxError)
"""What Pillow raises for a file that it cannot read."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file states before its pixels come."""

    height: int
    """As shown, after the turn that EXIF asks for."""
    width: int
    plain_jpeg: bool
    """A JPEG in gray or YCbCr that stands upright: libjpeg's answer needs no further step."""


def read_header(encoded: bytes) -> Header:
    """Read a file's header, without decoding."""
    with Image.open(io.BytesIO(encoded)) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
        height, width = image.height, image.width
        plain = image.format == "JPEG" and image.mode in ("L", "RGB") and orientation == 1
    turned = orientation in _TURNED
    return Header(width, height, plain) if turned else Header(height, width, plain)


class EncodedImages:
    """Reads the files of a split and remembers their sizes."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._sizes = np.zeros((len(reader.labels), 2), dtype=np.int64)
        self._plain_jpeg = np.zeros(len(reader.labels), dtype=np.bool_)

    def fetch(self, positions: NDArray[np.int64]) -> tuple[list[bytes], NDArray[np.int64]]:
        """Return the files at these positions and their sizes (N, 2).

        Raises:
            DamagedImage: one of them has no readable header.
        """
        files = [self._fetch_one(int(position)) for position in positions]
        return files, self._sizes[positions]

    def _fetch_one(self, position: int) -> bytes:
        try:
            encoded = self._reader.read(position)
            if not self._sizes[position].any():
                header = read_header(encoded)
                self._sizes[position] = header.height, header.width
                self._plain_jpeg[position] = header.plain_jpeg
        except HEADER_ERRORS as error:
            raise self.damaged(position, str(error)) from error
        return encoded

    def is_plain_jpeg(self, position: int) -> bool:
        """Tell whether the file at a position, fetched before, is a `Header.plain_jpeg`."""
        return bool(self._plain_jpeg[position])

    def damaged(self, position: int, reason: str) -> DamagedImage:
        """Return the error that names the image at a position."""
        return DamagedImage(position, self._reader.name(position), reason)
