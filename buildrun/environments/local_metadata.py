"""What decides the requirements of a package that is built from a directory.

Locks count with it, so that an edit of a package's code does not make them stale.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import sys
from typing import Any

from buildrun.store import digest, files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FIELDS = ("dependencies", "optional-dependencies", "requires-python")
_CALLS = ("setup", "find_packages", "find_namespace_packages", "read", "split", "splitlines")
# Keys of setup.cfg that do not decide what is required.
_OTHER_KEYS = ("version", "description", "long_description", "license")
_DYNAMIC = re.compile(r"\b(?:file|attr):")
_PROSE = re.compile(r"readme|changelog|licen[cs]e", re.IGNORECASE)
# Tables of pyproject.toml whose `path` is not that of a package.
_OTHER_TABLES = ("hatch", "version")


def content(path: str, whole: str) -> str:
    """Return the digest of the files that say what a package requires.

    whole: the digest of all its files, returned where its build may read any of them.
    """
    texts = {
        name: files.text(os.path.join(path, name))
        for name in ("pyproject.toml", "setup.cfg", "setup.py")
    }
    try:
        named = _named(texts["pyproject.toml"], texts["setup.cfg"], texts["setup.py"])
    except (configparser.Error, SyntaxError, TypeError, ValueError, AttributeError):
        return whole  # one of them is not as it should be
    if named is None:
        return whole
    texts.update((name, files.text(os.path.join(path, name))) for name in named)
    return digest.key("metadata", [[name, texts[name]] for name in sorted(texts)])


def _named(pyproject: str, config: str, script: str) -> list[str] | None:
    """Return the files that are read beside these for what is required; None for any of them."""
    document = tomllib.loads(pyproject)
    if _has_packages(document):
        return None  # with requirements of their own
    if "project" in document:
        return _dynamic(document)
    system = document.get("build-system", {})
    if system.get("build-backend", "").startswith("poetry.core."):
        return []
    tools = {re.split(r"[^\w-]", one)[0] for one in system.get("requires", ())}
    if tools - {"setuptools", "wheel"} or _reads_files(config):
        return None
    return _opened(script) if script or config else None


def _has_packages(table: Any) -> bool:
    """Return whether a table names packages by their paths."""
    if isinstance(table, list):
        return any(map(_has_packages, table))
    return isinstance(table, dict) and (
        isinstance(table.get("path"), str)
        or "workspace" in table
        or any(_has_packages(each) for name, each in table.items() if name not in _OTHER_TABLES)
    )


def _dynamic(document: dict[str, Any]) -> list[str] | None:
    """Return the files that hold what `[project]` leaves to setuptools; None for anything else."""
    found: list[str] = []
    for field in _FIELDS:
        if field in document["project"].get("dynamic", ()):
            tool = document.get("tool", {}).get("setuptools", {}).get("dynamic", {})
            named = tool.get(field, {}).get("file")
            if not named:
                return None
            found += [named] if isinstance(named, str) else named
    return found


def _reads_files(config: str) -> bool:
    """Return whether a setup.cfg has something else read for what is required."""
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(config)
    options = [
        (name.replace("-", "_"), value) for each in parser.values() for name, value in each.items()
    ]
    return any(
        name == "setup_requires" or (name not in _OTHER_KEYS and _DYNAMIC.search(value))
        for name, value in options
    )


def _opened(script: str) -> list[str] | None:
    """Return the files that a plain setup.py opens; None for one that may do anything."""
    found: list[str] = []
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
            )
            if names != ["setuptools"]:
                return None
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = node.args[0] if node.args else None
        if name == "open" and isinstance(first, ast.Constant) and isinstance(first.value, str):
            found += [] if _PROSE.match(first.value) else [first.value]
        elif name not in _CALLS or any(
            each.arg in (None, "setup_requires") for each in node.keywords
        ):
            return None
    return found
