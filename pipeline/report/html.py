"""Html: markup as a type of its own, so that plain text cannot reach a page unescaped.

    element("p", "5 < 6", class_="note")   ->  <p class="note">5 &lt; 6</p>

A `str` is text and is escaped; only what `element` returned is markup. Joining markup with `+` or
an f-string gives a `str`, which is escaped: the mistake shows on the page and lets nothing in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

_NOT_FOR_READERS = re.compile(
    # Control characters, halves of surrogate pairs, and marks that reorder the text around them.
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_EMPTY = frozenset({"br", "hr", "img", "meta"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "Html | str | int | float | Iterable[Child] | None"
Attribute: TypeAlias = str | int | float | bool | None


def escape(text: str) -> Html:
    """Return text as markup that shows it, whatever it contains."""
    return Html(_NOT_FOR_READERS.sub("\ufffd", text).translate(_ENTITIES))


def element(tag: str, /, *children: Child, **attributes: Attribute) -> Html:
    """Return one element; ``class_`` stands for ``class``, ``font_size`` for ``font-size``."""
    opened = tag + "".join(_attribute(key, value) for key, value in attributes.items())
    if tag in _EMPTY:
        return Html(f"<{opened}>")
    return Html(f"<{opened}>{fragment(*children)}</{tag}>")


def fragment(*children: Child) -> Html:
    """Return children one after the other, without an element around them."""
    return Html("".join(_render(child) for child in children))


def verbatim(name: str, content: str) -> Html:
    """Return a ``style`` or ``script`` element around a packaged file's content."""
    assert f"</{name}" not in content.lower()
    return Html(f"<{name}>{content}</{name}>")


def _render(child: Child) -> str:
    match child:
        case None:
            return ""
        case Html():
            return child
        case str():
            return escape(child)
        case int() | float():
            return escape(str(child))
        case _:
            return "".join(_render(part) for part in child)


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    written = (
        name if value is True else coordinate(value) if isinstance(value, float) else str(value)
    )
    return f' {name}="{escape(written)}"'


def coordinate(value: float) -> str:
    """Return a number as short as a drawing needs it: at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if "." in f"{value:.2f}" else f"{value:.0f}"
