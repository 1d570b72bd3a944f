from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import parse_config
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import (
    ConfigError,
    DataError,
    DlpipeError,
    Interrupted,
    MissingArtifact,
    RunLocked,
    StageFailed,
)
from pipeline.events import Event
from pipeline.lock import hold_lock
from pipeline.plan import Range, make_plan
from pipeline.record import RunRecord
from pipeline.run_folder import RunFolder
from pipeline.runner import Runner

Run = Callable[..., RunRecord]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "toy")


@pytest.fixture
def run(chain_text: str, folder: RunFolder) -> Run:
    def run_with(*overrides: str, wanted: Range | None = None, text: str = chain_text) -> RunRecord:
        chain = parse_config(text, overrides, file="toy.yaml")
        return Runner(chain=chain, folder=folder, wanted=wanted or Range()).run()

    return run_with


def statuses(record: RunRecord) -> dict[str, str]:
    return {stage.name: stage.status for stage in record.stages}


def actions(chain_text: str, folder: RunFolder, *overrides: str) -> dict[str, tuple[str, str]]:
    steps = make_plan(parse_config(chain_text, overrides), folder, CPU)
    return {step.entry.name: (step.action, step.reason) for step in steps}


def test_the_second_run_is_served_from_cache(run: Run) -> None:
    assert statuses(run()) == {"write": "ran", "count": "ran"}
    assert statuses(run()) == {"write": "cached", "count": "cached"}


def test_a_cached_stage_keeps_the_time_it_took_when_it_worked(run: Run, folder: RunFolder) -> None:
    run()
    path = folder.path / "run.json"
    document = json.loads(path.read_text())
    document["stages"][0]["seconds"] = 321.5
    path.write_text(json.dumps(document))
    assert run().stages[0].seconds == 321.5
    path.write_text("{}")
    assert run().stages[0].seconds == 0.0


def test_a_changed_setting_reruns_its_stage_and_says_so(
    run: Run, chain_text: str, folder: RunFolder
) -> None:
    run()
    plan = actions(chain_text, folder, "stages.count.letter=e")
    assert plan["write"] == ("cached", "nothing it depends on has changed")
    assert plan["count"] == ("run", 'letter "o" → "e"')


def test_a_rerun_with_an_equal_result_does_not_rerun_what_follows(run: Run) -> None:
    run()
    assert statuses(run("stages.write.nested.depth=2")) == {"write": "ran", "count": "cached"}


def test_a_changed_result_reruns_what_follows(run: Run, chain_text: str, folder: RunFolder) -> None:
    run()
    plan = actions(chain_text, folder, "stages.write.words=[oo]")
    assert plan["count"] == ("run", "write runs before it")
    assert statuses(run("stages.write.words=[oo]")) == {"write": "ran", "count": "ran"}


@pytest.mark.parametrize("damage", ["alter", "remove"])
def test_a_damaged_result_is_noticed_and_rebuilt(
    run: Run, chain_text: str, folder: RunFolder, damage: str
) -> None:
    run()
    path = folder.stage("write") / "words.txt"
    if damage == "alter":
        path.write_text("three")
    else:
        path.unlink()
    assert actions(chain_text, folder)["write"][0] == "run"
    assert statuses(run())["write"] == "ran"
    assert path.read_text() == "one\ntwo"


def test_the_plan_writes_nothing(chain_text: str, folder: RunFolder) -> None:
    assert actions(chain_text, folder)["write"] == ("run", "no earlier result")
    assert not folder.path.exists()


def test_one_stage_runs_from_earlier_artifacts(run: Run) -> None:
    run()
    record = run(wanted=Range(first="count", last="count", force=True))
    assert statuses(record) == {"write": "cached", "count": "ran"}
    assert [hop.name for _, hop in record.hops] == ["written", "counted"]


def test_a_stage_without_its_input_says_what_to_run(run: Run) -> None:
    with pytest.raises(MissingArtifact, match=r"dlpipe run toy\.yaml --until write"):
        run(wanted=Range(first="count"))


def test_what_is_seldom_meant_is_said_before_the_first_stage(
    chain_text: str, folder: RunFolder
) -> None:
    heard: list[Event] = []

    class Listener:
        def receive(self, event: Event) -> None:
            heard.append(event)

    chain = parse_config(chain_text, ["stages.count.letter=on"], file="toy.yaml")
    Runner(chain=chain, folder=folder, listeners=(Listener(),)).run()
    assert heard[0].kind == "warning"
    assert "stages.count.letter: 'on' is no single letter." in str(heard[0].fields["message"])


def test_until_stops_there(run: Run) -> None:
    assert statuses(run(wanted=Range(last="write"))) == {"write": "ran", "count": "not reached"}


def test_a_range_that_names_no_stage_suggests_one(run: Run) -> None:
    with pytest.raises(ConfigError, match="--from: 'wriet'.*Did you mean 'write'"):
        run(wanted=Range(first="wriet"))
    with pytest.raises(ConfigError, match="--until: 'write' comes before"):
        run(wanted=Range(first="count", last="write"))


def test_artifacts_can_come_from_another_run(run: Run, folder: RunFolder, tmp_path: Path) -> None:
    run()
    stages = "stages:\n  - c: {uses: 'toy_stages:Count'}\n"
    text = f"name: other\nartifacts_from: {folder.path}\n{stages}"
    chain = parse_config(text)
    record = Runner(chain=chain, folder=RunFolder(tmp_path / "runs" / "other")).run()
    assert statuses(record) == {"c": "ran"}


def test_a_stage_stands_twice_under_two_names(run: Run, chain_text: str) -> None:
    text = chain_text + (
        '  - again: {uses: "toy_stages:Write", words: [ooo]}\n'
        '  - first: {uses: "toy_stages:Count", inputs: [write]}\n'
        '  - last: {uses: "toy_stages:Count"}\n'
    )
    record = run(text=text)
    values = {stage.name: stage.gates[0].value for stage in record.stages if stage.gates}
    assert values == {"count": 2, "first": 2, "last": 3}


def test_a_failing_stage_leaves_earlier_artifacts_and_a_trace(run: Run, folder: RunFolder) -> None:
    run()
    with pytest.raises(StageFailed, match=r"stages.write: ZeroDivisionError: a bug.*error\.log"):
        run("stages.write.fail=bug")
    assert "ZeroDivisionError" in (folder.path / "error.log").read_text()
    assert folder.has_artifact("write")
    document = json.loads((folder.path / "run.json").read_text())
    assert document["status"] == "failed"
    assert document["stages"][0]["error"]
    assert (folder.path / "report.html").exists()


@pytest.mark.parametrize("fail", ["disk", "vendor disk"])
def test_a_full_disk_is_told_as_such(run: Run, fail: str) -> None:
    with pytest.raises(StageFailed, match="the disk is full .* Free some space"):
        run(f"stages.write.fail={fail}")


def test_a_report_that_cannot_be_written_does_not_hide_what_failed(run: Run) -> None:
    with pytest.raises(StageFailed, match="the disk is full"):
        run("stages.write.fail=no report")


def test_files_of_the_run_that_cannot_be_written_are_named(run: Run, folder: RunFolder) -> None:
    folder.create()
    (folder.path / "run.json").mkdir()
    with pytest.raises(DlpipeError, match=r"cannot be written to: .*run\.json"):
        run()


def test_an_error_in_the_data_names_the_stage(run: Run) -> None:
    with pytest.raises(DataError, match=r"stages\.write: the words are damaged"):
        run("stages.write.fail=data")


def test_a_signal_interrupts_and_the_same_command_goes_on(run: Run, folder: RunFolder) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        run("stages.write.fail=signal")
    assert json.loads((folder.path / "run.json").read_text())["status"] == "interrupted"
    record = run("stages.write.fail=signal")
    assert statuses(record) == {"write": "ran", "count": "ran"}
    assert (folder.stage("write") / "attempts.log").read_text() == "attempt\nattempt\n"


def test_an_interrupted_attempt_with_other_settings_starts_anew(
    run: Run, folder: RunFolder
) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        run("stages.write.fail=signal")
    run()
    assert (folder.stage("write") / "attempts.log").read_text() == "attempt\n"


def test_a_run_folder_in_use_says_by_whom(run: Run, folder: RunFolder) -> None:
    folder.create()
    with hold_lock(folder.path), pytest.raises(RunLocked, match=r"in use by process \d+ on"):
        run()


def test_problems_are_found_before_anything_runs(run: Run, folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"command line: stages\.write\.style: 'bad' is no"):
        run("stages.write.style=bad")
    with pytest.raises(
        ConfigError, match=r"backend: 'pen' needs the package .* pip install 'dlpipe\[pen\]'"
    ):
        run("stages.write.backend=pen")
    with pytest.raises(ConfigError, match="'pencl' is no backend.*Did you mean 'pencil'"):
        run("stages.write.backend=pencl")
    with pytest.raises(ConfigError, match="device: 'cuda:77' is not there"):
        run("device=cuda:77")
    assert not folder.path.exists()


def test_the_accuracy_budget_names_the_hop_that_costs_most(run: Run) -> None:
    record = run("max_drop=5")
    [(stage, gate)] = record.failed_gates
    assert stage == "chain"
    assert gate.value == pytest.approx(10)
    assert "the hop to counted costs most" in gate.message
    assert run("max_drop=10").failed_gates == []


def test_a_gate_that_does_not_hold_is_in_the_record(run: Run, folder: RunFolder) -> None:
    record = run("stages.count.at_least=99")
    assert [gate.name for _, gate in record.failed_gates] == ["letters"]
    assert json.loads((folder.path / "run.json").read_text())["verdict"] == "failed"


def test_the_run_folder_tells_how_it_was_made(run: Run, folder: RunFolder) -> None:
    run("seed=7")
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["seed"] == 7
    assert environment["packages"]["torch"]
    assert environment["hardware"]["cores"] >= 1
    resolved = parse_config((folder.path / "config.yaml").read_text())
    assert resolved.settings.seed == 7
    events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert {event["stage"] for event in events} == {"write", "count"}


def test_listeners_see_every_stage(chain_text: str, folder: RunFolder) -> None:
    seen: list[Event] = []

    class Keep:
        def receive(self, event: Event) -> None:
            seen.append(event)

    Runner(chain=parse_config(chain_text), folder=folder, listeners=(Keep(),)).run()
    assert [(e.stage, e.kind) for e in seen if e.kind == "stage end"] == [
        ("write", "stage end"),
        ("count", "stage end"),
    ]


def test_a_stage_gets_an_absolute_folder_even_of_a_relative_run(
    chain_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toy_stages import Words, Write

    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []
    write = Write.run

    def look(self: Write, ctx: Context) -> Words:
        seen.append(ctx.dir)
        return write(self, ctx)

    monkeypatch.setattr(Write, "run", look)
    Runner(chain=parse_config(chain_text), folder=RunFolder(Path("runs") / "toy")).run()
    assert seen == [tmp_path / "runs" / "toy" / "write.partial"]


def test_a_crash_between_the_two_renames_is_put_right(run: Run, folder: RunFolder) -> None:
    run()
    folder.stage("write").rename(folder.path / "write.old")
    assert statuses(run()) == {"write": "cached", "count": "cached"}


def test_a_read_only_place_is_an_error_with_its_mend(chain_text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chain = parse_config(chain_text)
    with pytest.raises(DlpipeError, match="cannot be written to.*--runs-dir"):
        Runner(chain=chain, folder=RunFolder(tmp_path / "file" / "toy")).run()
