"""A chain of two stages without any data or model, for tests of the engine."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.artifacts import Gate, Hop, TrainedModel
from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import DataError, Problem
from pipeline.report.blocks import Facts, Section
from pipeline.stage import StageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    text: Path
    count: int
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Letters:
    counts: Path
    letters: int
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()


class Nested(StageConfig):
    depth: int = Field(default=1, ge=1, le=9)
    rate: float = 0.1


QUILL = Backend(name="quill", module="json", summary="from elsewhere")


class WriteConfig(StageConfig):
    words: tuple[str, ...] = ("one", "two")
    style: str | None = None
    nested: Nested = Nested()
    either: Nested | Literal[False] = False
    size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    fail: str = ""
    backend: str = "auto"


class Write:
    """Writes words; can be told to fail in several ways."""

    requires = ()
    produces = Words
    Config = WriteConfig
    backends = (
        Backend(name="pen", module="json", needs=("a_module_that_is_not_there",), extra="pen"),
        Backend(name="pencil", module="json", summary="always there"),
    )

    def __init__(self, config: WriteConfig) -> None:
        self.config = config

    def check(self, device: Device) -> list[Problem]:
        if self.config.style == "bad":
            return [Problem(message="'bad' is no style.", path="style")]
        return []

    def run(self, ctx: Context) -> Words:
        log = ctx.dir / "attempts.log"
        with log.open("a", encoding="utf-8") as file:
            file.write("attempt\n")
        match self.config.fail:
            case "bug":
                raise ZeroDivisionError("a bug")
            case "data":
                raise DataError("the words are damaged")
            case "disk":
                raise OSError(28, "No space left on device", str(log))
            case "vendor disk":
                raise RuntimeError("I/O error: No space left on device (os error 28)")
            case "no report":
                (ctx.dir.parent / "report.html").mkdir(exist_ok=True)
                raise OSError(28, "No space left on device", str(log))
            case "signal" if len(log.read_text().splitlines()) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                ctx.stop.check()
        path = ctx.dir / "words.txt"
        path.write_text("\n".join(self.config.words), encoding="utf-8")
        ctx.write_section(
            Section(title="Words", blocks=(Facts(title="Facts", items=(("words", 2),)),))
        )
        return Words(
            text=path,
            count=len(self.config.words),
            hops=(Hop(name="written", top1=1.0, samples=len(self.config.words)),),
        )


class CountConfig(StageConfig):
    letter: str = "o"
    at_least: int = 0


class Count:
    """Counts a letter in the words."""

    requires = (Words,)
    produces = Letters
    Config = CountConfig
    backends = ()

    def __init__(self, config: CountConfig) -> None:
        self.config = config

    def warnings(self) -> list[Problem]:
        if len(self.config.letter) == 1:
            return []
        return [Problem(message=f"{self.config.letter!r} is no single letter.", path="letter")]

    def run(self, ctx: Context) -> Letters:
        letters = ctx.get(Words).text.read_text(encoding="utf-8").count(self.config.letter)
        path = ctx.dir / "counts.txt"
        path.write_text(str(letters), encoding="utf-8")
        gate = Gate(
            name="letters",
            passed=letters >= self.config.at_least,
            value=letters,
            limit=self.config.at_least,
            message=f"{letters} found",
        )
        return Letters(
            counts=path,
            letters=letters,
            gates=(gate,),
            hops=(Hop(name="counted", top1=0.9, samples=2),),
        )

    def rehearse(self, ctx: Context) -> Letters:
        ctx.get(TrainedModel)
        return self.run(ctx)
