"""Fingerprints: what makes a stage's result still valid.

A fingerprint is a flat mapping from a name to a value: the settings, the code of the stage, the
content of its input artifacts, the device and the seed, and whatever else the stage says matters.
Two equal fingerprints mean the same result; two different ones can say in words what has changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from pipeline.config import StageEntry
from pipeline.device import Device
from pipeline.files import write_atomic
from pipeline.stage import Fingerprints
from pipeline.yaml_source import Plain

Fingerprint: TypeAlias = dict[str, str]

FINGERPRINT_FILE = "fingerprint.json"


def fingerprint(
    entry: StageEntry, inputs: Mapping[str, str], *, device: Device, seed: int
) -> Fingerprint:
    """Return the fingerprint of a stage whose input artifacts have these content digests."""
    means = entry.config.means
    parts: Fingerprint = {
        f"{'means' if path.partition('.')[0] in means else 'setting'} {path}": json.dumps(value)
        for path, value in flatten(entry.config.model_dump(mode="json")).items()
    }
    parts |= {f"input {kind}": digest for kind, digest in inputs.items()}
    parts |= {"code": code_digest(entry.stage), "device": str(device), "seed": str(seed)}
    stage = entry.build()
    if isinstance(stage, Fingerprints):
        parts |= dict(stage.fingerprint(device))
    return parts


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say in words what differs between two fingerprints, settings with their values."""
    reasons = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name.startswith(("setting ", "means ")):
            reasons.append(f"{name.partition(' ')[2]} {_short(old)} → {_short(new)}")
        elif old is not None and new is not None and max(len(old), len(new)) <= 40:
            reasons.append(f"{name} {old} → {new}")
        else:
            reasons.append(f"{name} changed")
    return reasons


def goes_on(before: Mapping[str, str] | None, now: Mapping[str, str]) -> bool:
    """Tell whether an interrupted attempt may go on: nothing differs but the means."""
    return before is not None and all(
        name.startswith("means ") or before.get(name) == now.get(name)
        for name in before.keys() | now.keys()
    )


def save_fingerprint(parts: Fingerprint, folder: Path) -> None:
    """Write ``fingerprint.json`` into a stage's folder."""
    write_atomic(folder / FINGERPRINT_FILE, json.dumps(parts, indent=1))


def load_fingerprint(folder: Path) -> Fingerprint | None:
    """Read the fingerprint in a stage's folder, or None when there is no readable one."""
    try:
        parts = json.loads((folder / FINGERPRINT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {str(k): str(v) for k, v in parts.items()} if isinstance(parts, dict) else None


def flatten(value: Plain, path: str = "") -> dict[str, Plain]:
    """Return a nested mapping as dotted paths; lists and scalars are leaves."""
    if isinstance(value, dict) and value:
        return {
            dotted: leaf
            for key, item in value.items()
            for dotted, leaf in flatten(item, f"{path}.{key}" if path else key).items()
        }
    return {path: value}


def code_digest(stage: type[object]) -> str:
    """Return a hash over the source of the package a stage lives in, or of its module alone."""
    module = sys.modules.get(stage.__module__)
    source = getattr(module, "__file__", None)
    if source is None:
        return "no source"
    package = stage.__module__.rpartition(".")[0]
    spec = importlib.util.find_spec(package) if package else None
    roots = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(p for root in roots for p in Path(root).rglob("*.py")) or [Path(source)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _short(value: str | None) -> str:
    if value is None:
        return "(not set)"
    return value if len(value) <= 40 else value[:39] + "…"
