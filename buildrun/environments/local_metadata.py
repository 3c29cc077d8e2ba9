"""What decides the requirements of a package that is built from a directory.

Locks count with it, so that an edit of a package's code does not make them stale.
"""

from __future__ import annotations

import ast
import os
import re

from buildrun.store import digest, files

_FIELDS = ("dependencies", "optional-dependencies", "requires-python")
_CALLS = ("setup", "find_packages", "find_namespace_packages", "read", "split", "splitlines")
# Keys of setup.cfg that do not decide what is required.
_OTHER_KEYS = re.compile(r"^(?:version|(?:long_)?description|license)\s*=.*$", re.MULTILINE)
_DYNAMIC = re.compile(r"\b(?:file|attr):|^setup_requires", re.MULTILINE)
_PROSE = re.compile(r"readme|changelog|licen[cs]e", re.IGNORECASE)


def content(path: str, whole: str) -> str:
    """Return the digest of the files that say what a package requires.

    whole: the digest of all its files, returned where its build may read any of them.
    """
    texts = {name: _text(path, name) for name in ("pyproject.toml", "setup.cfg", "setup.py")}
    named = _named(texts["pyproject.toml"], texts["setup.cfg"], texts["setup.py"])
    if named is None:
        return whole
    texts.update((name, _text(path, name)) for name in named)
    return digest.key("metadata", [[name, texts[name]] for name in sorted(texts)])


def _named(pyproject: str, config: str, script: str) -> list[str] | None:
    """Return the files that are read beside these for what is required; None for any of them."""
    if re.search(r"{[^}]*\bpath\s*=|^\[tool\.uv\.sources\.", pyproject, re.MULTILINE):
        return None  # packages of its own, with requirements
    if project := _table(pyproject, "project"):
        dynamic = re.search(r"^dynamic\s*=\s*\[([^]]*)\]", project, re.MULTILINE)
        asked = re.findall(r"[\w-]+", dynamic.group(1)) if dynamic else []
        read = _table(pyproject, "tool.setuptools.dynamic")
        given = [
            re.search(rf"^{field}\s*=\s*{{\s*file\s*=\s*([^}}]*)}}", read, re.MULTILINE)
            for field in _FIELDS
            if field in asked
        ]
        texts = [found.group(1) for found in given if found]
        return _quoted(texts) if len(texts) == len(given) else None
    if re.search(r"^build-backend\s*=\s*.poetry\.core\.", pyproject, re.MULTILINE):
        return []
    requires = re.search(r"^requires\s*=\s*\[([^]]*)\]", pyproject, re.MULTILINE)
    tools = {
        re.split(r"[^\w-]", one)[0] for one in _quoted([requires.group(1)] if requires else [])
    }
    if tools - {"setuptools", "wheel"} or _DYNAMIC.search(_OTHER_KEYS.sub("", config)):
        return None
    return _opened(script) if script or config else None


def _table(text: str, name: str) -> str:
    found = re.search(
        rf"^\[{re.escape(name)}\]([^\n]*\n.*?)(?=^\[|\Z)", text, re.DOTALL | re.MULTILINE
    )
    return found.group(1) if found else ""


def _quoted(texts: list[str]) -> list[str]:
    return [one for text in texts for one in re.findall(r"""["']([^"']+)["']""", text)]


def _opened(script: str) -> list[str] | None:
    """Return the files that a plain setup.py opens; None for one that may do anything."""
    found: list[str] = []
    try:
        nodes = list(ast.walk(ast.parse(script)))
    except (SyntaxError, ValueError):
        return None
    for node in nodes:
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


def _text(path: str, name: str) -> str:
    try:
        return files.read(os.path.join(path, name)).decode(errors="replace")
    except OSError:
        return ""
