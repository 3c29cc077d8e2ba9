"""What programs wrote to a terminal, as HTML: colours stay, what moves or hides text goes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from buildrun.console import redact

# Select Graphic Rendition; other control sequences; operating system commands; other escapes.
ESCAPE = re.compile(
    r"\x1b\[([0-9;]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P^_X][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Control characters, those that turn the direction of text, and halves of characters.
_CONTROL = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_OFF = {22: "bd", 23: "i", 24: "u", 39: "f"}
_ON = {1: "b", 2: "d", 3: "i", 4: "u"}
_COLOURS = {first + number: f"f{number}" for first in (30, 90) for number in range(8)}


def to_html(text: str) -> str:
    """Return text that a program wrote as HTML, without passwords in URLs.

    Colours are ``span`` with the classes f0 to f7.
    """
    return "".join(_runs("\n".join(map(last_written, redact(text).split("\n")))))


def last_written(line: str) -> str:
    """Return what carriage returns have left of a line, as the bars of progress write it."""
    return line.rstrip("\r").rpartition("\r")[2]


def _runs(text: str) -> Iterator[str]:
    style: dict[str, str] = {}
    end = 0
    for match in ESCAPE.finditer(text):
        yield _run(text[end : match.start()], style)
        end = match.end()
        if match[1] is not None:
            _apply(match[1], style)
    yield _run(text[end:], style)


def _run(text: str, style: dict[str, str]) -> str:
    shown = html.escape(_CONTROL.sub("", text), quote=False)
    return f'<span class="{" ".join(style.values())}">{shown}</span>' if style and shown else shown


def _apply(codes: str, style: dict[str, str]) -> None:
    """Change the style as the codes say; colours beyond the basic ones, and backgrounds, do not."""
    numbers = [int(code or 0) for code in codes[:99].split(";")]
    while numbers:
        number = numbers.pop(0)
        if number == 0:
            style.clear()
        elif number in (38, 48):
            style.pop("f", None)
            del numbers[: 2 if numbers[:1] == [5] else 4]
        elif number in _ON:
            style[_ON[number]] = _ON[number]
        elif number in _OFF:
            for name in _OFF[number]:
                style.pop(name, None)
        elif number in _COLOURS:
            style["f"] = _COLOURS[number]
