"""A stage that plans devices, and one that foretells its artifact, for tests of `dlpipe plan`."""

from __future__ import annotations

from pathlib import Path

from toy_stages import Letters, Words, Write, WriteConfig

from pipeline.context import Context
from pipeline.report.blocks import Block, Facts, Gantt, Note, Table
from pipeline.stage import StageConfig


class Foretold(Write):
    def foretell(self) -> Words | None:
        config = self.config
        if config.style == "unknown":
            return None
        return Words(text=Path("nowhere"), count=len(config.words))


class PlanningConfig(StageConfig):
    pass


class Planning:
    requires = (Words,)
    produces = Letters
    Config = PlanningConfig
    backends = ()

    def __init__(self, config: PlanningConfig) -> None:
        self.config = config

    def plan_devices(self, ctx: Context, *, devices: int, memory: int) -> tuple[Block, ...]:
        words = ctx.get(Words)
        table = Table(
            title="Words", columns=("devices", "words"), rows=((devices, words.count),),
            caption=f"of {memory} bytes",
        )  # fmt: skip
        facts = Facts(title="Figures", items=(("words", words.count),))
        chart = Gantt(title="Drawn", x_label="ms", rows=("a",), kinds=("work",), spans=())
        return table, facts, chart, Note(text="Nothing was written.")

    def run(self, ctx: Context) -> Letters:
        raise AssertionError("a plan runs nothing")


__all__ = ["Foretold", "Planning", "WriteConfig"]
