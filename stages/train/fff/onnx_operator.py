"""ONNX operator: fast feedforward layers as ONNX Runtime computes them, by the kernels in C++.

    ConditionalMatMul, domain dlpipe, version 1
        x (..., I), w_in (n, I), w_out (n, O)[, b_in (n,), b_out (O,)]  ->  (..., O), all float32
        depth, trees: of the layer;  activation: gelu, gelu_tanh, relu, silu
        threads: of a call; 1 if left out

Neurons n are those of all trees, one after the other, each numbered as a heap. All but x must be
initializers: they are packed once, when the graph is loaded. Answers are those of the backend
``native`` of `cmm`, to the bit.

This file imports no torch: the export stage asks for the library before anything runs.
"""

from __future__ import annotations

from pipeline.graph_forms import OperatorLibrary

NAME, DOMAIN, VERSION = "ConditionalMatMul", "dlpipe", 1
FORM = "operator"
"""The name of this way to compute a layer."""
LIBRARY = OperatorLibrary(
    package="stages.train.fff",
    file="libdlpipe_cmm_ort.so",
    why_not=(
        "pip builds it where it finds a C++ compiler; without one, graphs keep plain operators. "
        "Install one (apt-get install g++) and dlpipe again."
    ),
)
