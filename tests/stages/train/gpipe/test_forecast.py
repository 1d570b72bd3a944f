"""Forecasts: what fits K devices, and how large a network of the family they hold."""

from __future__ import annotations

from functools import cache

from chains import images_for, transformer_chain

from pipeline.report.blocks import Note, Table
from stages.train.gpipe.budget import measure_budget
from stages.train.gpipe.depth import Depths
from stages.train.gpipe.family import find_family
from stages.train.gpipe.forecast import forecast
from stages.train.gpipe.memory import MemoryMeter
from stages.train.gpipe.profile import Profile
from stages.train.gpipe.weights import ParameterBytes
from stages.train.parallel_config import ParallelConfig

BATCH, MEMORY = 16, 900 * 1024
CHAIN = transformer_chain(depth=6)
WEIGHTS = ParameterBytes()


@cache
def tables(schedule: str = "gpipe") -> tuple[Table, Table]:
    rows = tuple(tuple(1e-3 * size for _ in CHAIN.blocks) for size in (1, BATCH))
    names = tuple(block.name for block in CHAIN.blocks)
    profile = Profile(names=names, sizes=(1, BATCH), forward=rows, backward=rows)
    config = ParallelConfig.model_validate({"schedule": schedule})
    made = forecast(
        config, CHAIN, images_for(CHAIN, BATCH), devices=8, memory=MEMORY, weights=WEIGHTS,
        profile=profile,
    )  # fmt: skip
    assert all(isinstance(table, Table) for table in made)
    return made


def test_this_network_is_laid_over_every_power_of_two_of_devices():
    this, _ = tables()
    assert [row[0] for row in this.rows] == [1, 2, 4, 8]
    fits = [row for row in this.rows if row[1] == "yes"]
    assert fits
    steps = [row[5] for row in fits]
    assert steps == sorted(steps, reverse=True)


def test_more_devices_hold_larger_networks_and_recomputation_more_again():
    _, largest = tables()
    assert [row[0] for row in largest.rows] == [1, 2, 4, 8, 16, 32, 64]
    told = [row for row in largest.rows if row[1] is not None]
    assert len(told) == 5, "a mini-batch of 16 cannot be spread over 32 devices"
    for column in (2, 3, 4):
        sizes = [row[column] for row in told]
        assert sizes == sorted(sizes)
    assert all(row[1] <= row[2] for row in told)
    assert largest.rows[3][-1] > 5 * largest.rows[0][-1] > 5
    assert "'blocks.0', 6 times in this network" in largest.caption


def test_where_weights_come_later_nothing_is_computed_again_and_fewer_wait_than_in_gpipe():
    zero, gpipe = tables("zero_bubble"), tables()
    assert {row[2] for row in zero[0].rows if row[1] == "yes"} == {"never"}
    assert zero[1].columns[1:3] == ("never (M)", "repeats")
    both = [(a[1], b[1]) for a, b in zip(zero[1].rows, gpipe[1].rows, strict=True) if a[1]]
    assert len(both) == 5
    assert all(mine > theirs for mine, theirs in both[1:4])


def test_a_network_of_the_depth_that_is_foretold_really_fits_and_one_block_more_does_not():
    meter = MemoryMeter(CHAIN, images_for(CHAIN, 1))
    family = find_family(measure_budget(meter, WEIGHTS))
    assert family is not None
    depths = Depths(family, MEMORY, batch=BATCH)
    repeats = depths.most(stages=1, micro_batches=4, recompute="never")
    assert repeats is not None
    for more, fits in ((0, True), (1, False)):
        chain = transformer_chain(depth=repeats + more)
        whole = MemoryMeter(chain, images_for(chain, 1)).stage(0, len(chain), BATCH // 4).peak
        assert (WEIGHTS.of(chain.blocks) + whole <= MEMORY) == fits


def test_a_network_without_repetition_is_only_laid_over_devices():
    chain = transformer_chain(depth=1)
    made = forecast(
        ParallelConfig(), chain, images_for(chain, 4), devices=2, memory=MEMORY, weights=WEIGHTS
    )
    assert isinstance(made[1], Note)
    assert "No block of this network repeats" in made[1].text
