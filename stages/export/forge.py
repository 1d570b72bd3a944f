"""Forge: makes the ONNX graph for each precision, each once and only when somebody asks for it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
from onnx import ModelProto

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import StageFailed
from pipeline.files import sha256_file, sha256_text, write_atomic
from pipeline.graph_forms import OPERATORS_FILE, operator_libraries
from stages.export import parity
from stages.export.arrays import Images
from stages.export.backends import Precision
from stages.export.backends.onnxruntime import open_session
from stages.export.calibrate import Ranges, beyond
from stages.export.cast import FP16_LIMIT, to_fp16
from stages.export.config import ExportConfig
from stages.export.cpu import needs_reduced_range
from stages.export.failure import converting
from stages.export.forms import FormChoice, choose_forms, set_forms
from stages.export.graph import count_products, save
from stages.export.quantize import Form, quantize
from stages.export.restore import restore, weights_of
from stages.export.simplify import simplify
from stages.export.to_onnx import check_interface, to_onnx
from stages.export.tune import calibrated, table_key

_OVERFLOW_IMAGES = 16
_WITH_OPERATORS = "operators/fp32.onnx"
"""Beside the library, and so apart from the graphs that need none."""


@dataclass
class Forge:
    """The graphs of one trained model, below one folder."""

    config: ExportConfig
    spec: DataSpec
    trained: TrainedModel
    images: Images
    """Of the calibration split: for parity and for ranges."""
    ctx: Context
    dense: bool = False
    """Whether the network is `TrainedModel.dense`, whose files lie beside the trained one's."""
    compare_in: Form = "u8s8"
    """The Q/DQ form that calibration methods are compared in."""
    ranges: Ranges | None = None
    """The calibration table, once an INT8 graph was asked for."""
    too_large: frozenset[str] | None = None
    """Tensors FP16 cannot hold, once an FP16 graph was asked for."""
    made: dict[str, Path] = field(default_factory=dict)
    """The graphs that this forge has made or checked, by file name."""
    facts: dict[str, str | int | float] = field(default_factory=dict)
    """What a reader of the report may want to know."""
    forms: list[FormChoice] = field(default_factory=list)
    """Which forms layers that have several took, once the FP32 graph was asked for."""

    @property
    def suffix(self) -> str:
        """What the names of all that is made end with."""
        return "-dense" if self.dense else ""

    @property
    def folder(self) -> Path:
        """Where the graphs are."""
        return self.ctx.dir / f"graphs{self.suffix}"

    @property
    def table(self) -> Path:
        """Where the calibration table is."""
        return self.ctx.dir / f"calibration{self.suffix}.json"

    def graph(self, precision: Precision, form: Form, *, operators: bool = False) -> Path:
        """Return the graph of that precision, made if need be.

        Args:
            precision: of products.
            form: matters to INT8 alone.
            operators: who asks can load operators of our own, of which only an FP32 graph may have
                some.

        Raises:
            StageFailed: it cannot be made; the message says at which step.
            BackendUnavailable: the library of such operators was not built.
        """
        name = f"int8-{form}.onnx" if precision == "int8" else f"{precision}.onnx"
        if operators and precision == "fp32" and self._takes_operators():
            name = _WITH_OPERATORS
        if name not in self.made:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            match precision:
                case "fp32" if name == _WITH_OPERATORS:
                    self._make_with_operators(path)
                case "fp32":
                    self._make_fp32(path)
                case "fp16":
                    self._make_fp16(self.graph("fp32", form), path)
                case "int8":
                    self._make_int8(form, path)
            self.made[name] = path
        return self.made[name]

    def _make_fp32(self, path: Path) -> None:
        """Export, or take the graph that an interrupted run left when it is of these weights."""
        stamp = path.with_suffix(".json")
        key = self._key()
        forms = _stamped_forms(path, stamp, key)
        if forms is not None:
            self.forms = forms
            return
        stamp.unlink(missing_ok=True)
        self.ctx.events.info("exporting to ONNX")
        module = restore(self.trained)
        self.forms = choose_forms(
            module, self.images, self.config, self.ctx, operators=self._may_have_operators
        )
        self._write(module, path)
        self._stamp(stamp, path, key)

    def _make_with_operators(self, path: Path) -> None:
        stamp = path.with_suffix(".json")
        key = self._key()
        if _stamped_forms(path, stamp, key) == self.forms:
            return
        stamp.unlink(missing_ok=True)
        self.ctx.events.info("exporting to ONNX with operators of our own")
        module = restore(self.trained)
        libraries = set_forms(module, self.forms)
        if len(libraries) > 1:
            names = ", ".join(sorted(library.file for library in libraries))
            raise StageFailed(
                f"export.custom_operators: layers take operators from {names}, and a graph has one "
                "library beside it. Set custom_operators: false."
            )
        shutil.copyfile(libraries.pop().require(), path.with_name(OPERATORS_FILE))
        self._write(module, path, " (with operators)")
        self._stamp(stamp, path, key)

    @property
    def _may_have_operators(self) -> bool:
        return self.config.takes_operators and not self.ctx.device.is_cuda

    def _takes_operators(self) -> bool:
        """Tell whether layers do; the plain graph is made first, and forms are chosen for it."""
        self.graph("fp32", "u8s8")
        return any(choice.form != choice.plain for choice in self.forms)

    def _write(self, module: torch.nn.Module, path: Path, which: str = "") -> None:
        """Write a module as it is set, simplify it, and hold its answers against the module's."""
        reference = parity.torch_answer(module)
        traced = path.with_name("traced.onnx") if self.config.simplify else path
        to_onnx(module, self.trained.input, self.trained.output, traced, opset=self.config.opset)
        self.ctx.stop.check()
        figures = parity.compare(reference, open_session(traced, CPU), self.images)
        parity.check(figures, what="the ONNX graph")
        if self.config.simplify:
            outcome = simplify(traced, path, reference, self.images)
            traced.unlink()
            self.facts[f"nodes{which}"] = outcome.nodes_after
            self.facts[f"nodes before onnxslim{which}"] = outcome.nodes_before
            if outcome.note:
                self.ctx.events.warning(f"simplify: the graph was left as it was. {outcome.note}")
            figures = parity.compare(reference, open_session(path, CPU), self.images)
        self.facts[f"parity with PyTorch, dB{which}"] = round(min(f.sqnr_db for f in figures), 1)
        largest = max(f.max_abs for f in figures)
        self.facts[f"parity with PyTorch, largest difference{which}"] = largest

    def _stamp(self, stamp: Path, path: Path, key: str) -> None:
        chosen = [choice.as_json() for choice in self.forms]
        written = {"key": key, "sha256": sha256_file(path), "forms": chosen}
        write_atomic(stamp, json.dumps(written))

    def _make_fp16(self, source: Path, path: Path) -> None:
        self._finish(to_fp16(onnx.load(source), self._too_large(source)), path)

    def _make_int8(self, form: Form, path: Path) -> None:
        source = self.graph("fp32", form)
        reduce_range = form == "u8s8" and needs_reduced_range()
        if self.ranges is None:
            self.ranges = calibrated(
                source,
                self.images,
                table_key(self.spec, self.trained, source, self.config.calibration, self.ctx.seed),
                self.table,
                self.config.calibration,
                self.compare_in,
                reduce_range=self.compare_in == "u8s8" and needs_reduced_range(),
                ctx=self.ctx,
            )
        self.ctx.stop.check()
        with converting("quantization", "Leave int8 out of precisions."):
            quantized = quantize(source, self.ranges.tensors, form, reduce_range=reduce_range)
        if not count_products(quantized).get("int8"):
            raise StageFailed(
                "export: the model has no convolution or matrix product that can be quantized. "
                "Leave int8 out of precisions."
            )
        if form == "s8s8":  # what is not INT8 runs in FP16 on a GPU
            quantized = to_fp16(quantized, self._too_large(source))
        self._finish(quantized, path)

    def _too_large(self, source: Path) -> frozenset[str]:
        """Return the tensors FP16 cannot hold, with a factor of two to spare; asked once.

        A CPU computes FP16 graphs in FP32 and would never show the overflow that a GPU has.
        """
        if self.too_large is None:
            images = self.images[:_OVERFLOW_IMAGES]
            found = beyond(source, images, FP16_LIMIT / 2, len(images), self.ctx)
            self.too_large = frozenset(found)
            for name, reach in found.items():
                self.ctx.events.warning(
                    f"fp16: the tensor '{name}' reaches {reach:.3g}, FP16 ends at {FP16_LIMIT:g}; "
                    "what touches it stays in FP32"
                )
            self.facts["tensors kept out of FP16"] = len(found)
        return self.too_large

    def _finish(self, model: ModelProto, path: Path) -> None:
        check_interface(model, self.trained.input, self.trained.output)
        save(model, path)
        with converting(f"the check of {path.name}", "Leave this precision out."):
            onnx.checker.check_model(str(path))

    def _key(self) -> str:
        parts = {
            "weights": sha256_file(weights_of(self.trained)),
            "factory": self.trained.module.factory,
            "arguments": dict(self.trained.module.arguments),
            "opset": self.config.opset,
            "simplify": self.config.simplify,
            "batch": [self.config.batch.min, self.config.batch.opt],  # forms are chosen for these
            "onnx": onnx.__version__,
            "operators": self._libraries(),
        }
        return sha256_text(json.dumps(parts, sort_keys=True))

    def _libraries(self) -> list[str]:
        """Return the hashes of the libraries that layers may choose operators from."""
        if not self._may_have_operators:
            return []
        return [sha256_file(library.require()) for library in operator_libraries()]


def _stamped_forms(path: Path, stamp: Path, key: str) -> list[FormChoice] | None:
    """Return the forms in a graph that is whole and made from what `key` stands for; else None."""
    try:
        written = json.loads(stamp.read_text())
        if (written["key"], written["sha256"]) != (key, sha256_file(path)):
            return None
        return [FormChoice.from_json(each) for each in written["forms"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
