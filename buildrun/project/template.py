"""Commands as templates in Python's format syntax, and what can be wrong with them."""

from __future__ import annotations

import itertools
import re
import shlex
import string
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# A longer command than this cannot be handed to bash (MAX_ARG_STRLEN on Linux), so a wider
# field is refused before anybody formats it.
WIDTH_LIMIT = 131_072

_NAME = re.compile(r"[^.\[]*")
_OPTION_LINE = re.compile(r"\s*--?[A-Za-z{]")


class Placeholder(NamedTuple):
    """A ``{…}`` of a template.

    name: the parameter it stands for, empty or a number where it stands for none. source: the
    text it begins with. quote: the shell quote it stands in, or "". dollar: whether ``$`` stands
    before it. nested: whether it is part of another's format specification.
    """

    name: str
    source: str
    quote: str
    dollar: bool
    nested: bool


class Cut(NamedTuple):
    """A newline that ends a command whose next line is meant to go on.

    text: the line that is cut off. blank: whether the line before ends in a backslash and then
    blanks, which continues nothing.
    """

    text: str
    blank: bool


def placeholders(template: str) -> tuple[Placeholder, ...]:
    """Return a template's placeholders in order.

    Raises ValueError, in Python's words, where the template is no format string.
    """
    found: list[Placeholder] = []
    shell = _Shell()
    for literal, field, specification, _ in string.Formatter().parse(template):
        shell.read(literal, len(found))
        if field is None:
            continue
        dollar = literal.endswith("$")
        found.append(Placeholder(_name(field), "{" + field, shell.quote, dollar, nested=False))
        shell.word = True
        for inner in _fields(specification or ""):
            found.append(Placeholder(_name(inner), "{" + inner, shell.quote, False, nested=True))
    end = shell.first_open()
    rest = [] if end is None else [item._replace(quote="") for item in found[end:]]
    return (*found[:end], *rest)


def trial(template: str, defaults: Mapping[str, str | None]) -> str | None:
    """Return why a template cannot be filled in, or None where it can.

    defaults: all parameters with their default text, None where a value is required.
    """
    values = {name: shlex.quote("1.5" if text is None else text) for name, text in defaults.items()}
    widths = list(_widths(template))
    if any(len(size) > 9 for size in widths) or sum(map(int, widths)) > WIDTH_LIMIT:
        return "a width is more than a command can hold"
    if any(item.nested for item in placeholders(template)):
        return None  # it depends on the values
    try:
        template.format(**values)
    except (ValueError, LookupError, AttributeError, TypeError, MemoryError) as error:
        return str(error) or type(error).__name__
    return None


def cuts(command: str) -> Iterator[Cut]:
    """Yield the newlines that cut a command in two."""
    lines = command.split("\n")
    begun = False
    for before, line in itertools.pairwise(lines):
        begun = begun or bool(before.strip())
        if not begun or not _OPTION_LINE.match(line) or _continues(before):
            continue
        if not before.strip().startswith("#"):
            yield Cut(line.strip(), _continues(before.rstrip()))


def _continues(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _name(field: str) -> str:
    match = _NAME.match(field)
    return match.group() if match else ""


def _fields(specification: str) -> list[str]:
    parts = string.Formatter().parse(specification)
    return [field for _, field, _, _ in parts if field is not None]


def _widths(template: str) -> Iterator[str]:
    for _, field, specification, _ in string.Formatter().parse(template):
        if field is not None:
            yield from re.findall(r"\d+", specification or "")


class _Shell:
    """Which quote of the shell a place stands in, as far as reading left to right can tell."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.begun: list[int] = []  # the number of fields before each quote of the stack
        self.fields = 0
        self.word = False
        self.comment = False

    @property
    def quote(self) -> str:
        top = self.stack[-1] if self.stack and not self.comment else ""
        return top if top in ("'", '"') else ""

    def first_open(self) -> int | None:
        """Return the first field after a quote that never ends: an apostrophe, not a quote."""
        pairs = zip(self.stack, self.begun, strict=True)
        return next((fields for mark, fields in pairs if mark != "("), None)

    def read(self, text: str, fields: int) -> None:
        self.fields = fields
        skip = False
        for index, character in enumerate(text):
            if skip:
                skip = False
            elif self.comment:
                self.comment = character != "\n"
            else:
                skip = self._step(character, text[index + 1 : index + 2])
            self.word = not character.isspace()

    def _step(self, character: str, following: str) -> bool:
        """Take one character; return whether the next one goes with it."""
        top = self.stack[-1] if self.stack else ""
        if top == "'":
            if character == "'":
                self._pop()
        elif character == "\\":
            return True
        elif character == "$" and following == "(":
            self._push("(")
            return True
        elif (character, top) in (('"', '"'), (")", "(")):
            self._pop()
        elif character == '"' or (character == "'" and top != '"'):
            self._push(character)
        elif character == "#" and top != '"' and not self.word:
            self.comment = True
        return False

    def _push(self, mark: str) -> None:
        self.stack.append(mark)
        self.begun.append(self.fields)

    def _pop(self) -> None:
        self.stack.pop()
        self.begun.pop()
