"""ScanCache: findings of earlier scans by path, size and time, below ``~/.cache/dlpipe``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from PIL import __version__ as pillow_version
from pydantic import TypeAdapter, ValidationError

from pipeline.files import sha256_text, write_atomic

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""
_SCANNER = f"2 pillow-{pillow_version}"
"""Another scanner may judge differently: its findings are not used."""


T = TypeVar("T")


def cache_dir() -> Path:
    """Return the folder for caches, as the XDG base directory specification says."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return home / "dlpipe"


@dataclass(slots=True)
class ScanCache(Generic[T]):
    """Findings by path; those whose file has changed since do not count."""

    path: Path | None
    """None: nothing is kept."""
    form: TypeAdapter[tuple[str, dict[str, tuple[Stamp, T]]]]
    """Scanner and findings, as they are stored."""
    known: dict[str, tuple[Stamp, T]] = field(default_factory=dict)

    @classmethod
    def load(cls, root: str, finding: type[T]) -> ScanCache[T]:
        """Read what is known about a data folder; an unreadable cache counts as empty."""
        form: TypeAdapter[tuple[str, dict[str, tuple[Stamp, T]]]] = TypeAdapter(
            tuple[str, dict[str, tuple[Stamp, finding]]]  # type: ignore[valid-type]
        )
        if not root:
            return cls(path=None, form=form)
        path = cache_dir() / "scan" / f"{sha256_text(root)[:32]}.json"
        try:
            scanner, known = form.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return cls(path=path, form=form)
        return cls(path=path, form=form, known=known if scanner == _SCANNER else {})

    def get(self, name: str, stamp: Stamp | None) -> T | None:
        """Return the finding for a file in this very state, or None."""
        entry = self.known.get(name)
        return entry[1] if entry is not None and entry[0] == stamp else None

    def put(self, name: str, stamp: Stamp | None, finding: T) -> None:
        """Remember a finding."""
        if stamp is not None:
            self.known[name] = (stamp, finding)

    def save(self) -> str:
        """Write it whole or not at all; returns why it could not be kept, or an empty string."""
        if self.path is None:
            return ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, self.form.dump_json((_SCANNER, self.known)))
        except OSError as error:
            return f"the scan is not kept for the next run: {self.path.parent}: {error.strerror}."
        return ""
