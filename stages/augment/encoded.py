"""EncodedImages: files as bytes, with the sizes that their headers state."""

from __future__ import annotations

import io

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


def image_size(encoded: bytes) -> tuple[int, int]:
    """Return height and width as shown, read from the header without decoding."""
    with Image.open(io.BytesIO(encoded)) as image:
        height, width = image.height, image.width
        turned = image.getexif().get(ORIENTATION) in _TURNED
    return (width, height) if turned else (height, width)


class EncodedImages:
    """Reads the files of a split and remembers their sizes."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._sizes = np.zeros((len(reader.labels), 2), dtype=np.int64)

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
                self._sizes[position] = image_size(encoded)
        except HEADER_ERRORS as error:
            raise self.damaged(position, str(error)) from error
        return encoded

    def damaged(self, position: int, reason: str) -> DamagedImage:
        """Return the error that names the image at a position."""
        return DamagedImage(position, self._reader.name(position), reason)
