"""Report: from a run's folder to ``report.html`` for people and ``report.json`` for machines."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DlpipeError
from pipeline.files import write_atomic
from pipeline.report.document import dump_document, read_document
from pipeline.report.page import draw_page

HTML_FILE = "report.html"
JSON_FILE = "report.json"


def write_report(run_dir: Path) -> Path:
    """Write both files and return the HTML one; a partial run has a report too.

    Raises:
        DlpipeError: the folder cannot be written to.
    """
    document = read_document(run_dir)
    path = run_dir / HTML_FILE
    try:
        write_atomic(run_dir / JSON_FILE, dump_document(document))
        write_atomic(path, draw_page(document, run_dir))
    except OSError as error:
        raise DlpipeError(
            f"{path}: the report cannot be written: {error.strerror}. The run's own "
            f"files are intact; make room, then type: dlpipe report {run_dir}"
        ) from error
    return path
