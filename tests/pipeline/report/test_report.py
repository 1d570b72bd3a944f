from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import DlpipeError
from pipeline.report.blocks import (
    BarChart,
    Code,
    Facts,
    Gallery,
    LineChart,
    Matrix,
    Note,
    Picture,
    ScatterChart,
    Section,
    Series,
    Table,
    save_section,
)
from pipeline.report.document import dump_document, load_document, read_document
from pipeline.report.report import write_report

VOID = {"meta", "img", "br", "hr"}
HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00\u202e"


class Page(HTMLParser):
    """Reads a page strictly: every element closed, in order, with unique ids."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words += data


def read_page(run_dir: Path) -> tuple[str, Page]:
    text = write_report(run_dir).read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_is_well_formed_with_one_first_heading_and_unique_ids(run_dir: Path) -> None:
    _, page = read_page(run_dir)
    names = [tag for tag, _ in page.tags]
    assert names.count("h1") == names.count("main") == 1
    assert len(page.ids) == len(set(page.ids))
    levels = [int(name[1]) for name in names if re.fullmatch(r"h[1-6]", name)]
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_the_page_loads_nothing_from_anywhere(run_dir: Path) -> None:
    text, page = read_page(run_dir)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"(?m)^\s*//.*$", "", text))
    assert "@import" not in text
    assert "url(" not in text
    for _, attributes in page.tags:
        assert not {"srcset", "data", "action", "style"} & attributes.keys()
        assert all(not name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        assert (attributes.get("href") or "#").startswith("#")
    assert "link" not in [tag for tag, _ in page.tags]


def test_every_link_inside_the_page_has_its_target(run_dir: Path) -> None:
    _, page = read_page(run_dir)
    targets = {a["href"] for _, a in page.tags if a.get("href")}
    assert {target[1:] for target in targets if target} <= set(page.ids)


def test_every_chart_and_picture_says_what_it_shows(run_dir: Path) -> None:
    _, page = read_page(run_dir)
    svgs = [a for tag, a in page.tags if tag == "svg"]
    assert svgs
    assert all(a["role"] == "img" for a in svgs)
    assert [tag for tag, _ in page.tags].count("desc") == len(svgs)
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert all(a.get("scope") for tag, a in page.tags if tag == "th")


def test_the_content_stands_in_the_order_a_reader_asks_for_it(run_dir: Path) -> None:
    _, page = read_page(run_dir)
    wanted = [
        "verdict",
        "accuracy",
        "stages",
        "stage-0",
        "stage-1",
        "stage-2",
        "stage-3",
        "environment",
        "configuration",
        "commands",
    ]
    assert [i for i in page.ids if i in wanted] == wanted
    assert "All 6 gates hold" in page.words
    assert "costs most" in page.words


def hostile_section() -> Section:
    series = (
        Series(
            name=HOSTILE, x=(0.0, 1.0, float("nan")), y=(1.0, float("inf"), 2.0), labels=(HOSTILE,)
        ),
    )
    chart = {"title": HOSTILE, "caption": HOSTILE}
    axes = {"x_label": HOSTILE, "y_label": HOSTILE}
    return Section(
        title=HOSTILE,
        summary=HOSTILE,
        blocks=(
            Note(text=HOSTILE, level="bad"),
            Facts(title=HOSTILE, items=((HOSTILE, HOSTILE),)),
            Table(columns=(HOSTILE,), rows=((HOSTILE,), (float("nan"),), ()), **chart),
            LineChart(series=series, **chart, **axes),
            ScatterChart(series=series, **chart, **axes),
            BarChart(names=(HOSTILE,), values=(float("nan"),), unit=HOSTILE, **chart),
            Matrix(
                row_label=HOSTILE,
                column_label=HOSTILE,
                names=(HOSTILE, "b"),
                values=((1, 0), (2,)),
                **chart,
            ),
            Gallery(
                pictures=(Picture(path="../../secret.png", caption=HOSTILE), Picture(path=HOSTILE)),
                **chart,
            ),
            Code(title=HOSTILE, text=HOSTILE, language=HOSTILE, folded=True),
        ),
    )


def test_hostile_text_is_shown_and_never_becomes_markup(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    text = HOSTILE
    save_section(hostile_section(), tmp_path / "evil")
    gate = {
        "stage": text,
        "name": text,
        "passed": False,
        "value": 1.0,
        "limit": 2.0,
        "unit": text,
        "message": text,
    }
    record = {
        "name": text,
        "status": text,
        "stages": [{"name": "evil", "uses": text, "status": "failed", "error": text}],
        "gates": [gate],
        "hops": [{"stage": text, "name": text, "top1": 0.5, "samples": 1}],
        "commands": [text],
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "environment.json").write_text(json.dumps({text: text, "nested": {text: [text]}}))
    html, page = read_page(tmp_path)
    assert html.count("<script>") == 1
    assert not [a for _, a in page.tags if "onerror" in a or a.get("src") == "x"]
    assert "\x00" not in html
    assert "\u202e" not in html
    assert "<script>alert(1)</script>" in page.words


def test_a_picture_outside_the_stages_folder_is_not_read(run_dir: Path) -> None:
    (run_dir / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (run_dir / "train" / "link.png").symlink_to(run_dir / "secret.png")
    pictures = tuple(
        Picture(path=p) for p in ("../secret.png", "link.png", str(run_dir / "secret.png"))
    )
    save_section(
        Section(title="t", blocks=(Gallery(title="g", pictures=pictures),)), run_dir / "train"
    )
    _, page = read_page(run_dir)
    assert page.words.count("lies outside the stage's folder") == 3


@pytest.mark.parametrize(
    "missing",
    [
        "run.json",
        "config.yaml",
        "environment.json",
        "augment",
        "train/section.json",
        "augment/grid.png",
    ],
)
def test_a_missing_file_leaves_the_rest_of_the_report(run_dir: Path, missing: str) -> None:
    path = run_dir / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, page = read_page(run_dir)
    assert "dlpipe run" in page.words


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"stages": 3, "gates": [null, {}]}', b"\xff\xfe", b"[" * 9999]
)
@pytest.mark.parametrize(
    "file", ["run.json", "environment.json", "train/section.json", "config.yaml"]
)
def test_a_damaged_file_leaves_the_rest_of_the_report(
    run_dir: Path, file: str, content: bytes
) -> None:
    (run_dir / file).write_bytes(content)
    read_page(run_dir)


def test_an_empty_folder_has_a_report_that_says_so(tmp_path: Path) -> None:
    _, page = read_page(tmp_path)
    assert "Incomplete" in page.words
    assert "run.json: No such file" in page.words


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("failed", "Stage export failed"),
        ("interrupted", "Stage export was interrupted"),
        ("not reached", "Incomplete: export not reached"),
    ],
)
def test_the_headline_says_where_a_run_ended(run_dir: Path, status: str, expected: str) -> None:
    record = json.loads((run_dir / "run.json").read_text())
    record["stages"][2] |= {
        "status": status,
        "error": "no such operator" if status == "failed" else "",
    }
    (run_dir / "run.json").write_text(json.dumps(record))
    _, page = read_page(run_dir)
    assert expected in page.words


def test_a_gate_that_did_not_hold_is_counted_on_top(run_dir: Path) -> None:
    record = json.loads((run_dir / "run.json").read_text())
    record["gates"][1] |= {"passed": False, "value": 0.81}
    (run_dir / "run.json").write_text(json.dumps(record))
    _, page = read_page(run_dir)
    assert "1 of 6 gates did not hold" in page.words
    assert page.words.index("max drop") < page.words.index("target top-1")


def test_the_twin_holds_the_same_document(run_dir: Path) -> None:
    write_report(run_dir)
    data = (run_dir / "report.json").read_bytes()
    document = read_document(run_dir)
    assert load_document(data) == document
    assert dump_document(load_document(data)) == data
    assert len(json.loads(data)["stages"]) == 4


def test_the_same_run_gives_the_same_bytes(run_dir: Path) -> None:
    assert write_report(run_dir).read_bytes() == write_report(run_dir).read_bytes()


def test_a_folder_that_is_gone_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(DlpipeError, match="the report cannot be written"):
        write_report(tmp_path / "gone")
