"""An entry point's command against its parameters and against the shell."""

from __future__ import annotations

import re
from collections.abc import Mapping

from buildrun.project.compose import Path
from buildrun.project.findings import Findings, did_you_mean
from buildrun.project.template import Placeholder, cuts, placeholders, trial

_WORD = re.compile(r"[\w-]+")
_BRACES = "write `{{` and `}}` for braces that the command should hold"


def check_command(
    findings: Findings, path: Path, command: str, defaults: Mapping[str, str | None]
) -> None:
    """Check the command of the entry point at ``path``.

    defaults: its parameters with their default text, None where a value is required.
    """
    _check_cuts(findings, (*path, "command"), command)
    try:
        found = placeholders(command)
    except ValueError as error:
        message = f"the command is no format string: {_lower(str(error))}"
        findings.error("bad-template", message, (*path, "command"), hint=_BRACES)
        return
    _check_placeholders(findings, (*path, "command"), found, defaults)
    used = {item.name for item in found}
    for name in defaults:
        if name not in used:
            _unused(findings, path, name, sorted(used - set(defaults)))
    if used <= set(defaults):
        problem = trial(command, defaults)
        if problem is not None:
            message = f"the command cannot be filled in: {_lower(problem)}"
            hint = "every value is text: use `{name}` alone, or a text format such as `{name:>8}`"
            findings.error("bad-template", message, (*path, "command"), hint=hint)


def _check_placeholders(
    findings: Findings,
    path: Path,
    found: tuple[Placeholder, ...],
    defaults: Mapping[str, str | None],
) -> None:
    offset = 0
    seen: set[str] = set()
    for item in found:
        line, column, offset = findings.document.find(path, item.source, offset)
        place = (line, column)
        if not item.name or item.name.isdigit():
            message = f"`{item.source}}}` is a field by position; only parameters fill a command"
            hint = f"name a parameter: `{{name}}`; {_BRACES}"
            findings.error("bad-template", message, path, place=place, hint=hint)
        elif item.name not in defaults and item.name not in seen:
            seen.add(item.name)
            message = f"no parameter fills `{{{item.name[:60]}}}`"
            hint = _unknown_hint(item, defaults)
            findings.error("unknown-placeholder", message, path, place=place, hint=hint)
        elif item.quote and item.name in defaults:
            message = f"`{{{item.name}}}` stands in quotes, and its value comes quoted already"
            hint = f"remove the {item.quote} around it; a value with blanks stays one word"
            findings.warning("quoted-placeholder", message, path, place=place, hint=hint)


def _unknown_hint(item: Placeholder, defaults: Mapping[str, str | None]) -> str:
    if item.dollar and _WORD.fullmatch(item.name):
        return f"for the shell's variable write `${{{{{item.name}}}}}`"
    if not _WORD.fullmatch(item.name):
        return _BRACES
    meant = did_you_mean(item.name, defaults, {name.replace("-", "_"): name for name in defaults})
    return meant or f"declare `{item.name}` under `parameters:`; {_BRACES}"


def _unused(findings: Findings, path: Path, name: str, unknown: list[str]) -> None:
    message = f"the command never uses the parameter `{name}`"
    hint = did_you_mean(name, unknown)
    hint = f"{hint[:-1]} in the command?" if hint else f"put `{{{name}}}` where it belongs"
    where = _key_path(findings, (*path, "parameters"), name)
    findings.warning("unused-parameter", message, where, key=True, hint=hint)


def _key_path(findings: Findings, path: Path, name: str) -> Path:
    value = findings.document.value
    for part in path:
        value = value[part]
    return (*path, next(key for key in value if str(key) == name))


def _check_cuts(findings: Findings, path: Path, command: str) -> None:
    offset = 0
    for cut in cuts(command):
        line, column, offset = findings.document.find(path, cut.text, offset)
        message = "the command is cut in two: this line runs on its own"
        hint = "end the line before with a backslash"
        if cut.blank:
            hint = "remove the blanks after the backslash in the line before"
        findings.warning("cut-command", message, path, place=(line, column), hint=hint)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
