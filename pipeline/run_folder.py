"""RunFolder: where everything of a run lies, and the moves that keep it whole.

runs/quickstart/
  config.yaml environment.json run.json events.jsonl report.html report.json
  augment/          a finished stage: artifact.json, section.json, fingerprint.json and its files
  train.partial/    a stage at work or interrupted; renamed to train/ when it is done
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache import Fingerprint, goes_on, load_fingerprint, save_fingerprint
from pipeline.errors import DlpipeError
from pipeline.files import sync_folder
from pipeline.store import ARTIFACT_FILE, saved_type


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def create(self) -> None:
        """Make the folder.

        Raises:
            DlpipeError: it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise DlpipeError(
                f"{self.path}: cannot be written to: {error.strerror}. "
                "Choose another place with --runs-dir."
            ) from error

    def stage(self, name: str) -> Path:
        """Return the folder of a finished stage."""
        return self.path / name

    def partial(self, name: str) -> Path:
        """Return the folder in which a stage works until it is done."""
        return self.path / f"{name}.partial"

    def has_artifact(self, name: str) -> bool:
        """Tell whether a finished stage left its artifact."""
        return (self.stage(name) / ARTIFACT_FILE).is_file()

    def find(self, kind: type) -> Path | None:
        """Return the newest stage folder that holds an artifact of a type."""
        wanted = f"{kind.__module__}:{kind.__qualname__}"
        records = self.path.glob(f"*/{ARTIFACT_FILE}")
        for record in sorted(records, key=lambda path: path.stat().st_mtime, reverse=True):
            if (
                not record.parent.name.endswith((".partial", ".old"))
                and saved_type(record.parent) == wanted
            ):
                return record.parent
        return None

    def begin(self, name: str, parts: Fingerprint) -> Path:
        """Open the folder a stage works in: that of an interrupted attempt if nothing changed."""
        partial = self.partial(name)
        if partial.exists() and not goes_on(load_fingerprint(partial), parts):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        save_fingerprint(parts, partial)
        return partial

    def finish(self, name: str) -> Path:
        """Make the partial folder the finished one; a crash between leaves the old one or the new
        one.
        """
        final, old = self.stage(name), self.path / f"{name}.old"
        self.recover(name)
        if final.exists():
            final.rename(old)
        self.partial(name).rename(final)
        sync_folder(self.path)
        shutil.rmtree(old, ignore_errors=True)
        return final

    def recover(self, name: str) -> None:
        """Put right what a crash between the two renames of `finish` may have left."""
        final, old = self.stage(name), self.path / f"{name}.old"
        if old.exists() and not final.exists():
            old.rename(final)
        elif old.exists():
            shutil.rmtree(old)
