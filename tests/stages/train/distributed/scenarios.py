"""What several processes are put through, run once for all tests."""

from __future__ import annotations

RECIPE = {
    "model": "nets:net",
    "epochs": 2,
    "precision": "fp32",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "onecycle", "warmup_epochs": 1},
    "threads": 1,
    "tensorboard": False,
    "grad_clip": 1.0,
    "checkpoint": {"every_steps": 4},
}
FSDP = {"parallel": {"data": "fsdp"}}
RANDOM = {"model_options": {"norm": "batch", "dropout": 0.1}}
BAD = {"model_options": {"nan_at": 4}}

Scenario = dict[str, object]


def ranks(**parallel: object) -> dict[str, object]:
    """Return a pipeline of two stages over ranks."""
    return {"parallel": {"engine": "distributed", "pipeline": 2, "micro_batches": 4, **parallel}}


def scenario(
    name: str,
    world: int,
    *changes: dict[str, object],
    kill: tuple[int, int] | None = None,
    stop: tuple[int, int] | None = None,
    **more: object,
) -> Scenario:
    """Return one attempt; `kill` and `stop` are a rank and a step of its own."""
    recipe = {**RECIPE, **{key: value for change in changes for key, value in change.items()}}
    found: Scenario = {"name": name, "world": world, "recipe": {**recipe, **more}}
    for what, pair in (("kill", kill), ("stop", stop)):
        if pair:
            found[what] = {"rank": pair[0], "step": pair[1]}
    return found


SCENARIOS = (
    scenario("alone", 1),
    scenario("ddp 2", 2),
    scenario("ddp 4", 4),
    scenario("fsdp 2", 2, FSDP),
    scenario("averaged 2", 2, {"freeze": ["blocks.0"]}),
    scenario("averaged 1", 1, {"freeze": ["blocks.0"]}),
    # Killed in mid-epoch, and gone on with by as many.
    scenario("whole ddp", 4, RANDOM),
    scenario("killed ddp", 4, RANDOM, kill=(2, 8)),
    scenario("killed ddp", 4, RANDOM),
    scenario("whole fsdp", 2, RANDOM, FSDP),
    scenario("killed fsdp", 2, RANDOM, FSDP, kill=(1, 8)),
    scenario("killed fsdp", 2, RANDOM, FSDP),
    scenario("launched twin", 2, RANDOM),
    # Gone on with by others.
    scenario("1 to fsdp 2", 1, kill=(0, 7)),
    scenario("1 to fsdp 2", 2, FSDP),
    scenario("fsdp 2 to ddp 4", 2, FSDP, kill=(0, 8)),
    scenario("fsdp 2 to ddp 4", 4),
    scenario("ddp 2 to 1", 2, kill=(1, 8)),
    scenario("ddp 2 to 1", 1),
    # Asked to stop, or broken, on one rank only.
    scenario("stopped", 2, FSDP, stop=(1, 6)),
    scenario("stopped", 2, FSDP),
    scenario("bad", 2, BAD),
    scenario("bad fsdp", 2, BAD, FSDP),
    scenario("rolled back", 2, BAD, guard={"on_nonfinite": "rollback"}),
    scenario("fp16 fsdp", 2, FSDP, precision="fp16_emulated"),
    scenario("fp16 ddp", 2, precision="fp16_emulated"),
    # A pipeline over ranks.
    scenario("gpipe", 2, ranks()),
    scenario("1f1b x data", 4, ranks(schedule="1f1b", micro_batches=2)),
    scenario("recomputed", 2, ranks(recompute="except_last")),
    scenario("by blocks", 2, ranks(recompute="blocks", schedule="1f1b")),
    scenario("interleaved", 2, ranks(schedule="interleaved_1f1b")),
    scenario("zero bubble", 2, ranks(schedule="zero_bubble")),
    scenario("dropout on ranks", 2, ranks(), {"model_options": {"dropout": 0.1}}),
    scenario(
        "dropout on one",
        1,
        {"model_options": {"dropout": 0.1}},
        {"parallel": {"engine": "devices", "pipeline": 2, "micro_batches": 4}},
    ),
    {**scenario("ranks to 1", 2, ranks()), "end_at_epoch": True},
    scenario("ranks to 1", 1),
    scenario("fp16 ranks", 2, ranks(), precision="fp16_emulated"),
    scenario("uneven", 2, ranks(micro_batches=3)),
    scenario("3 for 2 stages", 3, ranks()),
    scenario("3 for 16", 3),
    scenario("more than pictures", 2, eval_batch_size=1, epochs=1),
)
