"""YAML with the place of every value, within bounds."""

from __future__ import annotations

import bisect
import errno
import os
import re
import stat
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import yaml
from yaml.constructor import SafeConstructor
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from buildrun.console import near_path
from buildrun.project.diagnostics import Diagnostic, Edit, Path
from buildrun.store.memo import DependencyTracker

SIZE_LIMIT = 1 << 20  # bytes

_C_LOADER: Any = getattr(yaml, "CSafeLoader", None)
# The characters that PyYAML accepts; what else a file holds, it refuses.
_UNPRINTABLE = re.compile(
    "[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
# libyaml takes some of these where PyYAML, whose verdict is MLflow's, does not.
_RISKY = re.compile(r"[\t\x85\u2028\u2029\ufeff?%]|!(?!\S)")
_TOO_LARGE = "is it the right file? Data belongs in files of its own"
_TEMPLATE = re.compile(r"\{%|\{\{.*\}\}")
_FAILURES = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


class Document:
    """A file's value, and the place of each part of it by its path of keys and indexes."""

    def __init__(
        self,
        path: str,
        text: str,
        value: Any,
        root: Node | None,
        duplicates: Sequence[Duplicate],
        aliases: Sequence[tuple[int, int]],
    ) -> None:
        """Keep what was read; aliases: the offset of each, and of the value that it repeats."""
        self.path = path
        self.text = text
        self.value = value
        self.duplicates = duplicates
        self._root = root
        self._aliases = aliases
        self._lines: list[int] = []
        self._children: dict[int, dict[Hashable, tuple[Node, Node]]] = {}

    def place(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Return line and column, from 1, of a value or its key, or of the nearest around it."""
        node, key_node = self._find(path)
        node = key_node if key and key_node is not None else node
        return _place(node.start_mark) if node is not None else (1, 1)

    def raw(self, path: Path) -> str | None:
        """Return a scalar's text as it is written, without quotes; None for anything else."""
        node, _ = self._find(path, exact=True)
        return str(node.value) if isinstance(node, ScalarNode) else None

    def is_plain(self, path: Path) -> bool:
        """Return whether the value is a scalar written without quotes."""
        node, _ = self._find(path, exact=True)
        return isinstance(node, ScalarNode) and not node.style

    def edit(
        self, path: Path, new: str, changes: tuple[Path, ...], *, key: bool = False
    ) -> tuple[Edit, ...]:
        """Return the replacement of a scalar's text, or none where that is not what is written."""
        node, key_node = self._find(path, exact=True)
        node = key_node if key else node
        if not isinstance(node, ScalarNode) or node.end_mark is None:
            return ()
        start, quotes = node.start_mark, len(node.style or "")
        source = self.text[start.index : node.end_mark.index]
        if source[quotes : len(source) - quotes] != node.value:
            return ()
        return (Edit(start.column + 1 + quotes, node.value, new, changes),)

    def lends(self, path: Path) -> bool:
        """Return whether an alias elsewhere repeats the value or a part of it."""
        node, _ = self._find(path, exact=True)
        if node is None or node.end_mark is None:
            return False
        within = range(node.start_mark.index, node.end_mark.index)
        return any(anchor in within and offset not in within for offset, anchor in self._aliases)

    def find(self, path: Path, text: str, start: int = 0) -> int:
        """Return the offset of a text in a scalar's source, or -1 where it is written otherwise."""
        node, _ = self._find(path, exact=True)
        if start < 0 or node is None or node.end_mark is None:
            return -1
        return self.text.find(text, max(node.start_mark.index, start), node.end_mark.index)

    def place_at(self, path: Path, offset: int) -> tuple[int, int]:
        """Return line and column of an offset that ``find`` returned; for -1, of the scalar."""
        if offset < 0:
            return self.place(path)
        if not self._lines:
            self._lines = [0, *(match.end() for match in re.finditer("\n", self.text))]
        line = bisect.bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def _find(self, path: Path, *, exact: bool = False) -> tuple[Node | None, Node | None]:
        node, key_node = self._root, None
        for part in path:
            found = self._child(node, part)
            if found is None:
                return (None, None) if exact else (node, key_node)
            key_node, node = found
        return node, key_node

    def _child(self, node: Node | None, part: Any) -> tuple[Node | None, Node] | None:
        if isinstance(node, SequenceNode):
            within = isinstance(part, int) and part < len(node.value)
            return (None, node.value[part]) if within else None
        if not isinstance(node, MappingNode):
            return None
        if id(node) not in self._children:
            self._children[id(node)] = {
                construct_key(key): (key, value) for key, value in node.value
            }
        return self._children[id(node)].get(part)


def load(path: str, reader: DependencyTracker) -> Document | Diagnostic:
    """Read a YAML file, or return the one finding that says why it cannot be read."""
    content = read_text(path, reader)
    return content if isinstance(content, Diagnostic) else parse(path, content)


def read_text(path: str, reader: DependencyTracker) -> str | Diagnostic:
    """Read a regular file that is not too large as Python's text mode does."""
    content = reader.given.get(os.path.realpath(path)) if reader.given else None
    refusal = _refuse(path) if content is None else _refuse_size(path, len(content))
    if refusal is not None:
        reader.executable(path)  # keeps its state, so that the refusal is not remembered for ever
        return refusal
    try:
        content = reader.read(path) if content is None else content
    except OSError as error:
        return _unreadable(path, error)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8(path, content, error)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    bad = _UNPRINTABLE.search(text)
    return text if bad is None else _unprintable(path, text, bad)


def parse(path: str, text: str) -> Document | Diagnostic:
    """Read YAML text; the verdict is PyYAML's own, also where libyaml does the work."""
    if _C_LOADER is not None and not _RISKY.search(text):
        document = _parse(path, text, _C_LOADER)
        if isinstance(document, Document) or document.code in _LIMIT_HINTS:
            return document
    return _parse(path, text, yaml.SafeLoader)


def _parse(path: str, text: str, kind: Any) -> Document | Diagnostic:
    root: Node | None = None
    try:
        aliases = _check_limits(kind(text))
        loader = kind(text)
        root = loader.get_single_node()
        duplicates = list(_duplicates(root))
        value = loader.construct_document(root) if root is not None else None
        return Document(path, text, value, root, duplicates, aliases)
    except LimitError as error:
        return _finding(path, error.code, error.message, error.mark, _LIMIT_HINTS[error.code])
    except yaml.YAMLError as error:
        return _syntax(path, text, error)
    except _FAILURES as error:
        return _bad_value(path, root, error)


_LIMIT_HINTS = {
    "too-large": _TOO_LARGE,
    "bad-yaml-value": "put it in quotes",
    "too-deep": "write the values out flat; no key of these files lies that deep",
    "too-many-aliases": "write the values out instead of repeating them with `*`",
    "recursive-alias": "write the value out instead of repeating it with `*`",
    "multiple-documents": "keep one document: remove the `---` and what does not belong",
}


def _refuse(path: str) -> Diagnostic | None:
    try:
        status = os.stat(path)
    except OSError as error:
        return _unreadable(path, error)
    except ValueError:
        return Diagnostic("error", "missing-file", "no file can have this name", path)
    if not stat.S_ISREG(status.st_mode):
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "device, pipe or socket"
        message = f"this is a {kind}, not a file"
        return Diagnostic("error", "not-a-file", message, path, hint="put a file in its place")
    return _refuse_size(path, status.st_size)


def _refuse_size(path: str, size: int) -> Diagnostic | None:
    if size <= SIZE_LIMIT:
        return None
    message = f"the file has {size} bytes; more than {SIZE_LIMIT} are not read"
    return Diagnostic("error", "too-large", message, path, hint=_TOO_LARGE)


def _unreadable(path: str, error: OSError) -> Diagnostic:
    if error.errno == errno.ELOOP:
        message = "the symbolic link leads back to itself"
        return _finding(path, "symlink-loop", message, None, "replace the link by the file")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = near_path(*reversed(os.path.split(path))) or "check the path"
        if os.path.islink(path):
            hint = "its symbolic link leads nowhere"
        return _finding(path, "missing-file", "no such file", None, hint)
    message = f"the file cannot be read: {error.strerror or error}"
    hint = "give yourself the right to read it" if error.errno == errno.EACCES else ""
    return _finding(path, "unreadable-file", message, None, hint)


def _not_utf8(path: str, content: bytes, error: UnicodeDecodeError) -> Diagnostic:
    before = content[: error.start].decode("utf-8", "replace")
    place = _line_and_column(before.replace("\r\n", "\n").replace("\r", "\n"))
    message = f"the byte 0x{content[error.start]:02x} is not UTF-8 text"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        message = "the file is UTF-16 text"
    return Diagnostic("error", "not-utf-8", message, path, *place, hint="save the file as UTF-8")


def _unprintable(path: str, text: str, bad: re.Match[str]) -> Diagnostic:
    place = _line_and_column(text[: bad.start()])
    name = f"the character U+{ord(bad.group()):04X}"
    hint = 'remove it, or write it as an escape such as `"\\x07"`'
    if bad.group() == "\0":
        name, hint = "a NUL byte", "is it a text file? Save it as UTF-8"
    message = f"the file holds {name}, which YAML does not allow"
    return Diagnostic("error", "bad-character", message, path, *place, hint=hint)


def _syntax(path: str, text: str, error: yaml.YAMLError) -> Diagnostic:
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    message = problem.replace("'", "`")
    if context and not context.startswith("while scanning for the next token"):
        message = f"{message} ({context})"
    return _finding(path, "yaml-syntax", message, mark, _syntax_hint(text, problem, mark))


def _syntax_hint(text: str, problem: str, mark: yaml.Mark | None) -> str:
    lines = text.split("\n")
    line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
    if _TEMPLATE.search(text):
        return "this is a template that was not rendered (`{{ … }}`): check the files it makes"
    if "\t" in line:
        return "YAML takes no tabs here: indent with spaces"
    near = lines[max(mark.line - 1, 0) : mark.line + 1] if mark is not None else []
    if "expected ':'" in problem and any(re.match(r"\s*-[^\s-]", item) for item in near):
        return "a list item needs a space after its `-`"
    if line.count(": ") > 1:
        return "put a value that holds `: ` in quotes"
    return "check quotes, brackets and indentation here and in the line above"


def _bad_value(path: str, root: Node | None, error: Exception) -> Diagnostic:
    scalars = (node for node, _ in _walk(root, (), set()) if isinstance(node, ScalarNode))
    culprit = next(filter(_fails, scalars), root)
    text = str(getattr(culprit, "value", ""))[:40]
    message = f"`{text}` is not the value that its form or tag promises: {error}"
    mark = culprit.start_mark if culprit is not None else None
    return _finding(path, "bad-yaml-value", message, mark, "put it in quotes")


def _fails(node: ScalarNode) -> bool:
    try:
        SafeConstructor().construct_object(node)
    except (yaml.YAMLError, *_FAILURES):
        return True
    return False


def _finding(
    path: str, code: str, message: str, mark: yaml.Mark | None, hint: str = ""
) -> Diagnostic:
    line, column = _place(mark) if mark is not None else (1, 1)
    return Diagnostic("error", code, message, path, line, column, hint=hint)


def _place(mark: yaml.Mark) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _line_and_column(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


DEPTH_LIMIT = 64  # levels
NODE_LIMIT = 50_000  # keys, values and collections
ALIAS_LIMIT = 10_000  # nodes that aliases repeat, all together
MERGE_LIMIT = 1_000  # keys `<<`; PyYAML moves all of a mapping for each of them
NUMBER_LIMIT = 1_000  # characters; what numbers in base 60 cost grows with their square

STRING = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class LimitError(Exception):
    """A document that is legal YAML and too much of it."""

    def __init__(self, code: str, message: str, mark: yaml.Mark) -> None:
        """Keep the parts of the finding."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.mark = mark


class Duplicate(NamedTuple):
    """A key that its mapping already has, and where it stands the second time."""

    path: Path
    line: int  # from 1, as the column
    column: int
    first_line: int


def _check_limits(loader: Any) -> list[tuple[int, int]]:
    """Return the offset of each alias and of what it repeats; raises LimitError."""
    aliases: list[tuple[int, int]] = []
    # The beginning of each anchored value, and the keys and values in it once it has ended.
    anchors: dict[str | None, tuple[int, int | None]] = {}
    # Of each open collection: its anchor, its offset, and how many values came before it.
    stack: list[tuple[str | None, int, int]] = []
    count = repeated = merges = documents = 0
    while (event := loader.get_event()) is not None:
        kind, mark = type(event), event.start_mark
        if count > NODE_LIMIT:
            message = f"the file holds more than {NODE_LIMIT} keys and values"
            raise LimitError("too-large", message, mark)
        if kind is DocumentStartEvent:
            documents += 1
            if documents > 1:
                message = "the file holds more than one document"
                raise LimitError("multiple-documents", message, mark)
        elif kind is ScalarEvent:
            merges += _check_scalar(loader, event) == _MERGE
            if merges > MERGE_LIMIT:
                message = f"the file has more than {MERGE_LIMIT} keys `<<`"
                raise LimitError("too-many-aliases", message, mark)
            count += 1
            anchors[event.anchor] = mark.index, 1
        elif kind in (SequenceStartEvent, MappingStartEvent):
            if len(stack) >= DEPTH_LIMIT:
                message = f"the file is nested deeper than {DEPTH_LIMIT} levels"
                raise LimitError("too-deep", message, mark)
            stack.append((event.anchor, mark.index, count))
            anchors[event.anchor] = mark.index, None
            count += 1
        elif kind in (SequenceEndEvent, MappingEndEvent):
            name, offset, before = stack.pop()
            anchors[name] = offset, count - before
        elif kind is AliasEvent and event.anchor in anchors:
            offset, size = anchors[event.anchor]
            if size is None:
                message = f"the alias `*{event.anchor}` stands inside the value that it repeats"
                raise LimitError("recursive-alias", message, mark)
            repeated += size
            count += size
            if repeated > ALIAS_LIMIT:
                message = f"aliases repeat more than {ALIAS_LIMIT} values"
                raise LimitError("too-many-aliases", message, mark)
            aliases.append((mark.index, offset))
    return aliases


def _check_scalar(loader: Any, event: Any) -> str:
    """Return a scalar's tag; raises LimitError for a number that would take long to compute."""
    tag = event.tag
    if tag is None or tag == "!":
        tag = loader.resolve(ScalarNode, event.value, event.implicit)
    if tag in _NUMBERS and len(event.value) > NUMBER_LIMIT:
        message = f"the number has more than {NUMBER_LIMIT} characters"
        raise LimitError("bad-yaml-value", message, event.start_mark)
    return str(tag)


def construct_key(node: Node) -> Hashable:
    """Return the Python value of a mapping's key; raises YAMLError for what cannot be one."""
    if node.tag == STRING and isinstance(node, ScalarNode):
        return str(node.value)
    key: Hashable = SafeConstructor().construct_object(node, deep=True)
    return key


def _walk(node: Node | None, path: Path, seen: set[int]) -> Iterator[tuple[Node, Path]]:
    """Yield nodes with their paths, each once and after what is in it; seen: nodes by their id."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), seen)
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            yield from _walk(key, (*path, None), seen)
            yield from _walk(value, (*path, key.value), seen)
    yield node, path


def _duplicates(root: Node | None) -> Iterator[Duplicate]:
    """Yield the keys that stand twice."""
    for node, path in _walk(root, (), set()):
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode) or key.tag == _MERGE:
                continue
            line, column = _place(key.start_mark)
            identity = (key.tag, key.value)
            if identity in first:
                yield Duplicate((*path, key.value), line, column, first[identity])
            first.setdefault(identity, line)
