"""Page: the whole report as one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from pipeline.report.document import Document
from pipeline.report.drawing import draw_block, draw_code
from pipeline.report.figures import duration
from pipeline.report.html import Html, element, fragment, verbatim
from pipeline.report.picture import Album
from pipeline.report.summary import (
    describe_stage,
    draw_accuracy,
    draw_commands,
    draw_environment,
    draw_stages,
    draw_verdict,
)

Chapter = tuple[str, str, Html]
"""Anchor, title, body."""


def draw_page(document: Document, run_dir: Path) -> str:
    """Return the report of a run as a complete HTML document."""
    chapters = _chapters(document, Album(run_dir))
    links = [element("li", element("a", title, href=f"#{anchor}")) for anchor, title, _ in chapters]
    sections = [
        element("section", element("h2", title), body, id=anchor)
        for anchor, title, body in chapters
    ]
    verdict = element(
        "section",
        draw_verdict(document),
        id="verdict",
        class_="verdict",
        aria_labelledby="verdict-title",
    )
    contents = element(
        "nav",
        element("ol", element("li", element("a", "Verdict", href="#verdict")), *links),
        aria_label="Contents",
    )
    body = element(
        "body",
        element("a", "Skip to the report", href="#report", class_="skip"),
        _header(document),
        element("div", contents, element("main", verdict, *sections, id="report"), class_="page"),
        element(
            "footer", element("p", "Written by dlpipe. The same content for machines: report.json.")
        ),
        verbatim("script", _packaged("report.js")),
    )
    page = element("html", _head(document), body, lang="en", data_theme="auto")
    return f"<!doctype html>\n{page}\n"


def _chapters(document: Document, album: Album) -> list[Chapter]:
    chapters: list[Chapter] = []
    if document.hops:
        chapters.append(("accuracy", "Accuracy from training to serving", draw_accuracy(document)))
    if document.stages:
        chapters.append(("stages", "Stages", draw_stages(document)))
    for index, stage in enumerate(document.stages):
        if stage.section is None:
            continue
        summary = stage.section.summary
        body = fragment(
            describe_stage(stage),
            element("p", summary, class_="lead") if summary else None,
            (draw_block(block, stage.folder, album) for block in stage.section.blocks),
        )
        chapters.append((f"stage-{index}", stage.section.title or stage.name, body))
    if document.environment:
        chapters.append(("environment", "Environment", draw_environment(document)))
    if document.config:
        text = draw_code(document.config, "YAML")
        folded = element("details", element("summary", "config.yaml"), text, class_="block")
        chapters.append(("configuration", "Resolved configuration", folded))
    if document.commands:
        chapters.append(("commands", "Run it again", draw_commands(document)))
    return chapters


def _header(document: Document) -> Html:
    parts = []
    if document.started > 0:
        began = datetime.fromtimestamp(document.started, tz=UTC)
        parts.append(f"{began:%Y-%m-%d %H:%M} UTC")
    if document.finished is not None:
        parts.append(f"took {duration(document.finished - document.started)}")
    device = document.environment.get("device")
    if device:
        parts.append(f"on {device}")
    return element(
        "header",
        element("p", "dlpipe run", class_="eyebrow"),
        element("h1", document.name),
        element("p", " · ".join(parts), class_="meta"),
        element("button", "Theme", type="button", class_="theme", hidden=True),
    )


def _head(document: Document) -> Html:
    style, script = _packaged("report.css"), _packaged("report.js")
    # Whatever slips into the page: nothing is loaded from outside and no other script runs.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{document.name} · dlpipe report"),
        verbatim("style", style),
    )


def _packaged(name: str) -> str:
    return files("pipeline.report").joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
