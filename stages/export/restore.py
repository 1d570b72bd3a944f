"""Restore: a `TrainedModel` on disk becomes a torch module again, with exactly its weights."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.artifacts import ModuleRef, TrainedModel
from pipeline.errors import DataError, StageFailed

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def restore(trained: TrainedModel) -> torch.nn.Module:
    """Build the module and load its weights strictly: in evaluation mode, on the CPU, in FP32.

    Raises:
        StageFailed: the factory cannot be called, or the weights do not fit what it builds.
        DataError: the weights are missing, damaged, or not finite.
    """
    module = build(trained.module)
    try:
        weights = load_file(weights_of(trained))
    except SafetensorError as error:
        raise DataError(
            f"export: {trained.weights} is no whole safetensors file ({error}). Run train again."
        ) from error
    sick = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if sick:
        raise DataError(
            f"export: {len(sick)} of {len(weights)} weights hold NaN or Inf, the first is "
            f"'{sick[0]}'. Every weight must be finite. Train again, with a lower learning rate."
        )
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise StageFailed(
            f"export: the weights {trained.weights} do not fit '{trained.module.factory}': "
            f"{_shorten(error)} The model's code or arguments have changed since training; run "
            "train again."
        ) from error
    return module.float().eval()


def weights_of(trained: TrainedModel) -> Path:
    """Return where the weights are.

    Raises:
        DataError: they are not there.
    """
    if not trained.weights.is_file():
        raise DataError(f"export: the weights {trained.weights} are not there. Run train again.")
    return trained.weights


def build(ref: ModuleRef) -> torch.nn.Module:
    """Call the factory of a module.

    Raises:
        StageFailed: the factory is no ``package.module:function``, cannot be imported, or returns
        no module.
    """
    where = f"export: the module factory {ref.factory!r}"
    if not _FACTORY.fullmatch(ref.factory):
        raise StageFailed(
            f"{where} is no dotted function. Allowed: 'package.module:function'. Run train again."
        )
    module_name, _, function = ref.factory.partition(":")
    try:
        factory = getattr(import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise StageFailed(
            f"{where} cannot be imported: {error}. Install the package that holds it."
        ) from error
    try:
        module = factory(**ref.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StageFailed(
            f"{where} fails with the arguments {dict(ref.arguments)}: {error}. Run train again."
        ) from error
    if not isinstance(module, torch.nn.Module):
        raise StageFailed(
            f"{where} returned {type(module).__name__}, and must return a torch.nn.Module."
        )
    return module


def _shorten(error: Exception) -> str:
    """Return the first mismatch of a list that may have hundreds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = len(lines) - 2
    return " ".join(lines[:2]) + (f" (and {more} more)." if more > 0 else "")
