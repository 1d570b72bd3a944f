"""Runs step after step through a pipeline of two processes, until somebody ends it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from small_pipelines import OFF, batch_of, make, setup_of

from stages.train.gpipe.processes import Processes

torch.set_num_threads(1)
engine = Processes(setup_of(make("conv"), (0, 3, 8), 4, timeout_s=240), threads=1)
batch, step = batch_of(8), 0
while True:
    engine.backward(batch, OFF, step)
    if step == 1:
        sys.stdout.write("working\n")
        sys.stdout.flush()
    step += 1
