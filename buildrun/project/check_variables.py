"""The environment variables that an entry point sets and those that it takes from the caller."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from buildrun.project.check_scalar import check_scalar
from buildrun.project.compose import Path
from buildrun.project.findings import Findings
from buildrun.secrets import holds

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_env(findings: Findings, path: Path, value: object) -> tuple[tuple[str, str], ...]:
    """Return the variables that are in order, each with its value as text."""
    found = []
    for key, item in value.items() if isinstance(value, dict) else ():
        where = (*path, key)
        fits = _check_name(findings, where, key, is_key=True)
        if not isinstance(item, (str, int, float)):
            continue  # the schema says so
        check_scalar(findings, where, item, "the variable is", exact=True)
        if fits and _check_value(findings, where, key, item):
            found.append((key, str(item)))
    return tuple(found)


def read_pass_env(
    findings: Findings, path: Path, value: object, env: Collection[str]
) -> tuple[str, ...]:
    """Return the names that are in order, each once; env: the names that are set."""
    found = []
    for index, name in enumerate(value if isinstance(value, list) else ()):
        where = (*path, index)
        if not isinstance(name, str) or not _check_name(findings, where, name, is_key=False):
            continue
        if name in env:
            message = f"`{name}` is set under `env` and cannot come from the caller as well"
            hint = "keep it under `env` or under `pass_env`"
            findings.error("bad-variable", message, where, hint=hint)
        found.append(name)
    return tuple(dict.fromkeys(found))


def _check_name(findings: Findings, path: Path, name: object, *, is_key: bool) -> bool:
    if isinstance(name, str) and _NAME.fullmatch(name):
        return True
    message = f"no variable may be called `{str(name)[:60]}`"
    hint = "use letters, digits and `_`, and no digit at the beginning"
    if not isinstance(name, str):
        message, hint = f"the variable's name is read as `{name}`", "put the name in quotes"
    elif "=" in name:
        hint = "values are set under `env`, as `NAME: value`"
    elif "*" in name:
        hint = "write out the name of each variable"
    findings.error("bad-variable", message, path, key=is_key, hint=hint)
    return False


def _check_value(findings: Findings, path: Path, name: str, value: object) -> bool:
    if not isinstance(value, str):
        return True
    try:
        fits = b"\0" not in os.fsencode(value)
    except ValueError:
        fits = False
    if not fits:
        message = f"the value of `{name}` holds what no variable can"
        findings.error("bad-variable", message, path, hint="remove the character")
    elif value and holds(name, value):
        message = f"the value of `{name}` looks like a secret, and this file is no place for one"
        hint = f"list `{name}` under `pass_env`, and set it where you call buildrun"
        findings.warning("secret-value", message, path, hint=hint)
    return fits
