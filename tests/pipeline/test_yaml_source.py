from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.yaml_source import MAX_BYTES, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("3", 3),
        ("0x10", 16),
        ("0o17", 15),
        ('"2"', "2"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("2026-11-22", "2026-11-22"),
        ("1:30", "1:30"),
        ("-.inf", -math.inf),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(text, file="t").plain() == value


def test_every_value_knows_its_line_and_column() -> None:
    node = parse_yaml("a: 1\nb:\n  - {c: 2}\n", file="f.yaml")
    assert isinstance(node.value, dict)
    inner = node.value["b"].value
    assert isinstance(inner, list)
    mapping = inner[0].value
    assert isinstance(mapping, dict)
    assert (mapping["c"].place.file, mapping["c"].place.line, mapping["c"].place.column) == (
        "f.yaml",
        3,
        9,
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "malformed YAML"),
        ("a: 1\na: 2\n", "'a' stands twice .* line 1"),
        ("a: !!python/object/apply:os.system [ls]", "tag .* is not allowed"),
        ("a: !thing 3", "tag '!thing' is not allowed"),
        ("a: !!bool maybe", "tag '!!bool' is not allowed"),
        (BOMB, "expands to more than"),
        ("a: &x [*x]", "contains itself"),
        ("a: *nowhere", "malformed YAML"),
        ("1: a", "the key '1' is no text"),
        ("[a]: b", "is no text"),
        ("base: &b {x: 1}\nc: {<<: *b}", "merge keys"),
        ("a: 1\n---\nb: 2", "malformed YAML"),
        ("a: \x00", "malformed YAML"),
        ("[" * 500 + "]" * 500, "nested"),
        ("[" * 100_000, "nested too deeply|malformed"),
        ("a: " + "9" * 5000, "no usable int"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_a_reason(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, file="t")


def test_a_missing_file_suggests_the_one_that_is_there(tmp_path) -> None:
    (tmp_path / "quickstart.yaml").write_text("name: a")
    with pytest.raises(ConfigError, match=r"Did you mean '.*quickstart\.yaml'"):
        read_yaml(tmp_path / "quikstart.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00a", "is not UTF-8"), (b"a" * (MAX_BYTES + 1), "is larger than")],
)
def test_files_that_are_no_text_are_refused(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_a_folder_is_no_configuration(tmp_path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_yaml(tmp_path)


@given(st.text(max_size=200))
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    try:
        parse_yaml(text, file="fuzz").plain()
    except ConfigError as error:
        assert str(error)
