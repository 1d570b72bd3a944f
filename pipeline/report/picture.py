"""Picture: an image file as a data URI, taken only from the stage's own folder."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

LARGEST_BYTES = 2_000_000
LARGEST_TOTAL_BYTES = 24_000_000
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


class PictureLeftOut(Exception):
    """A picture is not shown; the message says why."""


@dataclass(frozen=True, slots=True)
class Inlined:
    """A picture that travels inside the page."""

    uri: str
    width: int | None
    """None where the format does not say it in a fixed place."""
    height: int | None


@dataclass
class Album:
    """Inlines pictures until the page would grow too large."""

    run_dir: Path
    left_bytes: int = LARGEST_TOTAL_BYTES

    def inline(self, folder: str, name: str) -> Inlined:
        """Return a picture of a stage's folder.

        Raises:
            PictureLeftOut: it is not there, lies elsewhere, is no PNG or JPEG, or is too large.
        """
        home = (self.run_dir / folder).resolve()
        try:
            path = (home / name).resolve()
            if not path.is_relative_to(home):
                raise PictureLeftOut("it lies outside the stage's folder")
            size = path.stat().st_size
            if size > min(LARGEST_BYTES, self.left_bytes):
                raise PictureLeftOut(f"{size / 1e6:.1f} MB are too large to travel in the page")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise PictureLeftOut(getattr(error, "strerror", None) or str(error)) from error
        self.left_bytes -= size
        encoded = base64.b64encode(data).decode()
        if data.startswith(_PNG) and len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
            return Inlined(f"data:image/png;base64,{encoded}", width, height)
        if data.startswith(_JPEG):
            return Inlined(f"data:image/jpeg;base64,{encoded}", None, None)
        raise PictureLeftOut("it is neither PNG nor JPEG")
