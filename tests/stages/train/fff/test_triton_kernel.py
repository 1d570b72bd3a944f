"""The Triton kernel against the gathered form, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)

COMPARED = """
import os, sys
device = sys.argv[1]
if device == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
import torch
from torch import nn
from stages.train.fff import triton_kernel
from stages.train.fff.gathered import gathered
from stages.train.fff.inference import PackedFFF
from stages.train.fff.layer import FFF
from stages.train.fff.packed import Unpacked, unpack

torch.manual_seed(0)
triton_kernel.LEAST_GROUPED = 40  # the interpreter is slow
for inputs, outputs, depth, trees, activation, bias in (
    (5, 3, 0, 1, nn.ReLU(), False),
    (130, 140, 5, 2, nn.GELU(), True),
    (37, 70, 3, 3, nn.SiLU(), False),
    (64, 32, 6, 1, nn.GELU("tanh"), True),
):
    packed = PackedFFF(FFF(inputs, outputs, depth, trees, activation, bias=bias))
    found = unpack(packed.layout, packed.records)
    weights = Unpacked(*(part.to(device) for part in (found.w_in, found.w_out, found.bias)))
    b_out = None if packed.b_out is None else packed.b_out.to(device)
    for num in (0, 1, 17, 50):
        x = torch.randn(num, inputs, device=device)
        if num > 2:
            x[1] = 0
            x[2, 0] = float("nan")
        got = triton_kernel.walk(x, weights, b_out, packed.layout)
        want = gathered(x, weights, b_out, packed.layout)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)
        print("same", num)
"""


def compare(device: str) -> None:
    command = [sys.executable, "-c", COMPARED, device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("same") == 16


def test_both_forms_equal_the_gathered_one_in_the_interpreter():
    compare("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_both_forms_equal_the_gathered_one_on_a_gpu():
    compare("cuda")
