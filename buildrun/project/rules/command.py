"""An entry point's command against its parameters and against the shell."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from buildrun.console import did_you_mean
from buildrun.project.diagnostics import Findings, Path, Severity
from buildrun.project.quoting import Place, encode
from buildrun.project.template import Placeholder, cuts, placeholders, trial

_WORD = re.compile(r"[\w-]+")
_BRACES = "write `{{` and `}}` for braces that the command should hold"


def check_command(
    findings: Findings,
    path: Path,
    command: str,
    defaults: Mapping[str, str | None],
    handed_down: Collection[str] = (),
) -> None:
    """Check the command of the entry point at `path`; handed_down: parameters used elsewhere."""
    _check_cuts(findings, (*path, "command"), command)
    found = _placeholders(findings, (*path, "command"), command, "the command")
    if found is None:
        return
    _check_placeholders(findings, (*path, "command"), found, defaults)
    used = {item.name for item in found}
    _check_unused(findings, (*path, "parameters"), defaults, used.union(handed_down))
    _check_trial(findings, (*path, "command"), command, defaults, used, "the command")


def check_value(
    findings: Findings, path: Path, value: str, defaults: Mapping[str, str | None]
) -> set[str]:
    """Check a value that is handed down; return the names that it uses."""
    found = _placeholders(findings, path, value, "the value")
    if found is None:
        return set()
    # No shell reads it before it is quoted as a whole.
    plain = tuple(item._replace(place=Place(""), dollar=False) for item in found)
    _check_placeholders(findings, path, plain, defaults)
    used = {item.name for item in found}
    _check_trial(findings, path, value, defaults, used, "the value")
    return used


def _placeholders(
    findings: Findings, path: Path, template: str, what: str
) -> tuple[Placeholder, ...] | None:
    try:
        return placeholders(template)
    except ValueError as error:
        message = f"{what} is no format string: {_lower(str(error))}"
        findings.error("bad-template", message, path, hint=_BRACES)
        return None


def _check_trial(
    findings: Findings,
    path: Path,
    template: str,
    defaults: Mapping[str, str | None],
    used: set[str],
    what: str,
) -> None:
    problem = trial(template, defaults) if used <= set(defaults) else None
    if problem is not None:
        message = f"{what} cannot be filled in: {_lower(problem)}"
        hint = "every value is text: use `{name}` alone, or a text format such as `{name:>8}`"
        findings.error("bad-template", message, path, hint=hint)


def _check_placeholders(
    findings: Findings,
    path: Path,
    found: tuple[Placeholder, ...],
    defaults: Mapping[str, str | None],
) -> None:
    document, offset = findings.document, 0
    unknown: set[str] = set()
    for item in found:
        offset = document.find(path, item.source, offset)
        problem = _problem(item, defaults)
        if problem is not None and item.name not in unknown:
            severity, code, message, hint = problem
            place = document.place_at(path, offset)
            findings.add(severity, code, message, path, place=place, hint=hint)
        if item.name not in defaults:
            unknown.add(item.name)
        offset += 1 if offset >= 0 else 0


def _problem(
    item: Placeholder, defaults: Mapping[str, str | None]
) -> tuple[Severity, str, str, str] | None:
    """Return severity, code, message and hint of what is wrong with a placeholder."""
    if not item.name or item.name.isdigit():
        message = f"`{item.source[:60]}}}` is a field by position; only names are filled in"
        return "error", "bad-template", message, f"write a parameter's name; {_BRACES}"
    if item.name not in defaults:
        message = f"no parameter fills `{{{item.name[:60]}}}`"
        return "error", "unknown-placeholder", message, _unknown_hint(item, defaults)
    default = defaults[item.name]
    certain = default is not None and encode(default, item.place) is None
    if certain or not item.place.takes_any:
        which = "its default" if certain else "a value with blanks or signs"
        message = f"the shell would read {which} for `{{{item.name}}}` as its own text here"
        hint = f"set a variable before, `{item.name}={{{item.name}}}`, and use that here"
        if item.dollar:
            hint = f"for the shell's variable write `${{{{{item.name}}}}}`"
        if certain:
            return "error", "unsafe-placeholder", message, hint
        return "warning", "unsafe-placeholder", message, hint
    if item.place.within in ("'", '"', "$'"):
        message = f"`{{{item.name}}}` stands in quotes, to which `mlflow run` adds its own"
        hint = "remove the quotes around it; a value with blanks stays one word"
        return "warning", "quoted-placeholder", message, hint
    return None


def _unknown_hint(item: Placeholder, defaults: Mapping[str, str | None]) -> str:
    if item.dollar and _WORD.fullmatch(item.name):
        return f"for the shell's variable write `${{{{{item.name}}}}}`"
    if not _WORD.fullmatch(item.name):
        return _BRACES
    meant = did_you_mean(item.name, defaults, {name.replace("-", "_"): name for name in defaults})
    return meant or f"declare `{item.name}` under `parameters:`; {_BRACES}"


def _check_unused(
    findings: Findings, path: Path, defaults: Mapping[str, str | None], used: set[str]
) -> None:
    unknown = sorted(used - set(defaults))
    value = findings.document.value
    for part in path:
        value = value.get(part)
    for key in value or ():
        name = str(key)
        if name not in used:
            message = f"the command never uses the parameter `{name[:60]}`"
            meant = did_you_mean(name, unknown)
            # Where the command has a misspelt placeholder, that is the finding to act on.
            hint = (
                "the command holds a placeholder much like it"
                if meant
                else f"put `{{{name}}}` where it belongs"
            )
            findings.warning("unused-parameter", message, (*path, key), key=True, hint=hint)


def _check_cuts(findings: Findings, path: Path, command: str) -> None:
    document, offset = findings.document, 0
    for cut in cuts(command):
        offset = document.find(path, cut.text, offset)
        message = "the command is cut in two: this line runs on its own"
        hint = "end the line before with a backslash"
        if cut.blank:
            hint = "remove the blanks after the backslash in the line before"
        place = document.place_at(path, offset)
        findings.warning("cut-command", message, path, place=place, hint=hint)
        offset += 1 if offset >= 0 else 0


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
