"""proof: in which type each convolution and matrix product was compiled, by the layer table.

    Name: node_Conv_294_myl0_2, LayerType: correlation, Inputs: [ { ..., Datatype: Int8, ... }],
    Constants: [...], Outputs: [...], ..., Metadata: [ONNX Layer: node_Conv_294][ONNX Layer: ...]

The builder prints this table after fusion when the profiling verbosity is DETAILED, on machines
without a GPU too. The size of an engine proves nothing: small INT8 engines are larger than their
FP16 twins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from stages.export.engine.build import BuildFailed

_ROW = re.compile(
    r"Name: (?P<name>.+?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\]"
    r"(?:, Constants: \[(?P<constants>.*?)\])?, Outputs: \[.*?\], .*Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"\{ Name: .*?Dimensions: \[(?P<shape>[-\d,]*)\].*?Datatype: (?P<type>[^,}]+)")
_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\]")
# A kernel that does a product and little else; in the others a product is one operation of several.
_PRODUCT_KIND = re.compile(r"corr|conv|gemm|matrixmultiply", re.IGNORECASE)
_TYPES = {
    "int8": "int8", "half": "fp16", "fp16": "fp16", "float": "fp32", "fp32": "fp32",
    "bfloat16": "bf16", "bf16": "bf16", "fp8": "fp8", "int4": "int4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLayer:
    """One row of the table: a fused kernel."""

    name: str
    kind: str
    """``correlation`` and ``gemm`` are products; ``kgen`` and ``runtime_fusion`` are mixtures."""
    type: str
    """What its product takes: ``int8``, ``fp16``, ``fp32``; empty for a row without tensors."""
    origins: tuple[str, ...]
    """Names of the ONNX nodes it was made of."""

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or matrix product by itself."""
        return bool(_PRODUCT_KIND.search(self.kind))


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """In which precision an engine was compiled, and the evidence."""

    counts: dict[str, int]
    """Products by type."""
    rows: tuple[str, ...]
    """The layer table as the builder printed it."""


def engine_layers(log: Iterable[str]) -> Iterator[EngineLayer]:
    """Yield the rows of the layer table in a builder's log."""
    for line in log:
        if row := _ROW.search(line):
            origins = tuple(_ORIGIN.findall(row["metadata"]))
            kind = row["kind"]
            type_ = _product_type(kind, row["inputs"], row["constants"] or "")
            yield EngineLayer(name=row["name"], kind=kind, type=type_, origins=origins)


def count_products(layers: Iterable[EngineLayer], nodes: Iterable[str]) -> dict[str, int]:
    """Count the ONNX nodes that are products by the type they were compiled in.

    A node appears in several rows when its neighbours were fused elsewhere; the product's own row
    decides.
    """
    home: dict[str, EngineLayer] = {}
    wanted = set(nodes)
    for layer in layers:
        for node in wanted.intersection(layer.origins):
            if node not in home or (layer.is_product and not home[node].is_product):
                home[node] = layer
    return dict(Counter(layer.type for layer in home.values()))


def expected_products(products: Mapping[str, str], precision: str) -> int:
    """Return how many products a graph wants in `precision`; `products` are from `graph_products`.

    Raises:
        BuildFailed: none, so that the graph is not what it is called.
    """
    by_type = Counter(products.values())
    if not by_type[precision]:
        raise BuildFailed(
            f"export: a graph that was made as {precision} has no convolution or matrix product in "
            f"{precision}; by type they are {dict(by_type)}. Convert it first."
        )
    return by_type[precision]


def prove(log_path: Path, products: Mapping[str, str], precision: str) -> Proof:
    """Assert that what the graph says in a low precision was compiled in it.

    Raises:
        BuildFailed: fewer products than the graph says were compiled in `precision`.
    """
    with log_path.open(encoding="utf-8", errors="replace") as log:
        rows = tuple(line.rstrip() for line in log if "LayerType: " in line)
    counts = count_products(engine_layers(rows), products)
    expected, found = expected_products(products, precision), counts.get(precision, 0)
    if found < expected:
        raise BuildFailed(
            f"export: of {expected} convolutions and matrix products in {precision}, {found} were "
            f"compiled so (by type: {counts}). The engine would run, but slower than its name "
            f"says; the layer table is in {log_path.parent.name}/{log_path.name}."
        )
    return Proof(counts=counts, rows=rows)


def _product_type(kind: str, inputs: str, constants: str) -> str:
    """Return the type of a row's product: its first input's, or the weights'."""
    tensors = _tensors(inputs)
    weights = [tensor for tensor in _tensors(constants) if len(tensor[0]) > 1]
    if weights and not _PRODUCT_KIND.search(kind):
        # The first input of a fused kernel may belong to another operation, for instance a cast.
        tensors = [max(weights, key=lambda tensor: prod(tensor[0]))]
    return tensors[0][1] if tensors else ""


def _tensors(text: str) -> list[tuple[tuple[int, ...], str]]:
    """Return shape and type of each tensor in a list of the table."""
    found = []
    for match in _TENSOR.finditer(text):
        shape = tuple(int(size) for size in match["shape"].split(",") if size)
        found.append((shape, _type_name(match["type"])))
    return found


def _type_name(text: str) -> str:
    """Return our name for ``Half``, or for an older version's ``Row major Int8 format``."""
    words = text.lower().split()
    return next((_TYPES[word] for word in words if word in _TYPES), "-".join(words))
