from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_needs_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "COMMAND" in done.stdout
    assert not {"torch", "pydantic", "rich", "yaml"} & {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
    }


def test_a_chain_runs_twice_and_the_second_time_from_cache(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(chain_file)]) == 0
    first = capfd.readouterr()
    assert "write: runs: no earlier result" in first.err
    assert "report: runs/toy/report.html" in first.out
    assert main(["run", str(chain_file)]) == 0
    assert "count: cached: nothing it depends on has changed" in capfd.readouterr().err


def test_a_failed_gate_has_an_exit_code_of_its_own(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(chain_file), "stages.count.at_least=99"]) == 3
    assert "error: gate failed: count: letters" in capfd.readouterr().err


def test_a_signal_has_an_exit_code_of_its_own(chain_file: Path) -> None:
    assert main(["run", str(chain_file), "stages.write.fail=signal"]) == 75
    assert main(["run", str(chain_file), "stages.write.fail=signal"]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "toy.yaml", "stages.write.wrods=3"], "Did you mean 'words'?"),
        (["run", "nothing.yaml"], "cannot be read"),
        (["check", "toy.yaml", "device=cuda:9"], "device: 'cuda:9' is not there"),
        (["plan", "toy.yaml", "--from", "count"], "run `dlpipe run"),
        (["stage", "coutn", "toy.yaml"], "'coutn' is no stage of toy.yaml"),
        (["check", "."], "is a folder. Give the path of a YAML file."),
        (["report", "nowhere"], "nowhere: is no run"),
        (["serve", "nowhere"], "nowhere: is no run"),
        (["compare", "a", "b"], "a: is no run"),
    ],
)
def test_mistakes_exit_with_two_and_say_what_to_do(
    chain_file: Path, arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert expected.lower() in error.lower()
    assert "Traceback" not in error


def test_overrides_may_stand_before_and_after_options(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", str(chain_file), "seed=1", "--until", "write", "name=x"]
    assert main(command) == 0
    assert "runs/x" in capfd.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--nonsense"])


def test_many_problems_are_counted(chain_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(chain_file), "seed=x", "stages.write.wrods=3"]) == 2
    assert capfd.readouterr().err.startswith("2 problems:\n")


def test_what_is_right_of_a_wrong_file_is_checked_further(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = ["seed=x", "stages.count.letter=2", "stages.write.backend=pen"]
    assert main(["check", str(chain_file), *wrong]) == 2
    error = capfd.readouterr().err
    assert error.startswith("3 problems:\n")
    assert "backend: 'pen' needs the package" in error


def test_check_says_what_it_resolved(chain_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(chain_file)]) == 0
    out = capfd.readouterr().out
    assert "valid. write → count on" in out
    assert "write: backend pencil (passed over pen: needs the package" in out


def test_check_warns_of_what_is_seldom_meant(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    warning = f"{chain_file}:4:47: stages.count.letter: 'on' is no single letter."
    chain_file.write_text(chain_file.read_text().replace("letter: o", "letter: on"))
    assert main(["check", str(chain_file)]) == 0
    assert f"\nwarning: {warning}\n" in capfd.readouterr().out


def test_plan_prints_each_stage_with_its_reason(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(chain_file)]) == 0
    assert "write runs before it" in capfd.readouterr().out
    assert not Path("runs").exists()


def test_a_stage_runs_alone_even_if_cached(
    chain_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(chain_file)]) == 0
    capfd.readouterr()
    assert main(["stage", "count", str(chain_file)]) == 0
    error = capfd.readouterr().err
    assert "write: as it is" in error
    assert "count: runs: asked for" in error


def test_a_bug_shows_no_traceback_but_keeps_it(
    chain_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.doctor.cuda_driver", lambda: 1 / 0)
    assert main(["doctor"]) == 70
    error = capfd.readouterr().err
    assert "internal error: ZeroDivisionError" in error
    assert "Traceback" not in error
    log = Path(error.split("the trace is in ")[1].strip().removesuffix("."))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_doctor_lists_every_stage_and_reason(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    for word in ("Python", "torch", "CUDA driver", "augment", "dali-cpu", "tensorrt-rtx", "triton"):
        assert word in out


def test_the_starter_file_is_valid_and_not_overwritten(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mine.yaml"]) == 0
    assert main(["check", "mine.yaml"]) == 0
    assert main(["init", "mine.yaml"]) == 2
    assert "is there already" in capfd.readouterr().err


def test_the_schema_knows_every_stage_and_its_settings(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["schema"]) == 0
    document = json.loads(capfd.readouterr().out)
    items = document["properties"]["stages"]["items"]["anyOf"]
    names = {name for item in items for name in item.get("properties", {})}
    assert {"augment", "train", "export", "deploy"} <= names


def test_two_runs_compare(chain_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(chain_file)]) == 0
    assert main(["run", str(chain_file), "name=other", "stages.count.letter=e"]) == 0
    capfd.readouterr()
    assert main(["compare", "toy", "other"]) == 0
    assert "letter" in capfd.readouterr().out


def test_output_into_a_closed_pipe_is_no_error() -> None:
    code = f"{sys.executable} -m pipeline doctor | head -n 1"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dlpipe")
    assert done.stderr == ""
