"""A finding about a file, with its place."""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Diagnostic(NamedTuple):
    """One finding.

    code: stable, kebab-case. message: the fact. hint: the remedy. line and column count from 1.
    pointer: an RFC 6901 JSON pointer into the document, "" for the whole.
    """

    severity: Severity
    code: str
    message: str
    path: str
    line: int = 1
    column: int = 1
    pointer: str = ""
    hint: str = ""

    @property
    def place(self) -> str:
        """Return ``path:line:column``."""
        return f"{self.path}:{self.line}:{self.column}"
