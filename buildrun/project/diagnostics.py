"""Findings about files, each with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from buildrun.project.yaml_loader import Document

# Keys and indexes from the root of a document.
Path = tuple[Any, ...]

Severity = Literal["error", "warning"]


class Edit(NamedTuple):
    """A text in the line of a finding that is certainly meant to be another one."""

    column: int  # from 1
    old: str
    new: str
    changes: tuple[Path, ...]  # where the document's value differs afterwards


class Diagnostic(NamedTuple):
    """One finding."""

    severity: Severity
    code: str  # stable, in kebab-case
    message: str
    path: str
    line: int = 1  # from 1, as the column
    column: int = 1
    pointer: str = ""  # an RFC 6901 JSON pointer, "" for the whole
    hint: str = ""  # the remedy
    fix: tuple[Edit, ...] = ()  # what mends it, where that is certain

    @property
    def place(self) -> str:
        """Return ``path:line:column``."""
        return f"{self.path}:{self.line}:{self.column}"


def pointer(path: Path) -> str:
    """Return a path as an RFC 6901 JSON pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class Findings:
    """Findings about a document; of several with one code about one value, the worst stays."""

    def __init__(self, document: Document) -> None:
        """Start with none but the document's duplicate keys."""
        self.document = document
        self._found: dict[tuple[Any, ...], Diagnostic] = {}
        for path, line, column, first_line in document.duplicates:
            self.warning(
                "duplicate-key",
                f"`{path[-1]}` stands here a second time and replaces line {first_line}",
                path,
                place=(line, column),
                hint="keep one of the two",
            )

    def error(self, code: str, message: str, path: Path = (), **more: Any) -> None:
        """Add an error; more: as for ``add``."""
        self.add("error", code, message, path, **more)

    def warning(self, code: str, message: str, path: Path = (), **more: Any) -> None:
        """Add a warning; more: as for ``add``."""
        self.add("warning", code, message, path, **more)

    def add(
        self,
        severity: Severity,
        code: str,
        message: str,
        path: Path = (),
        *,
        key: bool = False,
        place: tuple[int, int] | None = None,
        hint: str = "",
        fix: tuple[Edit, ...] = (),
    ) -> None:
        """Add a finding about a value, about its key, or at another place."""
        where = place if place is not None else self.document.place(path, key=key)
        finding = Diagnostic(
            severity, code, message, self.document.path, *where, pointer(path), hint, fix
        )
        identity = (code, finding.pointer, where)
        known = self._found.setdefault(identity, finding)
        if severity == "error" and known.severity == "warning":
            self._found[identity] = finding

    def sorted(self) -> tuple[Diagnostic, ...]:
        """Return all findings by place."""
        return tuple(sorted(self._found.values(), key=lambda found: (found.line, found.column)))


def describe(value: object) -> str:
    """Return what kind of value it is, as a reader of YAML would say it."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}" if len(str(value)) < 40 else "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else f"a {type(value).__name__}"
