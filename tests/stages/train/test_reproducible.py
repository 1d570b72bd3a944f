"""Random states and switches: saved, restored, and left as they were found."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from pipeline.device import CPU
from stages.train.reproducible import (
    capture_random_state,
    random_state_kept,
    reproducible,
    restore_random_state,
)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_restored_state_draws_the_same_numbers():
    random.gauss(0, 1), np.random.randn(), torch.randn(3)  # leave half-used pairs behind
    state = capture_random_state()
    first = draw()
    draw()
    restore_random_state(state)
    assert draw() == first


def test_a_state_survives_a_file_loaded_without_running_code():
    file = io.BytesIO()
    torch.save(dict(capture_random_state()), file)
    first = draw()
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert draw() == first


def test_what_is_drawn_inside_is_not_seen_outside():
    state = capture_random_state()
    expected = draw()
    restore_random_state(state)
    with random_state_kept():
        draw()
    assert draw() == expected


def test_all_switches_are_put_back():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with reproducible(CPU, seed=1, deterministic=True, threads=1):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        first = draw()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    with reproducible(CPU, seed=1, deterministic=True, threads=1):
        assert draw() == first
