"""Names of timm's models and optimizers, read from its sources: importing it takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pipeline.artifacts import Kind
from pipeline.backend import is_installed
from pipeline.errors import nearest

ENCODER = "stages.train.models.text:encoder"
"""Our own network for texts."""
_QUOTED = re.compile(r"""["']([a-z0-9]+)["']""")
_ENTRY = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


@cache
def timm_names() -> frozenset[str]:
    """Return the name of every model that the installed timm registers itself."""
    texts = _sources("models/*.py")
    return frozenset(name for text in texts for name in _ENTRY.findall(text))


def _sources(pattern: str) -> list[str]:
    spec = find_spec("timm")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return [file.read_text("utf-8") for folder in folders for file in Path(folder).glob(pattern)]


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


def kind_problem(model: str, kind: Kind) -> str:
    """Say that ``model:`` takes no samples of this kind; ``""``: its name does not tell."""
    if kind != "text" or ":" in model:
        return ""
    return (
        f"'{model}' has no colon and so is a name of timm, whose models take images, and the data "
        f"set holds texts. Use {ENCODER}, or your own as package.module:function."
    )


def optimizer_problem(name: str) -> str:
    """Say whether timm has certainly no such optimizer; ``""``: it may have it.

    Its table names some optimizers in passing, so that only all quoted words are sure to hold them
    all; the few words that are none are refused when the optimizer is built.
    """
    words = {word for text in _sources("optim/_optim_factory.py") for word in _QUOTED.findall(text)}
    if name in words or not words:
        return ""
    return (
        f"'{name}' is no optimizer of timm. Allowed: 'adamw', 'sgd', 'lamb', 'lion' and the "
        f"others of timm.optim.list_optimizers().{nearest(name, words)}"
    )


def _can_be_found(module: str) -> bool:
    # An empty part ("a..b") is a ValueError of find_spec, not an answer.
    return all(part.isidentifier() for part in module.split(".")) and is_installed(module)


_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")


def weights_problem(given: str) -> str:
    """Say what can be seen to be wrong with ``pretrained:`` without reading it; ``""``: nothing."""
    if given in ("auto", "download"):
        return ""
    path = Path(given)
    if path.suffix in _PICKLES:
        return (
            f"'{given}' is a pickle, and loading one runs whatever code it holds. Allowed: "
            '.safetensors. Where you trust it, convert it once: python -c "import torch; from '
            "safetensors.torch import save_file; "
            f"save_file(torch.load('{given}', weights_only=True), '{path.stem}.safetensors')\""
        )
    if path.is_file():
        return ""
    beside = [file.name for file in path.parent.glob("*.safetensors")]
    return (
        f"'{given}' is no file. Allowed: the path of a .safetensors file, auto, download or "
        f"false.{nearest(path.name, beside) or nearest(given, ['auto', 'download', 'false'])}"
    )
