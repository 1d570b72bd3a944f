from __future__ import annotations

import io
import json
from pathlib import Path

from pipeline.console import LineConsole, TerminalConsole
from pipeline.events import EventLog, JsonLines


def test_each_event_is_one_line_of_json_and_progress_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog((JsonLines(path),), stage="train")
    log.emit("epoch", epoch=1, loss=0.5)
    with log.progress("steps", total=2) as bar:
        bar.advance(2)
    log.warning("careful")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["epoch", "warning"]
    assert lines[0] | {"time": 0} == {
        "time": 0, "stage": "train", "kind": "epoch", "epoch": 1, "loss": 0.5
    }  # fmt: skip


def test_piped_output_is_sparse() -> None:
    stream = io.StringIO()
    log = EventLog((LineConsole(stream),), stage="train")
    with log.progress("steps", total=1000) as bar:
        for _ in range(1000):
            bar.advance(1, note="loss 1")
    log.info("done")
    assert stream.getvalue() == "train: done\n"


def test_piped_progress_appears_when_work_is_long() -> None:
    stream = io.StringIO()
    console = LineConsole(stream)
    log = EventLog((console,), stage="train")
    with log.progress("steps", total=10) as bar:
        console.last["steps"] -= 60
        bar.advance(5, note="loss 1")
    assert "steps 5/10 step" in stream.getvalue()
    assert "loss 1" in stream.getvalue()


def test_a_reader_that_leaves_does_not_stop_the_work() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    log = EventLog((LineConsole(Closed()),), stage="train")
    log.info("nobody reads this")
    log.info("nor this")


def test_a_terminal_shows_bars_and_shows_markup_as_it_is() -> None:
    from rich.console import Console

    stream = io.StringIO()
    terminal = TerminalConsole(Console(file=stream, force_terminal=True, width=100))
    log = EventLog((terminal,), stage="train")
    with log.progress("steps", total=2) as bar:
        bar.advance(1, note="[red]x")
        log.warning("a [bold] claim")
        log.emit("gate", name="g", passed=False, message="too low")
    terminal.close()
    assert "a [bold] claim" in stream.getvalue()
    assert "FAIL g: too low" in stream.getvalue()
    assert terminal.progress is None
