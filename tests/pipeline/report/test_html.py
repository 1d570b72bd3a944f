from __future__ import annotations

from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.html import element, escape, fragment


@given(st.text())
def test_text_holds_no_markup_after_escaping_and_reads_the_same(text: str) -> None:
    shown = escape(text)
    assert not set("<>\"'") & set(shown)
    kept = all(c.isprintable() or c in "\t\n\r" for c in text)
    assert not kept or unescape(shown) == text


@given(st.text())
def test_escaped_text_can_always_be_encoded(text: str) -> None:
    escape(text + "\ud800").encode("utf-8")


def test_markup_is_kept_and_text_is_not_trusted() -> None:
    inner = element("b", "x < y")
    assert element("p", inner, " & ", 3, None, ["a", inner]) == (
        "<p><b>x &lt; y</b> &amp; 3a<b>x &lt; y</b></p>"
    )


def test_markup_that_was_joined_as_text_is_escaped_again() -> None:
    assert fragment(f"{element('b', 'x')}!") == "&lt;b&gt;x&lt;/b&gt;!"


def test_attributes_are_escaped_and_absent_ones_left_out() -> None:
    opened = element(
        "i", title='"><script>', hidden=True, id=None, disabled=False, class_="a", x=1.504
    )
    assert opened == '<i title="&quot;&gt;&lt;script&gt;" hidden="hidden" class="a" x="1.5"></i>'
