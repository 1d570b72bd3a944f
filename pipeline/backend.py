"""Backend: a named way to do a stage's work, what it needs, and whether it can run here.

    BACKENDS = (
        Backend(name="tensorrt", module="stages.export.backends.tensorrt",
                needs=("tensorrt",), extra="tensorrt", device="cuda"),
        Backend(name="onnxruntime", module="stages.export.backends.onnxruntime",
                needs=("onnxruntime",)),
    )
    chosen = select(BACKENDS, config.backend, device, where="stages.export.backend")
    module = chosen.backend.load()

The order of a table is its order of preference. Nothing is imported before it is selected.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from pipeline.device import Device
from pipeline.errors import BackendUnavailable, choices, nearest


def is_installed(import_name: str) -> bool:
    """Tell whether a module could be imported, without importing it (its parents are)."""
    try:
        return find_spec(import_name) is not None
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One way to do the work of a stage."""

    name: str
    module: str
    """Dotted module, imported by `load` and not before."""
    summary: str = ""
    needs: tuple[str, ...] = ()
    """Import names that must be installed."""
    programs: tuple[str, ...] = ()
    """Executables that must be on PATH."""
    extra: str = ""
    """The extra of this distribution that installs `needs`."""
    device: Literal["any", "cpu", "cuda"] = "any"
    probe: Callable[[], str | None] | None = None
    """A further check: returns why it cannot run, or None."""
    details: Callable[[], str] | None = None
    """What `dlpipe doctor` says of it where it can run; may import the vendor's package."""

    def why_not(self, device: Device) -> str | None:
        """Return why this backend cannot run on `device`, or None when it can."""
        if self.device != "any" and self.device != device.kind:
            return f"needs a {self.device} device, and the device is {device}"
        for name in self.needs:
            if not is_installed(name):
                mend = f"; pip install 'dlpipe[{self.extra}]'" if self.extra else ""
                return f"needs the package '{name}', which is not installed{mend}"
        for program in self.programs:
            if shutil.which(program) is None:
                return f"needs the program '{program}' on PATH"
        return self.probe() if self.probe else None

    def load(self) -> ModuleType:
        """Import and return the module that implements this backend."""
        return import_module(self.module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The backend that was taken, and why the better ones were passed over."""

    backend: Backend
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str:
        """One line for the log: what was taken and why not something better."""
        better = "; ".join(f"{name}: {why}" for name, why in self.passed_over)
        return f"backend {self.backend.name}" + (f" (passed over {better})" if better else "")


def named(backends: Sequence[Backend], name: str, *, where: str) -> Backend:
    """Return the backend of that name, or the record at a dotted path ``package.module:BACKEND``.

    Raises:
        BackendUnavailable: there is none; the message names the nearest.
    """
    for backend in backends:
        if backend.name == name:
            return backend
    if ":" in name:
        return _from_elsewhere(name, where=where)
    names = [backend.name for backend in backends]
    raise BackendUnavailable(
        f"{where}: {name!r} is no backend. Allowed: {choices(['auto', *names])}."
        + nearest(name, ["auto", *names])
    )


def _from_elsewhere(path: str, *, where: str) -> Backend:
    module, _, attribute = path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BackendUnavailable(f"{where}: {path!r} cannot be imported: {error}.") from error
    if not isinstance(found, Backend):
        raise BackendUnavailable(
            f"{where}: {path!r} is a {type(found).__name__}. It must be a pipeline.backend.Backend."
        )
    return found


def select(backends: Sequence[Backend], choice: str, device: Device, *, where: str) -> Selection:
    """Resolve ``auto`` to the first backend that can run, or check the one that is named.

    Raises:
        BackendUnavailable: the named backend, or every one, cannot run on `device`.
    """
    if choice != "auto":
        backend = named(backends, choice, where=where)
        reason = backend.why_not(device)
        if reason is not None:
            others = [b.name for b in backends if b.why_not(device) is None]
            use = f" Or use {choices(others)}." if others else ""
            raise BackendUnavailable(f"{where}: {choice!r} {reason}.{use}")
        return Selection(backend=backend)
    passed_over: list[tuple[str, str]] = []
    for backend in backends:
        reason = backend.why_not(device)
        if reason is None:
            return Selection(backend=backend, passed_over=tuple(passed_over))
        passed_over.append((backend.name, reason))
    reasons = "; ".join(f"{name}: {why}" for name, why in passed_over)
    raise BackendUnavailable(f"{where}: no backend can run here. {reasons}.")


def available(backends: Sequence[Backend], device: Device) -> tuple[Backend, ...]:
    """Return every backend that can run on `device`, best first."""
    return tuple(backend for backend in backends if backend.why_not(device) is None)
