"""Whatever is typed, the answer is an exit code and a sentence, never a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cache import flatten
from pipeline.cli import main
from pipeline.config import load_config

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def paths() -> list[str]:
    resolved = load_config(QUICKSTART).resolved()
    assert isinstance(resolved, dict)
    stages = resolved.pop("stages")
    assert isinstance(stages, list)
    entries = {
        name: value for entry in stages if isinstance(entry, dict) for name, value in entry.items()
    }
    return [*flatten(resolved), *flatten({"stages": entries})]


VALUES = st.sampled_from(
    ["null", "-1", "0", "1e-3", "1e400", ".nan", "true", "[]", "{}", "[1, 2]", '""', "auto", "x:y",
     "{a: {b: 1}}", "[[1], [2]]", "9" * 30, "../..", "\x07", "off", "['']"]
) | st.text(max_size=12)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_setting_of_the_quickstart_may_be_set_to_anything(
    data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data.draw(st.sampled_from(paths()))
    code = main(["check", str(QUICKSTART), f"{path}={data.draw(VALUES)}"])
    captured = capsys.readouterr()
    assert code in {0, 2}, captured.err
    assert "Traceback" not in captured.err
    assert (code == 0) == (captured.err == "")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_any_file_may_be_given(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert main(["check", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 2000), noise=st.sampled_from(list("{}[]:,#&*!|>'\"%@`- \n\t")))
def test_a_slip_of_the_finger_in_a_good_file_is_told_in_words(
    position: int, noise: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = QUICKSTART.read_text(encoding="utf-8")
    position %= len(text)
    path = tmp_path / "slip.yaml"
    path.write_text(text[:position] + noise + text[position + 1 :], encoding="utf-8")
    code = main(["check", str(path)])
    captured = capsys.readouterr()
    assert code in {0, 2}
    assert "Traceback" not in captured.err
