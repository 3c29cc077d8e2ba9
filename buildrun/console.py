"""Progress and messages, all on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

_STYLES = {"error": "1;31", "warning": "1;33", "hint": "36", "dim": "2", "good": "32"}


class Console:
    """Writes to a stream; colours and live lines only where a person is looking.

    environ: NO_COLOR, CI and TERM are respected. quiet: only warnings and errors are written.
    """

    def __init__(
        self, environ: Mapping[str, str], *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        """Decide once how to write."""
        self.stream = stream if stream is not None else sys.stderr
        self.quiet = quiet
        terminal = _is_terminal(self.stream) and environ.get("TERM") != "dumb"
        self.colour = terminal and not environ.get("NO_COLOR")
        self.live = terminal and not environ.get("CI") and not quiet
        self.latest = ""
        self._open_line = False

    def style(self, text: str, name: str) -> str:
        """Return the text in a style, where colours are on."""
        return f"\x1b[{_STYLES[name]}m{text}\x1b[0m" if self.colour else text

    def note(self, text: str) -> None:
        """Say what happens; left out when quiet."""
        if not self.quiet:
            self._write(text + "\n")

    def warn(self, text: str, hint: str = "") -> None:
        """Say what the user should know."""
        self._write(f"{self.style('warning:', 'warning')} {text}\n{self._hint(hint)}")

    def error(self, text: str, hint: str = "") -> None:
        """Say what stopped the work."""
        self._write(f"{self.style('error:', 'error')} {text}\n{self._hint(hint)}")

    def progress(self, text: str) -> None:
        """Replace the live line; without a terminal, keep it as the latest that is known."""
        self.latest = text
        if self.live:
            self._emit(f"\r\x1b[2K{text}")
            self._open_line = True

    def raw(self, chunk: bytes) -> None:
        """Pass on what another program draws on the terminal."""
        self.done()
        # Its own terminal has turned each line's end into two characters; ours does so again.
        self._emit(chunk.replace(b"\r\n", b"\n").decode(errors="replace"))

    def done(self) -> None:
        """Remove the live line."""
        if self._open_line:
            self._emit("\r\x1b[2K")
            self._open_line = False

    def _hint(self, hint: str) -> str:
        return f"\n{self.style('hint:', 'hint')} {hint}\n" if hint else ""

    def _write(self, text: str) -> None:
        self.done()
        self._emit(text)

    def _emit(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except UnicodeEncodeError:
            self.stream.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):
            pass  # whoever read our messages is gone; the work goes on


def size(count: int) -> str:
    """Return a number of bytes for people, such as ``12.3 MB`` (powers of 1000)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False
