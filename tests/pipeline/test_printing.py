"""Blocks on a terminal: whatever its width, no figure is lost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.commands.printing import print_block
from pipeline.report.blocks import Table


@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_cell_of_a_table_is_cut_off(width: int) -> None:
    names = [f"a column of {number}" for number in range(12)]
    row = ("no: 26 stages at most", *[1234.5 + number for number in range(11)])
    out = io.StringIO()
    console = Console(file=out, width=width, soft_wrap=True, highlight=False)
    print_block(Table(title="Wide", columns=tuple(names), rows=(row,)), console)
    said = out.getvalue()
    assert all(name in said for name in names)
    assert "no: 26 stages at most" in said
    assert "…" not in said
    assert len(said.splitlines()) == 4
