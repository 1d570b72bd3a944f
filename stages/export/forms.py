"""Forms: layers that a graph can compute in several ways take the one that is fastest here.

A fast feedforward layer may gather the rows of the neurons on a path, or compute all neurons
and mask them: which is faster depends on its size, the batch and the machine. Every kind of layer
is timed by itself in ONNX Runtime, with what it takes in for real images, at the batch sizes that
will be served. Where operators of our own may be used, they are timed beside these; and a layer
that is meant to be faster than a dense one is held against a dense one of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
from torch import nn

from pipeline.context import Context
from pipeline.graph_forms import HasDenseTwin, HasGraphForms, HasOperatorForms, OperatorLibrary
from stages.export.arrays import Images
from stages.export.config import ExportConfig
from stages.export.failure import quiet
from stages.export.latency import time_calls
from stages.export.samples import at_least
from stages.export.to_onnx import TRACE_BATCH

_DENSE = "dense"
_ROUNDS = 5
_TURN_S = 0.05
"""Of each form and batch size, in each round."""


@dataclass(frozen=True, slots=True)
class FormChoice:
    """What was found for layers of one kind."""

    layers: tuple[str, ...]
    form: str
    """The fastest: least in the sum over batch sizes of its time over the best one's."""
    plain: str
    """The fastest of those that need no library: what graphs for other runtimes keep."""
    times_ms: Mapping[str, Mapping[str, float]]
    """Median time of a call, by form and batch size."""
    dense_ms: Mapping[str, float] = field(default_factory=dict)
    """That of an ordinary layer of the same size, where there is such a thing, by batch size."""

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the ordinary layer, at the batch size where that is least."""
        times = self.times_ms[self.form]
        ratios = [ms / times[batch] for batch, ms in self.dense_ms.items()]
        return min(ratios, default=None)

    def why(self) -> str:
        """Say what was kept and why."""
        told = "; ".join(
            f"{form} " + ", ".join(f"{ms:.3g} ms at batch {batch}" for batch, ms in times.items())
            for form, times in self.times_ms.items()
        )
        count = f" and {len(self.layers) - 1} like it" if len(self.layers) > 1 else ""
        other = "" if self.plain == self.form else f", {self.plain} where operators are plain"
        dense = ", ".join(f"{ms:.3g} ms at batch {b}" for b, ms in self.dense_ms.items())
        told += f"; a dense layer of that size {dense}" if dense else ""
        return f"{self.layers[0]}{count}: {self.form}{other} ({told})"

    def warning(self) -> str:
        """Say that the ordinary layer would be as fast; an empty string: it would not."""
        if self.speedup is None or self.speedup > 1:
            return ""
        return (
            f"{self.layers[0]}: as it is, {self.speedup:.2f} times as fast as a dense layer of the "
            "same size at one of the batch sizes that are served. Train it with fewer trees or "
            "more depth, set export.custom_operators: true, or train without fff."
        )

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> FormChoice:
        """Return what `as_json` gave."""
        names = tuple(stored["layers"])
        times = stored["times_ms"], stored["dense_ms"]
        return cls(names, stored["form"], stored["plain"], *times)


def choose_forms(
    module: nn.Module,
    images: Images,
    config: ExportConfig,
    ctx: Context,
    *,
    operators: bool = False,
) -> list[FormChoice]:
    """Set the form of every layer that has several: the fastest of those of plain operators.

    Args:
        module: takes images; its layers' forms are set.
        images: uint8 (N, H, W, C).
        config: of the stage: batch sizes, threads and opset.
        ctx: told what was chosen.
        operators: time operators of our own too.

    Raises:
        BackendUnavailable: an operator's library was not built.
    """
    layers = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, HasGraphForms)
    }
    if operators and not any(map(_operators_of, layers.values())):
        ctx.events.info("custom_operators: no layer of this model is an operator of our own")
    if not layers:
        return []
    batches = sorted({config.batch.min, config.batch.opt})
    seen = {batch: _taken_in(module, layers, at_least(images, batch)) for batch in batches}
    kinds: dict[str, list[str]] = {}
    for name, layer in layers.items():
        shapes = [tuple(seen[batch][name].shape) for batch in batches]
        kinds.setdefault(f"{type(layer).__name__} {layer} {shapes}", []).append(name)
    choices = []
    for names in kinds.values():
        ctx.stop.check()
        inputs = {str(batch): seen[batch][names[0]] for batch in batches}
        layer = layers[names[0]]
        further = _operators_of(layer) if operators else {}
        libraries = {form: library.require() for form, library in further.items()}
        times = _timed(layer, inputs, config, libraries)
        dense = times.pop(_DENSE, {})
        plain = fastest({form: times[form] for form in layer.graph_forms})
        choice = FormChoice(tuple(names), fastest(times), plain, times, dense)
        for name in names:
            layers[name].graph_form = choice.plain
        ctx.events.info(f"form of {choice.why()}")
        if warning := choice.warning():
            ctx.events.warning(warning)
        choices.append(choice)
    return choices


def set_forms(module: nn.Module, choices: Iterable[FormChoice]) -> set[OperatorLibrary]:
    """Let every layer take the form that is fastest, and return the libraries this takes."""
    libraries = set()
    for choice in choices:
        for name in choice.layers:
            layer: Any = module.get_submodule(name)
            layer.graph_form = choice.form
            if choice.form in _operators_of(layer):
                libraries.add(_operators_of(layer)[choice.form])
    return libraries


def fastest(times_ms: Mapping[str, Mapping[str, float]]) -> str:
    """Return the form whose times over the best of each batch size add up to the least."""
    best = {
        batch: min(times[batch] for times in times_ms.values())
        for batch in next(iter(times_ms.values()))
    }

    def over_best(form: str) -> float:
        return sum(ms / best[batch] for batch, ms in times_ms[form].items())

    return min(times_ms, key=over_best)


def _operators_of(layer: object) -> Mapping[str, OperatorLibrary]:
    return layer.graph_operators if isinstance(layer, HasOperatorForms) else {}


def _taken_in(
    module: nn.Module, layers: Mapping[str, Any], images: Images
) -> dict[str, torch.Tensor]:
    """Return what each layer takes in for some images."""
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            seen[name] = inputs[0].detach()

        handles.append(layer.register_forward_pre_hook(look))
    try:
        with torch.no_grad():
            module(torch.from_numpy(images))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _timed(
    layer: HasGraphForms,
    inputs: Mapping[str, torch.Tensor],
    config: ExportConfig,
    libraries: Mapping[str, Path],
) -> dict[str, dict[str, float]]:
    """Time every form, plain or with a library, and the dense twin; they take turns."""
    calls: dict[str, Callable[[torch.Tensor], object]] = {}
    for form in (*layer.graph_forms, *libraries):
        layer.graph_form = form
        example = next(iter(inputs.values()))
        calls[form] = _session(layer, example, config, libraries.get(form))
    if isinstance(layer, HasDenseTwin):
        calls[_DENSE] = _session(layer.dense_twin().eval(), example, config, None)
    taken: dict[str, dict[str, list[float]]] = {f: {b: [] for b in inputs} for f in calls}
    for _ in range(_ROUNDS):
        for form, call in calls.items():
            for batch, tensor in inputs.items():
                taken[form][batch].extend(time_calls(call, tensor, _TURN_S))
    return {
        form: {batch: 1e3 * median(times) for batch, times in by_batch.items()}
        for form, by_batch in taken.items()
    }


def _session(
    layer: Any, example: torch.Tensor, config: ExportConfig, library: Path | None
) -> Callable[[torch.Tensor], object]:
    """Return a layer as ONNX Runtime computes it."""
    traced = torch.cat([example] * TRACE_BATCH)[:TRACE_BATCH]
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            layer, (traced,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=config.opset, external_data=False, verbose=False,
        )  # fmt: skip
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.latency.threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})
