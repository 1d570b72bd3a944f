"""Drawing: each block of a section as HTML; the only place that knows which block looks how."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.report.blocks import (
    BarChart,
    Block,
    Cell,
    Code,
    Facts,
    Gallery,
    Gantt,
    LineChart,
    Matrix,
    Note,
    Picture,
    ScatterChart,
    Table,
)
from pipeline.report.charts.bar import MOST_BARS, draw_bar
from pipeline.report.charts.frame import NARROW, WIDE, legend
from pipeline.report.charts.gantt import draw_gantt, gantt_key
from pipeline.report.charts.line import MOST_LABELS, draw_line
from pipeline.report.charts.matrix import draw_matrix
from pipeline.report.charts.scatter import draw_scatter
from pipeline.report.figures import MISSING, figure
from pipeline.report.html import Html, element, fragment
from pipeline.report.picture import Album, PictureLeftOut
from pipeline.report.tables import draw_table, numbers_behind

_NOTE_WORDS = {"info": "Note", "good": "Good", "warning": "Warning", "bad": "Problem"}
_PIXELATED_BELOW = 64
"""Pictures of fewer pixels are shown enlarged, with their pixels to be seen."""


def draw_block(block: Block, folder: str, album: Album) -> Html:
    """Return one block; `folder` is the stage's, which its pictures lie in."""
    match block:
        case Note():
            word = (
                element("strong", f"{_NOTE_WORDS[block.level]}: ")
                if block.level != "info"
                else None
            )
            return element("p", word, block.text, class_=f"note {block.level}")
        case Facts():
            return _titled(block.title, draw_facts(block.items))
        case Table():
            return _titled(block.title, draw_table(block), block.caption)
        case LineChart():
            names = [series.name for series in block.series]
            crowded = len(names) > MOST_LABELS
            place = "always" if crowded else "narrow"
            shown_names = element("div", legend(names), class_=place) if len(names) > 1 else None
            drawn = responsive(lambda width: draw_line(block, width))
            return _chart(block, drawn, shown_names)
        case ScatterChart():
            key = legend([s.name for s in block.series]) if len(block.series) > 1 else None
            return _chart(block, responsive(lambda width: draw_scatter(block, width)), key)
        case BarChart():
            shown = (
                f"The first {MOST_BARS} of {len(block.names)} bars."
                if len(block.names) > MOST_BARS
                else ""
            )
            drawn = responsive(lambda width: draw_bar(block, width))
            return _chart(block, drawn, element("p", shown, class_="caption") if shown else None)
        case Matrix():
            return _chart(block, responsive(lambda width: draw_matrix(block, width)), None)
        case Gantt():
            return _chart(
                block, responsive(lambda width: draw_gantt(block, width)), gantt_key(block)
            )
        case Gallery():
            pictures = [_picture(picture, folder, album) for picture in block.pictures]
            return _titled(block.title, element("div", *pictures, class_="gallery"), block.caption)
        case Code():
            code = draw_code(block.text, block.language)
            if not block.folded:
                return _titled(block.title, code)
            return element("details", element("summary", block.title), code, class_="block")


def draw_facts(items: tuple[tuple[str, Cell], ...]) -> Html:
    """Return names and values as a grid of small tiles."""
    tiles = [
        element("div", element("dt", name), element("dd", *_fact(value))) for name, value in items
    ]
    return element("dl", *tiles, class_="facts")


def draw_code(text: str, language: str = "") -> Html:
    """Return text in a fixed-width face; the page's script adds a button that copies it."""
    label = f"{language} text".strip()
    code = element("pre", element("code", text), tabindex=0, role="region", aria_label=label)
    return element("div", code, class_="code")


def responsive(draw: Callable[[int], Html]) -> Html:
    """Return a chart drawn for a desk and for a phone; the style sheet shows one of them."""
    return fragment(
        element("div", draw(WIDE), class_="wide"), element("div", draw(NARROW), class_="narrow")
    )


def _fact(value: Cell) -> tuple[Html | str, ...]:
    match value:
        case bool():
            return ("yes" if value else "no",)
        case int() | float():
            return (figure(value),)
        case None:
            return (MISSING,)
        case _:
            return (element("span", value, class_="words" if len(value) > 14 else None),)


def _chart(
    block: LineChart | ScatterChart | BarChart | Matrix | Gantt, drawn: Html, key: Html | None
) -> Html:
    caption = element("figcaption", block.caption) if block.caption else None
    body = element("figure", key, drawn, caption)
    return _titled(block.title, fragment(body, numbers_behind(block)))


def _titled(title: str, body: Html, caption: str = "") -> Html:
    note = element("p", caption, class_="caption") if caption else None
    return element("div", element("h3", title) if title else None, body, note, class_="block")


def _picture(picture: Picture, folder: str, album: Album) -> Html:
    caption = element("figcaption", picture.caption) if picture.caption else None
    try:
        inlined = album.inline(folder, picture.path)
    except PictureLeftOut as reason:
        missing = element("p", f"{picture.path} is not shown: {reason}.", class_="absent")
        return element("figure", missing, caption)
    small = inlined.width is not None and inlined.width <= _PIXELATED_BELOW
    image = element(
        "img",
        src=inlined.uri,
        alt=picture.caption or picture.path,
        width=inlined.width,
        height=inlined.height,
        class_="pixels" if small else None,
    )
    return element("figure", image, caption, class_="small" if small else None)
