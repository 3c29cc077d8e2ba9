"""Rules of scalars and of `env`, `pass_env` and `key_env`."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from buildrun.console import holds
from buildrun.project.diagnostics import Findings, Path


def items(path: Path, value: object) -> list[tuple[Path, Any]]:
    """Return the items of a list, each with its path in the document; none of anything else."""
    listed = value if isinstance(value, list) else []
    return [((*path, index), item) for index, item in enumerate(listed)]


_SHORTENED = re.compile(r"[-+]?(0\d.*|\d+\.\d+)")


def check_scalar(
    findings: Findings, path: Path, value: object, what: str, *, exact: bool, kind: str = ""
) -> None:
    """Warn where a plain scalar is not the text that it looks like, but `what` another one.

    exact: any other text counts, not only one that a program would take for another value.
    """
    raw = findings.document.raw(path)
    if raw is None or isinstance(value, str) or raw == str(value):
        return
    if not exact and _is_as_good(raw, value, kind):
        return
    message = f"YAML reads `{raw[:60]}` as {_reading(value)}; {what} `{str(value)[:60]}`"
    findings.warning("yaml-value", message, path, hint=f'put it in quotes: `"{raw[:60]}"`')


def _is_as_good(raw: str, value: object, kind: str) -> bool:
    """Return whether a program cannot mind: ``true`` for ``True``, ``.5`` for ``0.5``."""
    if isinstance(value, bool):
        return raw.lower() == str(value).lower()
    if not isinstance(value, (int, float)):
        return False
    try:
        same = float(raw) == float(value)
    except (ValueError, OverflowError):
        return False
    return same and (is_number(kind) or not _SHORTENED.fullmatch(raw))


def _reading(value: object) -> str:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, (int, float)):
        return "a number"
    return "a date" if isinstance(value, datetime.date) else f"a {type(value).__name__}"


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


def read_names(
    findings: Findings, path: Path, value: object, others: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """Return the names of the caller's variables that are in order, each once.

    others: the names under other keys of the entry point, by key.
    """
    found = []
    for where, name in items(path, value):
        if not isinstance(name, str) or not _check_name(findings, where, name, is_key=False):
            continue
        for key in (key for key, names in others.items() if name in names):
            message = f"`{name}` stands under `{key}` and under `{path[-1]}`"
            hint = (
                "keep one: `env` sets a value, `pass_env` and `key_env` take the caller's, "
                "which with `key_env` is part of the key"
            )
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
    fits = is_passable(value)
    if not fits:
        message = f"the value of `{name}` holds what no variable can"
        findings.error("bad-variable", message, path, hint="remove the character")
    elif value and holds(name, value):
        message = f"the value of `{name}` looks like a secret, and this file is no place for one"
        hint = f"list `{name}` under `pass_env`, and set it where you call buildrun"
        findings.warning("secret-value", message, path, hint=hint)
    return fits


def is_passable(text: str) -> bool:
    """Return whether the system can be given a text, as a path or a variable."""
    try:
        return b"\0" not in os.fsencode(text)
    except ValueError:
        return False


_FLOATS = frozenset(("float", "double", "number", "numeric", "real", "float32", "float64"))
_INTEGERS = frozenset(("int", "integer", "long"))
_TRUTHS = frozenset(("bool", "boolean"))
_TRUTH = re.compile(r"true|false|yes|no|on|off|[tfyn01]", re.IGNORECASE)


def is_number(kind: str) -> bool:
    """Return whether values of a type are compared as numbers."""
    return kind.lower() in _FLOATS


def misfit(kind: str, value: str) -> str:
    """Return what a value should be by its type and is not, such as ``an integer``, or ""."""
    kind = kind.lower()
    if kind in _TRUTHS:
        return "" if _TRUTH.fullmatch(value.strip()) else "true or false"
    read, what = (int, "an integer") if kind in _INTEGERS else (float, "a number")
    if kind not in _INTEGERS and kind not in _FLOATS:
        return ""
    try:
        read(value)
    except ValueError:
        return what
    return ""
