"""Other frameworks' loops: measured where they are installed, named where they are not."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import peers
from benchmarks.metered import WARM_STEPS, Metered
from benchmarks.networks import TINY_MLP
from benchmarks.trainees import bare, random_batches
from benchmarks.training import notes_of


def test_a_missing_peer_is_named_and_left_out(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    assert peers.missing_packages() == ["accelerate", "fastai", "lightning"]
    assert peers.open_peers(TINY_MLP, random_batches(TINY_MLP, 2)) == {}


def test_the_notes_say_what_was_not_measured(monkeypatch):
    assert any("--peers adds" in note for note in notes_of(compiled=True, with_peers=False))
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    notes = notes_of(compiled=True, with_peers=True)
    assert any("fastai" in note and "dlpipe[peers]" in note for note in notes)


def test_the_clock_runs_from_the_first_step_that_is_not_warm_to_the_last():
    metered = Metered(random_batches(TINY_MLP, 2), steps=5)
    assert metered.turn.units == 0
    assert len(list(metered)) == len(metered) == 5 + WARM_STEPS
    assert metered.turn.units == 5
    assert metered.turn.wall_s > 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")
def test_a_peer_meets_the_losses_of_the_bare_loop():
    batches = random_batches(TINY_MLP, 4)
    from benchmarks.peers.accelerate_loop import open_peer

    ours, theirs = bare(TINY_MLP, batches, bf16=False), open_peer(TINY_MLP, batches, shows=False)
    assert theirs.learn(6).loss == pytest.approx(ours.learn(6).loss, rel=1e-6)
