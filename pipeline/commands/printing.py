"""Printing: blocks of a report on a terminal, as far as text can show them."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as TextTable
from rich.text import Text

from pipeline.report.blocks import Block, Facts, Note, Table
from pipeline.report.tables import column_texts, is_numeric

_WIDEST = 10_000


def print_block(block: Block, console: Console) -> None:
    """Print a table, facts or a note; charts are for the report."""
    match block:
        case Table():
            cells = [[row[i] for row in block.rows] for i in range(len(block.columns))]
            table = TextTable(box=None, pad_edge=False, header_style="dim")
            for name, column in zip(block.columns, cells, strict=True):
                numeric = is_numeric(column)
                table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
            for row in zip(*map(column_texts, cells), strict=True):
                table.add_row(*map(Text, row))
            console.print(Text(f"\n{block.title}", style="bold"))
            # A figure cut off is worse than a line that the terminal folds.
            wide = console.options.update(width=_WIDEST)
            width = max(console.width, Measurement.get(console, wide, table).maximum)
            Console(
                file=console.file, force_terminal=console.is_terminal, width=width, soft_wrap=True
            ).print(table)
            if block.caption:
                console.print(Text(block.caption, style="dim"))
        case Facts():
            console.print(Text(f"\n{block.title}", style="bold"))
            for name, value in block.items:
                console.print(Text(f"{name}: {value}"))
        case Note():
            console.print(Text(f"\n{block.text}"))
        case _:
            console.print(Text(f"\n{block.title}: see the report"))
