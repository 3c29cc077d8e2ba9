"""Rows of cells on standard output, as wide as what shows them."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence


def write(cells: Sequence[str], environ: Mapping[str, str]) -> None:
    """Write one row; cells are padded by the caller, so that columns stand below each other."""
    sys.stdout.write(fitted(cells, width(environ)) + "\n")


def fitted(cells: Sequence[str], columns: int | None) -> str:
    """Return a row, on several lines where it is wider than so many columns.

    A cell stays whole where it can. None stands for any width.
    """
    row = "  ".join(cells)
    if columns is None or len(row) <= columns:
        return row
    # What does not break is put back afterwards.
    kept = "  ".join(cell.strip().replace(" ", "\N{NO-BREAK SPACE}") for cell in cells)
    lines = textwrap.wrap(kept, max(columns, 10), subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def width(environ: Mapping[str, str]) -> int | None:
    """Return the columns that are there, or None where programs read, which want whole rows."""
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None
