from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError
from stages.export.backends import BatchProfile
from stages.export.config import LatencyConfig
from stages.export.latency import measure_latency
from stages.export.measure import (
    Predictions,
    ask,
    load_predictions,
    predict,
    same_samples,
    save_predictions,
)


class Sums:
    """A session that answers the pixel sum of each image, and keeps the batch sizes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images):
        self.batches.append(len(images))
        total = images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)
        return np.stack([total] * 10, axis=1)

    def close(self) -> None:
        pass


def predictions(*rows: list[float], targets: list[int]) -> Predictions:
    return Predictions(np.array(rows, dtype=np.float32), np.array(targets))


def test_an_answer_that_is_not_finite_is_wrong_and_counted():
    found = predictions([1, 0], [np.nan, 1], [np.inf, 0], targets=[0, 1, 0])
    assert found.top1 == pytest.approx(1 / 3)
    assert found.num_sick == 2
    assert found.agreement(found) == pytest.approx(1 / 3)


def test_predictions_round_trip_and_damage_is_named(tmp_path):
    found = predictions([1, 0], [0, 1], targets=[0, 1])
    save_predictions(found, tmp_path / "p.npz")
    back = load_predictions(tmp_path / "p.npz")
    assert np.array_equal(back.logits, found.logits)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    np.savez(tmp_path / "other.npz", x=1)
    for name in ("bad.npz", "other.npz", "gone.npz"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            load_predictions(tmp_path / name)


def test_other_labels_are_not_compared():
    with pytest.raises(DataError, match="on 1 eval samples and the exported one on 1"):
        same_samples(predictions([1, 0], targets=[0]), predictions([1, 0], targets=[1]))


def test_a_batch_smaller_than_an_engine_takes_is_filled_up():
    session = Sums()
    images = np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2, 1)
    assert ask(session, images, 5)[:, 0].tolist() == [6.0, 22.0]
    assert session.batches == [5]


def test_every_eval_sample_is_asked_once_within_the_profile(spec, ctx):
    session = Sums()
    found = predict({"sums": session}, spec, BatchProfile(min=1, opt=8, max=32), ctx)["sums"]
    assert len(found.targets) == spec.splits["eval"].samples
    assert max(session.batches) <= 32


def test_sessions_take_turns_and_both_batch_sizes_are_timed(ctx, images):
    one, other = Sums(), Sums()
    config = LatencyConfig(seconds=0.02, rounds=4)
    found = measure_latency(
        {"one": one, "other": other}, images, BatchProfile(min=2, opt=6, max=8), config, ctx
    )
    for latency in found.values():
        assert 0 < latency.p50_ms <= latency.p99_ms
        assert latency.images_per_s > 0
    assert set(one.batches) == set(other.batches) == {2, 6}
