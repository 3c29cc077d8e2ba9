"""What commands write to standard output: rows of cells as wide as what shows them, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from buildrun.console import Console, broken, printable, wrapped


def write(cells: Sequence[str], environ: Mapping[str, str]) -> None:
    """Write one row; cells are padded by the caller, so that columns stand below each other."""
    sys.stdout.write(fitted(cells, width(environ)) + "\n")


def write_json(value: object) -> None:
    """Write a value for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def fitted(cells: Sequence[str], columns: int | None) -> str:
    """Return a row, on several lines where it is wider than so many columns.

    Every cell stays whole, and below its like. None stands for any width.
    """
    row = "  ".join(cells)
    if columns is None or len(row) <= columns:
        return row
    lines = [cells[0]]
    for cell in cells[1:]:
        longer = f"{lines[-1]}  {cell}"
        if len(longer.rstrip()) <= columns:
            lines[-1] = longer
        else:
            lines.append(f"  {cell}")
    return "\n".join(map(str.rstrip, lines))


def tell(
    lines: Iterable[str], steps: Iterable[tuple[str, str]], environ: Mapping[str, str]
) -> None:
    """Write lines; where people look, states of steps are put in order and coloured.

    steps: ids and states; a line about one begins with ``ID: STATE``.
    """
    console = Console(environ, stream=sys.stdout)
    columns = console.columns
    heads = {f"{printable(name)}: {state}": (printable(name), state) for name, state in steps}
    size = max((len(name) for name, _ in heads.values()), default=0) if columns else 0
    for line in lines:
        head = line.strip().partition(",")[0]
        name, state = heads.get(head, ("", ""))
        aligned = f"{name + ':':<{size + 1}} {state}" if name else head
        text = wrapped(line.replace(head, aligned, 1), columns)
        if name:
            shown = f"{console.style(name, 'bold')}{aligned[len(name) : -len(state)]}"
            text = text.replace(aligned, shown + console.state(state), 1)
        sys.stdout.write(text + "\n")


def width(environ: Mapping[str, str]) -> int | None:
    """Return the columns that are there, or None where programs read, which want whole rows."""
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    return Console(environ, stream=sys.stdout).columns


def labelled(label: str, text: str, size: int, columns: int | None) -> list[str]:
    """Return the lines of a text beside its label, which is padded to a size.

    A label that is longer, or leaves no room, stands above. None stands for any width.
    """
    start = f"    {label:<{size}}  "
    rest = " " * (size + 6 if columns is None or size + 6 <= columns // 2 else 8)
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        if columns is None:
            lines.append(rest + line)
        else:
            lines += broken(line, columns, rest, rest)
    if len(start) > len(rest):
        return [start.rstrip(), *lines]
    return [start + lines[0][len(rest) :], *lines[1:]]
