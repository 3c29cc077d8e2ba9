"""YAML events to nodes, within bounds that no file can be made to break.

PyYAML's own composer calls itself for each level and lets aliases multiply; this one does
neither. What it accepts, and the nodes it makes, are the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import yaml
from yaml.composer import ComposerError
from yaml.constructor import SafeConstructor
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

DEPTH_LIMIT = 64  # levels
NODE_LIMIT = 50_000  # keys, values and collections
ALIAS_LIMIT = 10_000  # nodes that aliases repeat, all together
MERGE_LIMIT = 1_000  # keys `<<`; PyYAML moves all of a mapping for each of them
NUMBER_LIMIT = 1_000  # characters; what numbers in base 60 cost grows with their square

STRING = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

Path = tuple[Any, ...]


class LimitError(Exception):
    """A document that is legal YAML and too much of it."""

    def __init__(self, code: str, message: str, mark: yaml.Mark) -> None:
        """Keep the parts of the finding."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.mark = mark


class Duplicate(NamedTuple):
    """A key that its mapping already has.

    path: keys and indexes from the root. line, column: of the second; they count from 1.
    """

    path: Path
    line: int
    column: int
    first_line: int


class Alias(NamedTuple):
    """A place, as an offset from the file's beginning, that repeats a value from elsewhere."""

    offset: int
    node: Node


class _Open:
    """A collection whose end is still to come."""

    __slots__ = ("before", "key", "node", "path")

    def __init__(self, node: Node, path: Path, before: int) -> None:
        self.node = node
        self.path = path
        self.before = before
        self.key: Node | None = None


class _Composer:
    """The state of one document on its way from events to nodes."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.sizes: dict[int, int] = {}
        self.count = 0
        self.repeated = 0
        self.merges = 0
        self.root: Node | None = None
        self.duplicates: list[Duplicate] = []
        self.aliases: list[Alias] = []

    def take(self, event: Any) -> None:
        if self.count > NODE_LIMIT:
            message = f"the file holds more than {NODE_LIMIT} keys and values"
            raise LimitError("too-large", message, event.start_mark)
        kind = type(event)
        if kind is ScalarEvent:
            self._attach(self._anchored(event, self._scalar(event)))
        elif kind in (SequenceStartEvent, MappingStartEvent):
            self._open(event, SequenceNode if kind is SequenceStartEvent else MappingNode)
        elif kind in (SequenceEndEvent, MappingEndEvent):
            self._close(event)
        elif kind is AliasEvent:
            self._attach(self._aliased(event))

    def _scalar(self, event: Any) -> Node:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.loader.resolve(ScalarNode, event.value, event.implicit)
        if tag in _NUMBERS and len(event.value) > NUMBER_LIMIT:
            message = f"the number has more than {NUMBER_LIMIT} characters"
            raise LimitError("bad-yaml-value", message, event.start_mark)
        if tag == _MERGE:
            self.merges += 1
            if self.merges > MERGE_LIMIT:
                message = f"the file has more than {MERGE_LIMIT} keys `<<`"
                raise LimitError("too-many-aliases", message, event.start_mark)
        self.count += 1
        return ScalarNode(tag, event.value, event.start_mark, event.end_mark, style=event.style)

    def _open(self, event: Any, kind: type[SequenceNode] | type[MappingNode]) -> None:
        if len(self.stack) >= DEPTH_LIMIT:
            message = f"the file is nested deeper than {DEPTH_LIMIT} levels"
            raise LimitError("too-deep", message, event.start_mark)
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.loader.resolve(kind, None, event.implicit)
        node = kind(tag, [], event.start_mark, None, flow_style=event.flow_style)
        self._anchored(event, node)
        self.stack.append(_Open(node, self._path(), self.count))
        self.count += 1

    def _close(self, event: Any) -> None:
        done = self.stack.pop()
        done.node.end_mark = event.end_mark
        self.sizes[id(done.node)] = self.count - done.before
        if isinstance(done.node, MappingNode):
            self.duplicates += _duplicates(done.node, done.path)
        self._attach(done.node)

    def _anchored(self, event: Any, node: Node) -> Node:
        name = event.anchor
        if name is None:
            return node
        if name in self.anchors:
            raise ComposerError(
                f"found duplicate anchor {name!r}; first occurrence",
                self.anchors[name].start_mark,
                "second occurrence",
                event.start_mark,
            )
        self.anchors[name] = node
        return node

    def _aliased(self, event: Any) -> Node:
        name = event.anchor
        if name not in self.anchors:
            raise ComposerError(None, None, f"found undefined alias {name!r}", event.start_mark)
        node = self.anchors[name]
        if any(frame.node is node for frame in self.stack):
            message = f"the alias `*{name}` stands inside the value that it repeats"
            raise LimitError("recursive-alias", message, event.start_mark)
        size = self.sizes.get(id(node), 1)
        self.repeated += size
        self.count += size
        if self.repeated > ALIAS_LIMIT:
            message = f"aliases repeat more than {ALIAS_LIMIT} values"
            raise LimitError("too-many-aliases", message, event.start_mark)
        self.aliases.append(Alias(event.start_mark.index, node))
        return node

    def _attach(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        if isinstance(parent.node, SequenceNode):
            parent.node.value.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            parent.node.value.append((parent.key, node))
            parent.key = None

    def _path(self) -> Path:
        if not self.stack:
            return ()
        parent = self.stack[-1]
        if isinstance(parent.node, SequenceNode):
            return (*parent.path, len(parent.node.value))
        return (*parent.path, getattr(parent.key, "value", None))


def compose(loader: Any) -> tuple[Node | None, tuple[Duplicate, ...], tuple[Alias, ...]]:
    """Return the root node of the loader's only document, or None for an empty one.

    loader: a fresh ``yaml.SafeLoader`` or ``yaml.CSafeLoader``. Raises YAMLError and LimitError.
    """
    loader.get_event()
    if loader.check_event(StreamEndEvent):
        return None, (), ()
    loader.get_event()
    composer = _Composer(loader)
    while not loader.check_event(DocumentEndEvent):
        composer.take(loader.get_event())
    loader.get_event()
    if not loader.check_event(StreamEndEvent):
        mark = loader.get_event().start_mark
        raise LimitError("multiple-documents", "the file holds more than one document", mark)
    return composer.root, tuple(composer.duplicates), tuple(composer.aliases)


def construct_key(node: Node) -> Hashable:
    """Return the Python value of a mapping's key.

    Raises YAMLError for what cannot be a key.
    """
    if node.tag == STRING and isinstance(node, ScalarNode):
        return str(node.value)
    key: Hashable = SafeConstructor().construct_object(node, deep=True)
    return key


def _duplicates(node: MappingNode, path: Path) -> list[Duplicate]:
    first: dict[tuple[str, str], int] = {}
    found = []
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or key.tag == _MERGE:
            continue
        line, column = key.start_mark.line + 1, key.start_mark.column + 1
        identity = (key.tag, key.value)
        if identity in first:
            found.append(Duplicate((*path, key.value), line, column, first[identity]))
        else:
            first[identity] = line
    return found
