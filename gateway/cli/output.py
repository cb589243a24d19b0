# SPDX-License-Identifier: Apache-2.0
"""How commands print: tables, pages, JSON. The door to rich.

Promises: colours and borders only on a terminal; elsewhere nothing is cut, so that output can be searched; no text from
a message reaches the terminal with a control character in it.
Not here: what is printed (each command).
"""

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from gateway.mail.reply import clean

_STYLES: dict[str, dict[str, Any]] = {
    "head": {"bold": True},
    "good": {"fg": "green"},
    "warn": {"fg": "yellow"},
    "bad": {"fg": "red", "bold": True},
    "dim": {"dim": True},
    "key": {"fg": "cyan"},
}


def print_json(value: Any) -> None:
    """One JSON value on stdout, ASCII only."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_page(lines: Iterable[Sequence[tuple[str, str]]]) -> None:
    """Lines of (text, style); click takes the styles away where stdout is no terminal."""
    for line in lines:
        click.echo("".join(click.style(clean(text), **_STYLES.get(style, {})) for text, style in line).rstrip())


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; on a terminal one that fits its width."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, cleaned)
        return
    widths = [max(len(row[at]) for row in [columns, *cleaned]) for at in range(len(columns))]
    for row in [columns, *cleaned]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # costs 60 ms that a script need not pay
    from rich.table import Table
    from rich.text import Text

    view = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        view.add_column(column, no_wrap=at == 0, overflow="fold")
    for row in rows:
        view.add_row(*(Text(cell) for cell in row))  # Text, or rich would read [brackets] as markup
    Console(width=shutil.get_terminal_size().columns).print(view)


def complain(text: str) -> None:
    """A line for people on stderr."""
    click.echo(clean(text), err=True)
