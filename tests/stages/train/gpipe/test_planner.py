"""Plans: they fit or they say what would."""

from __future__ import annotations

from functools import cache
from itertools import pairwise, product

import pytest
from chains import conv_chain, images_for

from pipeline.errors import ConfigError
from stages.train.gpipe.memory import MemoryMeter
from stages.train.gpipe.orders import most_alive
from stages.train.gpipe.pipeline_plan import PipelinePlan
from stages.train.gpipe.planner import plan_pipeline, profile_sizes
from stages.train.gpipe.profile import Profile
from stages.train.parallel_config import ParallelConfig

BATCH = 16
CHAIN = conv_chain(depth=6)
METER = MemoryMeter(CHAIN, images_for(CHAIN, 1))
NAMES = tuple(block.name for block in CHAIN.blocks)


def profile_of(fixed: float) -> Profile:
    """Blocks that take 1 ms for each sample and some for each micro-batch; the head a little.

    Half of a backward pass is that of weights.
    """
    share = [1.0, *[1.0] * 6, 0.25]
    rows = tuple(tuple(1e-3 * s * (fixed + size) for s in share) for size in (1, BATCH))
    twice = tuple(tuple(2 * value for value in row) for row in rows)
    return Profile(names=NAMES, sizes=(1, BATCH), forward=rows, backward=twice, weights=rows)


@cache
def plan(fixed: float = 0.5, cores: int = 8, **settings: object) -> PipelinePlan:
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    config = ParallelConfig.model_validate(settings)
    images = images_for(CHAIN, BATCH)
    return plan_pipeline(config, CHAIN, images, profile=profile_of(fixed), meter=METER, cores=cores)


def test_every_block_is_on_one_stage_and_the_dearest_stage_is_as_cheap_as_can_be():
    made = plan(pipeline=3)
    assert tuple(name for stage in made.stages for name in stage.layers) == NAMES
    assert made.bounds == (0, 3, 5, 8) or made.bounds == (0, 2, 5, 8) or made.bounds == (0, 3, 6, 8)
    assert max(len(stage.layers) for stage in made.stages) == 3
    assert made.imbalance == pytest.approx(3 / (7.25 / 3), rel=0.01)


def test_auto_takes_the_micro_batches_of_the_fastest_simulated_step():
    tried = {m: plan(pipeline=4, micro_batches=m).step_s for m in (4, 8, 16)}
    assert plan(pipeline=4).micro_batches == min(tried, key=tried.__getitem__)
    assert "the fastest simulated step" in plan(pipeline=4).reasons[0]


def test_the_dearer_a_micro_batch_is_by_itself_the_fewer_are_taken():
    chosen = [plan(fixed=fixed, pipeline=4).micro_batches for fixed in (0.0, 0.5, 20.0)]
    assert chosen == sorted(chosen, reverse=True)
    assert (chosen[0], chosen[-1]) == (16, 4)


def test_a_plan_names_the_plain_step_at_as_many_micro_batches_and_the_best_one():
    made = plan(pipeline=4, micro_batches=8)
    assert made.plain_s == pytest.approx(8 * 3 * 7.25 * (0.5 + 2) * 1e-3)
    assert made.best_plain_s == pytest.approx(3 * 7.25 * (0.5 + 16) * 1e-3)
    assert made.step_s < made.best_plain_s < made.plain_s


def test_stages_that_share_cores_gain_less():
    free = plan(pipeline=4, micro_batches=8).step_s
    shared = plan(pipeline=4, micro_batches=8, cores=2).step_s
    assert shared > 1.3 * free
    assert shared >= plan(pipeline=4, micro_batches=8).plain_s / 2


@pytest.mark.parametrize("limit", ["1MiB", "150KiB", "90KiB"])
def test_auto_takes_the_fewest_stages_that_fit_and_every_stage_does(limit):
    made = plan(pipeline="auto", memory=limit, schedule="1f1b")
    most = ParallelConfig(memory=limit).memory
    assert all(stage.memory_bytes <= most for stage in made.stages)
    if len(made.stages) > 1:
        with pytest.raises(ConfigError, match="What fits: "):
            plan(pipeline=len(made.stages) - 1, memory=limit, schedule="1f1b")


def test_one_device_splits_the_batch_only_to_fit():
    assert plan(pipeline=1).micro_batches == 1
    whole = plan(pipeline=1).stages[0].memory_bytes
    tight = plan(pipeline=1, memory=str(whole // 2))
    assert tight.micro_batches > 1
    assert tight.stages[0].memory_bytes <= whole // 2


def test_less_memory_is_taken_where_activations_are_computed_again():
    never = plan(pipeline=2, micro_batches=8)
    again = plan(pipeline=2, micro_batches=8, recompute="always")
    blocks = plan(pipeline=2, micro_batches=8, recompute="blocks")
    by_mode = [max(s.activation_bytes for s in p.stages) for p in (never, again, blocks)]
    assert by_mode == sorted(by_mode, reverse=True)
    assert never.step_s < again.step_s < blocks.step_s
    for a, b in zip(never.stages, again.stages, strict=True):
        assert b.backward_ms == pytest.approx(a.backward_ms + a.forward_ms, rel=0.3)


def test_1f1b_holds_fewer_micro_batches_than_gpipe_and_is_as_fast():
    gpipe, other = (plan(pipeline=2, micro_batches=16, schedule=s) for s in ("gpipe", "1f1b"))
    assert other.step_s == pytest.approx(gpipe.step_s, rel=0.02)
    assert other.stages[0].activation_bytes < gpipe.stages[0].activation_bytes
    assert most_alive("1f1b", 0, 2, 16) == 2


def test_gradients_of_weights_fill_the_bubble_and_cost_no_more():
    settings = {"pipeline": 4, "micro_batches": 16}
    plain, filled = (plan(**settings, schedule=s) for s in ("1f1b", "zero_bubble"))
    assert filled.step_s < 0.93 * plain.step_s
    assert sum(s.backward_ms for s in filled.stages) == pytest.approx(
        sum(s.backward_ms for s in plain.stages)
    )
    assert filled.stages[-1].activation_bytes > plain.stages[-1].activation_bytes


def test_where_the_bubble_is_filled_no_shift_of_a_cut_makes_the_step_shorter():
    settings = {"pipeline": 3, "micro_batches": 8, "schedule": "zero_bubble"}
    best = plan(**settings)
    for cut, by in product((1, 2), (-1, 1)):
        bounds = [at + by * (k == cut) for k, at in enumerate(best.bounds)]
        if all(a < b for a, b in pairwise(bounds)):
            other = plan(**settings, cuts=tuple(NAMES[at] for at in bounds[1:-1]))
            assert best.step_s <= other.step_s + 1e-12
    assert "cut so that the simulated step is shortest" in best.reasons
    costs = [stage.forward_ms + stage.backward_ms for stage in best.stages]
    assert costs[-1] < max(costs)


@pytest.mark.parametrize("balance", ["time", "memory", "parameters"])
def test_every_balance_gives_a_whole_partition(balance):
    made = plan(pipeline=3, micro_batches=4, balance=balance)
    assert all(start < stop for start, stop in pairwise(made.bounds))
    assert (made.bounds[0], made.bounds[-1]) == (0, len(CHAIN))


def test_cuts_by_name_are_kept():
    made = plan(pipeline=3, micro_batches=4, cuts=("blocks.1", "head"))
    assert made.bounds == (0, 2, 7, 8)
    assert [stage.layers[0] for stage in made.stages] == ["stem", "blocks.1", "head"]


def test_uneven_micro_batches_add_up_to_the_batch():
    made = plan(pipeline=2, micro_batches=5)
    assert made.sizes == (4, 3, 3, 3, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pipeline": 9}, r"pipeline: 9 stages, and the network is a chain of 8 blocks.*1 to 8"),
        ({"pipeline": 2, "micro_batches": 17}, "17 is more than the 16 samples of a mini-batch"),
        ({"pipeline": 2, "cuts": ("blocks.9",)}, "'blocks.9' is no block.*Did you mean 'blocks."),
        (
            {"pipeline": "auto", "memory": "20KiB"},
            "20.00 KiB is too little for any of 1 to 8 stages: at the best.*fits: raise memory to",
        ),
        (
            {"pipeline": 2, "micro_batches": 8, "memory": "300KiB"},
            "too little for 2 stage.*set recompute: (always|blocks) with micro_batches: 8",
        ),
        (
            {"pipeline": 2, "micro_batches": 8, "memory": "140KiB", "schedule": "zero_bubble"},
            "set schedule: 1f1b and recompute: never with micro_batches: 8",
        ),
        (
            {"pipeline": 2, "micro_batches": 3, "memory": "10KiB"},
            "10.00 KiB is too little for 2 stage.*What fits: raise memory to [^;]*$",
        ),
    ],
)
def test_what_cannot_be_is_an_error_with_its_mend(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan(**settings)


def test_the_mend_for_memory_works():
    with pytest.raises(ConfigError, match="raise memory to") as caught:
        plan(pipeline=2, micro_batches=8, memory="300KiB")
    enough = str(caught.value).split("raise memory to ")[1].split(" with")[0].replace(" ", "")
    assert plan(pipeline=2, micro_batches=8, memory=enough)


def test_few_sizes_are_timed():
    assert profile_sizes(ParallelConfig(pipeline=2), 128) == (2, 8, 32, 128)
    assert profile_sizes(ParallelConfig(pipeline=2, micro_batches=8), 128) == (16, 128)
    assert profile_sizes(ParallelConfig(pipeline=2), 3) == (2, 3)
