"""What DVC's templates stand for: `vars`, parameter files, and `${…}` in texts.

https://dvc.org/doc/user-guide/project-structure/dvcyaml-files#templating
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.yaml_loader import Document, load
from buildrun.store.memo import DependencyTracker

_FIELD = re.compile(r"(?<!\\)\$\{(?P<inner>.*?)\}")
_NAME = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^.\[\]]+\])*")


class Unreadable(Exception):
    """What cannot be taken over, and the text that it is about."""

    def __init__(self, message: str, source: str = "") -> None:
        """Keep both."""
        super().__init__(message)
        self.source = source


class Reference(NamedTuple):
    """A `${…}` in a command."""

    name: str  # with dots, as `train.alpha`
    text: str  # of its value, as DVC writes it

    def __str__(self) -> str:
        """Return the value's text."""
        return self.text

    @property
    def parameter(self) -> str:
        """Return the name of a parameter for it, where that is an identifier."""
        return re.sub(r"[.-]", "_", self.name)


class Values:
    """The values that templates see; local: names that only some stages have."""

    def __init__(self, values: Mapping[str, Any], local: frozenset[str] = frozenset()) -> None:
        """Take the values."""
        self._values = values
        self.local = local

    def within(self, values: Mapping[str, Any]) -> Values:
        """Return these values and those of a stage."""
        return Values(_merged(self._values, values), self.local | values.keys())

    def resolve(self, value: Any) -> Any:
        """Return data with all templates filled in; one that is all of a text keeps its type."""
        if isinstance(value, dict):
            return {
                self.text(key) if isinstance(key, str) else key: self.resolve(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if isinstance(value, str) and (found := _FIELD.fullmatch(value)):
            return self._select(found["inner"], value)
        return self.text(value) if isinstance(value, str) else value

    def text(self, value: str) -> str:
        """Return a text with its templates filled in; raises Unreadable."""
        return "".join(map(str, self.pieces(value)))

    def names(self, value: str) -> set[str]:
        """Return the names that a text refers to."""
        return {_normal(found["inner"]) for found in _FIELD.finditer(value)}

    def pieces(self, text: str, *, command: bool = False) -> Iterator[str | Reference]:
        """Yield a text's parts; command: a mapping stands for options. Raises Unreadable."""
        start = 0
        for found in _FIELD.finditer(text):
            yield text[start : found.start()].replace(r"\${", "${")
            value, name = self._select(found["inner"], found.group()), _normal(found["inner"])
            if command and isinstance(value, dict):
                yield from _options(value, name, found.group())
            elif isinstance(value, (dict, list)):
                raise Unreadable(f"`{found.group()}` is no single value", found.group())
            else:
                yield Reference(name, to_text(value))
            start = found.end()
        yield text[start:].replace(r"\${", "${")

    def _select(self, inner: str, source: str) -> Any:
        if not _NAME.fullmatch(inner):
            raise Unreadable(f"`{source}` is no template that can be read", source)
        value: Any = self._values
        for part in _normal(inner).split("."):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (LookupError, TypeError, ValueError):
                raise Unreadable(f"nothing fills `{source}`", source) from None
        return value


def _normal(inner: str) -> str:
    return inner.replace("[", ".").replace("]", "")


def to_text(value: object) -> str:
    """Return a value as DVC writes it into a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(value: Mapping[str, Any], name: str, source: str) -> Iterator[str | Reference]:
    """Yield a mapping as options of a command, as DVC writes them by default."""
    separator = ""
    for option, item in _flat(value):
        if item is False:
            continue
        yield f"{separator}--{option}"
        separator = " "
        for index, each in enumerate(item if isinstance(item, list) else [item]):
            if isinstance(each, (dict, list)):
                raise Unreadable(f"`{source}` holds lists in lists", source)
            if item is True:
                break
            yield " "
            place = f"{name}.{option}" + (f".{index}" if isinstance(item, list) else "")
            yield Reference(place, shlex.quote(each) if isinstance(each, str) else str(each))


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{above}{key}.")
        else:
            yield f"{above}{key}", item


def load_vars(listed: object, directory: str, reader: DependencyTracker) -> dict[str, Any]:
    """Return what a list under `vars` holds, files read; raises ProjectError and Unreadable."""
    found: dict[str, Any] = {}
    if not isinstance(listed, list):
        raise Unreadable("`vars` is no list")
    for item in listed:
        if isinstance(item, dict):
            found = _merged(found, item)
        elif isinstance(item, str) and not _FIELD.search(item):
            file, _, keys = item.partition(":")
            value = load_file(os.path.join(directory, file), reader)
            wanted = [key for key in keys.split(",") if key]
            found = _merged(
                found, {key: value[key] for key in wanted if key in value} if wanted else value
            )
        else:
            raise Unreadable("`vars` holds neither files nor values", str(item)[:60])
    return found


def _merged(into: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(into)
    for key, value in update.items():
        old = both.get(key)
        is_deep = isinstance(old, dict) and isinstance(value, dict)
        both[key] = _merged(old or {}, value) if is_deep else value
    return both


def load_file(path: str, reader: DependencyTracker) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file; raises ProjectError."""
    if path.endswith((".toml", ".py")):
        hint = "move what templates use into a YAML file"
        raise ProjectError("values are read from YAML and JSON only", place=path, hint=hint)
    value = read_value(load_document(path, reader))
    if not isinstance(value, dict):
        raise ProjectError("this holds no mapping", place=path, hint="write `name: value`")
    return value


def load_document(path: str, reader: DependencyTracker) -> Document:
    """Return a YAML file with its places; raises ProjectError."""
    document = load(path, reader)
    if isinstance(document, Diagnostic):
        place = f"{path}:{document.line}:{document.column}"
        raise ProjectError(document.message, place=place, hint=document.hint)
    return document


def read_value(document: Document) -> Any:
    """Return a document's value by YAML 1.2, which DVC reads: `yes` is text, `1e-3` a number."""
    return yaml.load(document.text, _Core)  # noqa: S506  (a SafeLoader)


class _Core(yaml.SafeLoader):
    """Reads plain scalars by the core schema, https://yaml.org/spec/1.2.2/#103-core-schema."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [item for item in items if not item[0].endswith((":bool", ":int", ":float"))]
        for first, items in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _integer(loader: _Core, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


for _tag, _first, _pattern in (
    ("bool", "tTfF", r"true|True|TRUE|false|False|FALSE"),
    ("int", "-+0123456789", r"[-+]?[0-9][0-9_]{0,999}|0o[0-7]{1,999}|0x[0-9a-fA-F]{1,999}"),
    (
        "float",
        "-+0123456789.",
        r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
):
    _Core.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"({_pattern})$"), list(_first)
    )
_Core.add_constructor("tag:yaml.org,2002:int", _integer)
