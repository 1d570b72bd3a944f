"""proof: in which type each convolution and matrix product was compiled, read from the builder's layer table.

    Name: node_Conv_294_myl0_2, LayerType: correlation, Inputs: [ { ..., Datatype: Int8, Format: ... }],
    Constants: [...], Outputs: [...], ..., Metadata: [ONNX Layer: node_Conv_294][ONNX Layer: ...]

The builder prints this table after fusion when the profiling verbosity is DETAILED, on machines without a GPU too. The
size of an engine proves nothing: small INT8 engines are larger than their FP16 twins.
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
    """``correlation`` and ``gemm`` are products; ``kgen`` and ``runtime_fusion`` hold several operations."""
    type: str
    """The type that its product takes: ``int8``, ``fp16``, ``fp32``; empty for a row without tensors."""
    origins: tuple[str, ...]
    """Names of the ONNX nodes it was made of."""

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or matrix product by itself."""
        return bool(_PRODUCT_KIND.search(self.kind))


def engine_layers(log: Iterable[str]) -> Iterator[EngineLayer]:
    """Yield the rows of the layer table in a builder's log."""
    for line in log:
        if row := _ROW.search(line):
            origins = tuple(_ORIGIN.findall(row["metadata"]))
            kind = row["kind"]
            type_ = _product_type(kind, row["inputs"], row["constants"] or "")
            yield EngineLayer(name=row["name"], kind=kind, type=type_, origins=origins)


def count_products(layers: Iterable[EngineLayer], nodes: Iterable[str]) -> dict[str, int]:
    """Count products by the type they were compiled in; `nodes` are the ONNX nodes that are products.

    A node appears in several rows when its neighbours were fused elsewhere; the product's own row decides.
    """
    home: dict[str, EngineLayer] = {}
    wanted = set(nodes)
    for layer in layers:
        for node in wanted.intersection(layer.origins):
            if node not in home or (layer.is_product and not home[node].is_product):
                home[node] = layer
    return dict(Counter(layer.type for layer in home.values()))


def prove(
    log_path: Path, products: Mapping[str, str], precision: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Assert that what the graph says in a low precision was compiled in it.

    Args:
        log_path: The builder's verbose log.
        products: ONNX name of each product -> the type the graph gives it, from `graph_products`.
        precision: What the graph was made as.

    Returns:
        Products by type, and the rows of the table as evidence.

    Raises:
        BuildFailed: fewer products than the graph says were compiled in `precision`.
    """
    with log_path.open(encoding="utf-8", errors="replace") as log:
        rows = tuple(line.rstrip() for line in log if "LayerType: " in line)
    counts = count_products(engine_layers(rows), products)
    expected, found = Counter(products.values())[precision], counts.get(precision, 0)
    if not expected:
        raise BuildFailed(
            f"export: the graph is called {precision} and not one of its {len(products)} convolutions and matrix "
            f"products is in {precision}; by the graph they are {dict(Counter(products.values()))}."
        )
    if found < expected:
        raise BuildFailed(
            f"export: {expected} convolutions and matrix products of the graph are in {precision}, and only {found} "
            f"were compiled so (by type: {counts}). The engine would run, but not in {precision}; see {log_path}."
        )
    return counts, rows


def _product_type(kind: str, inputs: str, constants: str) -> str:
    """Return the type of a row's product: that of its first input, or of the weights in a fused kernel."""
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
