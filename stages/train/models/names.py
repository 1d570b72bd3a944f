"""Names of timm's models, read from its sources: importing timm takes seconds, this does not."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pipeline.backend import is_installed
from pipeline.errors import nearest

_ENTRY = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


@cache
def timm_names() -> frozenset[str]:
    """Return the name of every model that the installed timm registers itself."""
    spec = find_spec("timm")
    folders = (
        [Path(folder) / "models" for folder in (spec.submodule_search_locations or ())]
        if spec
        else []
    )
    files = [file for folder in folders for file in folder.glob("*.py")]
    return frozenset(name for file in files for name in _ENTRY.findall(file.read_text("utf-8")))


def model_problem(model: str) -> str:
    """Say what can be seen to be wrong with ``model:`` without importing it; ``""``: nothing."""
    if ":" in model:
        module, _, function = model.partition(":")
        if not function.isidentifier():
            return f"'{model}' is no dotted path. Allowed: 'package.module:function'."
        if not _can_be_found(module):
            return (
                f"'{model}' cannot be imported: there is no module '{module}'. "
                "Run from the folder that holds it, or install its package."
            )
        return ""
    names = timm_names()
    if model.partition(".")[0] in names:
        return ""
    return (
        f"'{model}' is no model of timm. Allowed: one of its {len(names)} names, or your own "
        f"factory as 'package.module:function'.{nearest(model, names)}"
    )


def _can_be_found(module: str) -> bool:
    # An empty part ("a..b") is a ValueError of find_spec, not an answer.
    return all(part.isidentifier() for part in module.split(".")) and is_installed(module)
