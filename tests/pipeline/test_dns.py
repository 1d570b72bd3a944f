"""Any text becomes a name that Kubernetes takes."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.dns import dns_label


@given(text=st.text(max_size=90))
@example("0" * 35)
@example("a" * 39 + "-b")
@example("")
def test_any_text_becomes_a_label_and_a_label_stays(text: str) -> None:
    label = dns_label(text, prefix="model")
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", label)
    assert dns_label(label, prefix="run") == label


def test_what_can_be_kept_is_kept() -> None:
    assert dns_label("My Model_v2", prefix="model") == "my-model-v2"
    assert dns_label("2nd try", prefix="run") == "run-2nd-try"
