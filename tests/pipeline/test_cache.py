from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import code_digest, differences, fingerprint, flatten
from pipeline.config import parse_config
from pipeline.device import CPU, Device

PARTS = st.dictionaries(st.text(max_size=5), st.text(max_size=60), max_size=5)


@given(PARTS, PARTS)
def test_two_fingerprints_differ_in_words_exactly_when_they_differ(
    a: dict[str, str], b: dict[str, str]
) -> None:
    assert (differences(a, b) == []) == (a == b)


def test_a_setting_is_told_with_both_values() -> None:
    assert differences({"setting lr": "0.1"}, {"setting lr": "0.2"}) == ["lr 0.1 → 0.2"]
    assert differences({}, {"setting lr": "0.2"}) == ["lr (not set) → 0.2"]


def test_everything_that_matters_is_in_a_fingerprint(chain_text: str) -> None:
    entry = parse_config(chain_text).stages[0]
    base = fingerprint(entry, {"Words": "d"}, device=CPU, seed=0)
    assert base == fingerprint(entry, {"Words": "d"}, device=CPU, seed=0)
    other = parse_config(chain_text, ["stages.write.nested.rate=0.5"]).stages[0]
    for changed in (
        fingerprint(other, {"Words": "d"}, device=CPU, seed=0),
        fingerprint(entry, {"Words": "e"}, device=CPU, seed=0),
        fingerprint(entry, {"Words": "d"}, device=Device("cuda"), seed=0),
        fingerprint(entry, {"Words": "d"}, device=CPU, seed=1),
    ):
        assert len(differences(base, changed)) == 1


def test_the_code_of_a_package_counts_as_a_whole() -> None:
    from stages.augment.stage import Augment
    from stages.train.stage import Train

    assert code_digest(Augment) == code_digest(Augment)
    assert code_digest(Augment) != code_digest(Train)


def test_nested_settings_become_dotted_paths() -> None:
    assert flatten({"a": {"b": 1, "c": [2]}, "d": {}}) == {"a.b": 1, "a.c": [2], "d": {}}
