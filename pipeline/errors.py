"""The exceptions a user may meet, and the exit code of each.

    DlpipeError                          1   anything dlpipe itself reports
    ├── ConfigError (ValueError)         2   the configuration is wrong; lists every problem
    ├── BackendUnavailable (ImportError) 2   a named backend cannot run here
    ├── MissingArtifact (LookupError)    2   a stage needs what no earlier stage has left
    ├── DataError (ValueError)           1   the data set is damaged, empty or not what it says
    ├── StageFailed (RuntimeError)       1   a stage ended with an error
    ├── GateFailed                       3   everything ran; a quality gate did not hold
    ├── RunLocked                        4   another process works in this run folder
    └── Interrupted                     75   stopped by a signal; the same command goes on

Messages have four parts in this order: where, what is wrong (with the value), what is allowed,
what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class DlpipeError(Exception):
    """Anything that dlpipe itself reports; never shown with a traceback."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong in a configuration: where it stands and what to do about it."""

    message: str
    path: str = ""
    """Dotted YAML path, for instance ``stages.train.epochs``."""
    file: str = ""
    line: int = 0
    """1-based; 0 when the place is not in a file (the command line)."""
    column: int = 0

    def __str__(self) -> str:
        place = self.file + (f":{self.line}:{self.column}" if self.line else "")
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(DlpipeError, ValueError):
    """The configuration cannot be run as it stands; carries every problem found."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = (
            (Problem(message=problems),) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class BackendUnavailable(DlpipeError, ImportError):
    """A backend that was asked for by name cannot run on this machine."""

    exit_code = 2


class MissingArtifact(DlpipeError, LookupError):
    """A stage asked for an artifact that no earlier stage has produced."""

    exit_code = 2


class DataError(DlpipeError, ValueError):
    """The data set cannot be used: missing, empty, damaged, or not in the stated form."""


class StageFailed(DlpipeError, RuntimeError):
    """A stage ended with an error; the artifacts of earlier stages are intact."""


class GateFailed(DlpipeError):
    """The chain ran to its end, and at least one quality gate did not hold."""

    exit_code = 3


class RunLocked(DlpipeError):
    """Another living process holds the lock of the run folder."""

    exit_code = 4


class Interrupted(DlpipeError):
    """A signal asked for a stop; state was saved and the same command resumes."""

    exit_code = 75


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest allowed name, or an empty string."""
    matches = get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def choices(names: Iterable[str]) -> str:
    """Return the allowed names as prose: ``'a', 'b' or 'c'``."""
    quoted = [f"'{name}'" for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
