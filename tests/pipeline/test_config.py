from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import parse_config
from pipeline.errors import ConfigError


def problem(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError, match=".") as caught:
        parse_config(text, overrides, file="c.yaml")
    return str(caught.value)


def test_a_valid_chain_is_typed(chain_text: str) -> None:
    chain = parse_config(chain_text)
    assert [entry.name for entry in chain.stages] == ["write", "count"]
    assert chain.settings.device == "auto"
    assert chain.stages[0].config.model_dump()["words"] == ("one", "two")


def test_the_resolved_configuration_is_valid_and_resolves_to_itself(chain_text: str) -> None:
    import yaml

    resolved = parse_config(chain_text).resolved()
    again = parse_config(yaml.safe_dump(resolved)).resolved()
    assert again == resolved


def test_unknown_key_names_the_closest_one_with_file_line_and_column() -> None:
    text = 'name: a\nstages:\n  - write: {uses: "toy_stages:Write",\n      wrods: [a]}\n'
    message = problem(text)
    assert "c.yaml:4:7: stages.write.wrods: unknown key 'wrods'." in message
    assert "Did you mean 'words'?" in message
    assert "'words', 'style', 'nested'" in message


def test_unknown_nested_key_lists_the_keys_of_that_mapping() -> None:
    message = problem(
        'name: a\nstages:\n  - write: {uses: "toy_stages:Write", nested: {dept: 3}}\n'
    )
    assert "stages.write.nested.dept" in message
    assert "Allowed: 'depth' or 'rate'. Did you mean 'depth'?" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ('stages.write.nested.depth="2"', "stages.write.nested.depth: '2' is not allowed"),
        ("stages.write.nested.depth=2.5", "must be a whole number"),
        ("stages.write.nested.depth=12", "12 is not allowed: must be less than or equal to 9"),
        ("stages.write.nested.rate=fast", "must be a number"),
        ("stages.write.words=one", "'one' is not allowed: must be a list"),
        ("stages.write.nested=3", "3 is not allowed: must be a mapping"),
        ("seed=-1", "seed: -1 is not allowed"),
        ("nmae=x", "unknown key 'nmae'.*Did you mean 'name'"),
        ("stages=3", "must be a list of stages"),
        ("stages=[]", "is empty"),
        ("stages.count.inputs=[wriet]", "'wriet' is no earlier stage.*Did you mean 'write'"),
        ("stages.count.inputs=write", "must be a list of stage names"),
        ("stages.write.uses=3", "must be a text"),
        ("name=../evil", "name: '../evil' is not allowed: must match"),
        ("device=gpu", r"must match .*``auto``, ``cpu``, ``cuda`` or ``cuda:N``"),
    ],
)
def test_wrong_values_are_told_with_path_value_and_what_is_allowed(
    chain_text: str, override: str, expected: str
) -> None:
    assert re.search(expected, problem(chain_text, override))


MAPPING_OR_FALSE = r"must be a mapping, \{key: value\}, or false\."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("either: null", rf"either: null is not allowed: {MAPPING_OR_FALSE}"),
        ("either: true", rf"either: true is not allowed: {MAPPING_OR_FALSE}"),
        ("either: {depth: 12}", r"either\.depth: 12 .* must be less than or equal to 9\."),
        ("either: {dept: 3}", r"either\.dept: unknown key 'dept'\. .* Did you mean 'depth'\?"),
        (
            "size: atuo",
            r"size: 'atuo' .* must be a whole number, or 'auto'\. Did you mean 'auto'\?",
        ),
        ("size: 2.5", r"size: 2\.5 is not allowed: must be a whole number, or 'auto'\."),
        ("size: 0", r"size: 0 is not allowed: must be greater than or equal to 1\."),
    ],
)
def test_a_value_that_may_be_of_several_kinds_is_one_mistake(given: str, expected: str) -> None:
    text = f'name: a\nstages:\n  - write: {{uses: "toy_stages:Write", {given}}}\n'
    assert re.search(rf"^c\.yaml:3:\d+: stages\.write\.{expected}$", problem(text))


def test_an_int_is_a_valid_float(chain_text: str) -> None:
    chain = parse_config(chain_text, ["stages.write.nested.rate=1"])
    assert chain.stages[0].config.model_dump()["nested"]["rate"] == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("- a", "must be a mapping .* not a list"),
        ("just words", "must be a mapping .* not a plain value"),
        ("name: a", "stages: required key is missing"),
        ("stages: [{uses: 1, b: 2}]", "each stage is one name"),
        ("name: a\nstages: [3]", "each stage is one name"),
        ("name: a\nstages: [{trian: {}}]", "'trian' is no stage.*Did you mean 'train'"),
        ("name: a\nstages: [{x: {uses: 'nowhere:Stage'}}]", "cannot be imported"),
        ("name: a\nstages: [{x: {uses: 'json:dumps'}}]", "'json:dumps' is no stage: it lacks"),
        ("name: a\nstages: [{write: 3}]", "must be a mapping of settings"),
    ],
)
def test_a_file_of_the_wrong_form_says_what_is_expected(text: str, expected: str) -> None:
    assert re.search(expected, problem(text))


def test_a_stage_before_what_it_needs_is_told_what_to_move() -> None:
    text = (
        'name: a\nstages:\n  - count: {uses: "toy_stages:Count"}\n'
        '  - write: {uses: "toy_stages:Write"}\n'
    )
    message = problem(text)
    assert "stages.count: needs a Words, which no earlier stage produces. Move 'write'" in message


def test_a_name_that_stands_twice_is_told_how_to_rename(chain_text: str) -> None:
    text = chain_text + '  - write: {uses: "toy_stages:Write"}\n'
    assert "the name 'write' is taken by the stage in line 3" in problem(text)


def test_all_problems_of_a_file_are_reported_together(chain_text: str) -> None:
    with pytest.raises(ConfigError, match="seed") as caught:
        parse_config(chain_text, ["seed=x", "stages.write.wrods=1", "stages.count.letter=2"])
    assert len(caught.value.problems) == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["name", "device", "seed", "stages", "max_drop", "words", "nested", "x"])
STAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["write", "count", "train"]),
        st.dictionaries(
            st.sampled_from(["uses", "inputs", "words", "nested", "letter"]),
            VALUES | st.just("toy_stages:Write"),
            max_size=4,
        )
        | VALUES,
        max_size=2,
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES | STAGES, max_size=5))
def test_any_yaml_is_a_chain_or_a_readable_error(document: dict[str, object]) -> None:
    import yaml

    try:
        parse_config(yaml.safe_dump(document, allow_unicode=True), file="fuzz.yaml")
    except ConfigError as error:
        assert str(error)
        assert "Traceback" not in str(error)
