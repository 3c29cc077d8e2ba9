"""Lists of an entry point written into an MLproject, with everything else as it stands there."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.project.fix import Mended, differences
from buildrun.project.read import check_files
from buildrun.project.yaml_loader import STRING, Document, load
from buildrun.store.memo import DependencyTracker

# What a list that is written on one line leaves of a line's columns.
_COLUMNS = 100
_LINE = re.compile("[^\r\n]*(?:\r\n?|\n)")
_PLAIN = re.compile(r"[A-Za-z0-9_./][\w./*?+-]*")

# A key that is not there yet is written above the first of these that is.
_BEFORE = {"inputs": ("outputs", "command"), "outputs": ("command",)}


class _Unsure(Exception):
    """The file is written in a way that is not edited here."""


def declare(path: str, name: str, lists: Mapping[str, Sequence[str]], cwd: str) -> Mended:
    """Return the file with these lists in the entry point; the disk is left alone.

    lists: by key, ``inputs`` and ``outputs``. Raises ProjectError where it cannot be shown that
    these and nothing else change, or where the file would then be wrong.
    """
    reader = DependencyTracker({})
    old = load(path, reader)
    if not isinstance(old, Document):
        raise ProjectError(old.message, place=old.place, hint=old.hint)
    content, point = reader.read(path), old.value["entry_points"][name]
    # The last line gets an end while it is worked on.
    text, end = content.decode(), "" if content.endswith((b"\n", b"\r")) else "\n"
    text += end
    try:
        for key, values in lists.items():
            if sorted(point.get(key) or ()) != sorted(values):
                text = _with(text, name, key, values)
    except (_Unsure, yaml.YAMLError):
        raise _refusal(path, name) from None
    changed = text.removesuffix(end).encode()
    draft = DependencyTracker({}, {os.path.realpath(path): changed})
    new = load(path, draft)
    if not isinstance(new, Document) or not _is_meant(old, new, name, lists):
        raise _refusal(path, name)
    _refuse_errors(path, cwd, reader, draft)
    return Mended(path, content, changed, ())


def block(lists: Mapping[str, Sequence[str]]) -> str:
    """Return the lists as YAML, to be put beneath an entry point."""
    return "".join(_block(key, values) for key, values in lists.items())


def _refusal(path: str, name: str) -> ProjectError:
    return ProjectError(
        f"the entry point `{printable(name)}` is written in a way that is not edited here",
        place=path,
        hint="put the lines that were suggested there yourself",
    )


def _is_meant(old: Document, new: Document, name: str, lists: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the lists are what they are to be, and all else is what it was."""
    point = new.value["entry_points"][name]
    changed = {found[:3] for found in differences(old.value, new.value)}
    return changed <= {("entry_points", name, key) for key in lists} and all(
        sorted(point.get(key)) == sorted(values) for key, values in lists.items()
    )


def _refuse_errors(
    path: str, cwd: str, reader: DependencyTracker, draft: DependencyTracker
) -> None:
    """Raise ProjectError for an error that the file had not before."""
    before, after = (
        Counter(
            (item.code, item.message, item.hint)
            for row in check_files([path], cwd, each)
            for item in row.diagnostics
            if item.severity == "error"
        )
        for each in (reader, draft)
    )
    for code, message, hint in after - before:
        raise ProjectError(f"not written: {message} [{code}]", place=path, hint=hint)


def _with(text: str, name: str, key: str, values: Sequence[str]) -> str:
    """Return the text with one list; raises _Unsure and YAMLError."""
    point = _child(_child(yaml.compose(text, yaml.SafeLoader), "entry_points")[1], name)[1]
    if not isinstance(point, MappingNode):
        raise _Unsure
    keys = {each.value: (each, value) for each, value in point.value if each.tag == STRING}
    if key not in keys:
        above = next((keys[each][0] for each in _BEFORE[key] if each in keys), None)
        if above is None:
            raise _Unsure
        return _added(text, above, key, values, flow=bool(point.flow_style))
    key_node, value = keys[key]
    if isinstance(value, SequenceNode) and not value.flow_style:
        return _changed_items(text, value, values)
    return _replaced(text, key_node, value, values)


def _child(node: Node | None, key: str) -> tuple[Node, Node]:
    """Return a key and its value."""
    for each, value in node.value if isinstance(node, MappingNode) else ():
        if each.tag == STRING and each.value == key:
            return each, value
    raise _Unsure


def _added(text: str, above: Node, key: str, values: Sequence[str], *, flow: bool) -> str:
    """Return the text with a new key in front of another, and of the comments above that."""
    start, column = above.start_mark.index, above.start_mark.column
    if flow:
        return f"{text[:start]}{key}: {_flow(values)}, {text[start:]}"
    lines, at, indent = _LINE.findall(text), above.start_mark.line, text[start - column : start]
    if indent.strip():
        raise _Unsure
    while lines[at - 1].startswith(indent + "#"):
        at -= 1
    lines.insert(at, _block(key, values, indent, _end(lines)))
    return "".join(lines)


def _replaced(text: str, key: Node, value: Node, values: Sequence[str]) -> str:
    """Return the text with the value of a key written anew, which is no list in block style."""
    start, end = value.start_mark.index, value.end_mark.index
    old = text[start:end]
    if start < key.end_mark.index or not old.startswith("[") or "#" in old:
        raise _Unsure
    first, lines = key.start_mark.index, _LINE.findall(text)
    indent = text[first - key.start_mark.column : first]
    alone = not indent.strip() and value.start_mark.line == key.start_mark.line
    rest = _LINE.findall(text[end:])[0]
    if alone and not rest.strip() and text[key.end_mark.index : start].strip() == ":":
        new = _block(text[first : key.end_mark.index], values, indent, _end(lines))
        return text[:first] + new.strip() + text[end:]
    return text[:start] + _flow(values) + text[end:]


def _changed_items(text: str, value: SequenceNode, values: Sequence[str]) -> str:
    """Return the text with items of a list in block style added and removed; others stay."""
    lines = _LINE.findall(text)
    first, last = value.value[0], value.value[-1]
    dash = lines[first.start_mark.line][: first.start_mark.column]
    there = [item.value for item in value.value if isinstance(item, ScalarNode) and _is_line(item)]
    if len(there) < len(value.value) or not re.fullmatch(r"\s*-\s+", dash):
        raise _Unsure
    at = last.end_mark.line + 1
    lines[at:at] = [dash + scalar(each) + _end(lines) for each in values if each not in there]
    for item in reversed(value.value):
        if item.value not in values:
            del lines[item.start_mark.line]
    return "".join(lines)


def _is_line(item: ScalarNode) -> bool:
    return item.style not in ("|", ">") and item.start_mark.line == item.end_mark.line


def _end(lines: Sequence[str]) -> str:
    """Return how the first line ends; new ones end as it does."""
    return lines[0][len(lines[0].rstrip("\r\n")) :]


def _block(key: str, values: Sequence[str], indent: str = "", end: str = "\n") -> str:
    """Return a key with its list, on one line where that suffices."""
    flow = f"{indent}{key}: {_flow(values)}"
    if len(flow) < _COLUMNS:
        return flow + end
    items = (f"{indent}  - {scalar(value)}{end}" for value in values)
    return f"{indent}{key}:{end}{''.join(items)}"


def _flow(values: Sequence[str]) -> str:
    return f"[{', '.join(map(scalar, values))}]"


def scalar(text: str) -> str:
    """Return a text as YAML: plain where that means the same, else in quotes as JSON has them."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
