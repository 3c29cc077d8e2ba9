"""Values in commands: quoted for the place they stand in, so that no shell evaluates them.

MLflow puts `shlex.quote(value)` everywhere. That is right where an author has written no quotes,
and there the text stays the same. In quotes, comments and here-documents it is not: the quotes of
the value end those of the author, and what follows is evaluated.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from buildrun.errors import ParameterError

# What a placeholder stands in: nothing, a quote, a comment, a here-document with or without
# expansion, or something that only plain words are safe in, such as arithmetic.
Within = Literal["", '"', "'", "$'", "#", "<<", "<<'", "?"]

# Stands for a field while a template is looked at; no YAML file can hold it.
_FIELD = "\0"

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_DELIMITER = re.compile(r"<<(-?)[ \t]*((?:\\.|'[^'\n]*'|\"[^\"\n]*\"|[^\s;&|<>()'\"\\])+)")
_VARIABLE = re.compile(r"\$[A-Za-z_]\w*\Z", re.ASCII)
_SPECIAL = re.compile(r"[$`\"'\\]")
_EXPANSION = re.compile(r"\$[({]|`")


class Place(NamedTuple):
    """Where a field stands in a shell's text."""

    within: Within
    before: Literal["", "\\", "$", "$name"] = ""  # what would take part of the value for its own
    ticks: bool = False  # within backticks
    delimiter: str = ""  # of the here-document

    @property
    def takes_any(self) -> bool:
        """Return whether there is a way to write any value without a newline here."""
        return encode("; $x", self) is not None


def is_plain(value: str) -> bool:
    """Return whether no shell sees more than a word in a value, wherever it stands."""
    # A path's mark is for keys alone; no shell sees it.
    return _PLAIN.fullmatch(value) is not None or value.startswith("\0")


def encode(value: str, place: Place) -> str | None:
    """Return the text that means exactly the value at a place, or None where there is none."""
    if place.delimiter and ("\n" in value or (value and value.strip("\t") in place.delimiter)):
        return None  # it could end the here-document
    if is_plain(value):
        return value if place.within or value[0] != "\0" else shlex.quote(value)
    if not value and place.within == "?":
        return '""'
    text = _quoted(value, place)
    if text is not None and place.ticks:
        return re.sub(r"([\\$`])", r"\\\1", text)
    return text


def _quoted(value: str, place: Place) -> str | None:
    within, before = place.within, place.before
    if before == "$" and value:
        return None
    if before and (within in ("<<", "$'") if before == "$name" else within and place.ticks):
        return None
    if within == '"':
        return {"\\": "\\", "$name": '""'}.get(before, "") + re.sub(r'([\\$`"])', r"\\\1", value)
    if within == "<<":
        return before + re.sub(r"([\\$`])", r"\\\1", value)
    if within == "?" or (within == "$'" and before):
        return None
    return _SIMPLE[within](value)


_SIMPLE: Mapping[Within, Callable[[str], str]] = {
    "": shlex.quote,
    "'": lambda value: value.replace("'", "'\"'\"'"),
    # For a shell without `$'…'`, no apostrophe may stand there at all.
    "$'": lambda value: value.replace("\\", "\\\\").replace("'", "\\047"),
    "#": lambda value: shlex.quote(value).replace("\n", " "),
    "<<'": lambda value: value,
}


def fill(template: str, values: Mapping[str, str], extra: Mapping[str, str]) -> str:
    """Return the template with values quoted for their places, extra ones as `--name value` behind.

    Raises ParameterError where no quoting can do that; else what `str.format` raises.
    """
    parts = list(string.Formatter().parse(template))
    found = places(template)
    text, number = "", 0
    for literal, field, specification, conversion in parts:
        text += literal
        if field is None:
            continue
        place = found[number]
        number += 1
        whole = "{" + field + (f"!{conversion}" if conversion else "")
        whole += (f":{specification}" if specification else "") + "}"
        made = _formatted(whole, values, place)
        if made is None:
            raise _unsafe(name_of(field))
        if place.before == "\\" and place.within == "" and made[:1] in ("'", '"'):
            text = text[:-1]  # what it would make literal is so already
        text += made
    for name, value in extra.items():
        words = [encode(word, found[-1]) for word in (name, value)]
        if None in words:
            raise _unsafe(name)
        text += f" --{words[0]} {words[1]}"
    return text


def _unsafe(name: str) -> ParameterError:
    return ParameterError(
        f"the shell would read the value of `{name}` as its own text, where the command has it",
        hint=f"set a variable in a line before, `{name}={{{name}}}`, and use that there",
    )


def _formatted(field: str, values: Mapping[str, str], place: Place) -> str | None:
    """Return a field's text: MLflow's where it is safe."""
    raw = field.format(**values)
    ((_, name, form, _),) = string.Formatter().parse(field)
    inner = [part for _, part, _, _ in string.Formatter().parse(form or "") if part is not None]
    names = [name_of(part) for part in (name or "", *inner)]
    if len(names) == 1 and place.within == "":
        value = values[names[0]]
        quoted = encode(value, place)
        if quoted is None:
            return None
        whole = field.format(**{names[0]: quoted})
        harmless = (quoted,) if _SPECIAL.search(value) else (quoted, f'"{quoted}"')
        if whole.strip(" ") in harmless:
            return whole
    if all(is_plain(values[name]) for name in names) and not place.delimiter:
        return field.format(**values)
    return encode(raw, place)


def name_of(field: str) -> str:
    """Return the parameter that a field of a template stands for."""
    return re.split(r"[.\[]", field, maxsplit=1)[0]


def places(template: str) -> list[Place]:
    """Return where each field stands, and last where a further word would; raises ValueError."""
    parts = string.Formatter().parse(template)
    text = "".join(literal + ("" if field is None else _FIELD) for literal, field, _, _ in parts)
    return _Scan(text + " " + _FIELD).found


class _Scan:
    """A shell's text as bash reads it; once lost, every place is for plain words only."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Place] = []
        # What is open: quotes, "(" for commands, "+" for arithmetic, "{" for `${`, and "`".
        self.stack: list[str] = []
        self.documents: list[tuple[str, bool, bool]] = []
        self.word = self.lost = False
        index = 0
        while index < len(text):
            index = self._step(index)

    def _step(self, index: int) -> int:
        """Take what begins at the index; return where it ends."""
        character, following = self.text[index], self.text[index + 1 : index + 2]
        top = self.stack[-1] if self.stack else ""
        if character == _FIELD:
            self._field(index, top)
        elif top == "'":
            if character == "'":
                self.stack.pop()
        elif character == "\\":
            return self._backslash(index, following, top)
        elif top == "$'":
            if character == "'":
                self.stack.pop()
        elif character == "$":
            return self._dollar(index, following, top)
        elif character == "`":
            self._tick(top)
            return index + 1
        elif character in "\"'" and not (character == "'" and top == '"'):
            self._quote(character, top)
        elif character == "}" and top == "{":
            self.stack.pop()
        elif top not in ('"', "{"):
            return self._bare(index, character, following, top)
        self.word = True
        return index + 1

    def _backslash(self, index: int, following: str, top: str) -> int:
        if "`" in self.stack and following in ("\\", "$", "`", '"'):
            self.lost = True
        if following == "\n" and top != "$'":
            return index + 2  # the word before goes on
        self.word = True
        return index + (1 if following == _FIELD else 2)

    def _quote(self, character: str, top: str) -> None:
        if character == "'":
            self.lost = self.lost or self._is_unclear(top)
        elif top == '"':
            self.stack.pop()
            return
        elif "`" in self.stack:  # in quotes themselves, bash pairs these in a way of its own
            self.lost = self.lost or '"' in self.stack[: self.stack.index("`")]
        self.stack.append(character)

    def _bare(self, index: int, character: str, following: str, top: str) -> int:
        if character == "#" and not self.word:
            self.lost = self.lost or top == "+"
            return self._comment(index)
        if not self.word and top in ("(", "`") and self.text[index : index + 4] == "case":
            self.lost = True  # its `)` closes nothing
        self.word = not (character.isspace() or character in ";&|<>()`")
        if character == "(":
            doubled = following == "("
            self.stack += ["+", "+"] if doubled else ["+" if top == "+" else "("]
            return index + (2 if doubled else 1)
        if character == ")" and top in ("(", "+"):
            self.lost = self.lost or bool(self.documents)
            self.stack.pop()
        elif character == "<" and following == "<" and top != "+":
            return self._document(index)
        elif character == "\n":
            self.lost = self.lost or top == "+"
            index += 1
            for document in self.documents:
                index = self._body(index, *document)
            self.documents.clear()
            return index
        return index + 1

    def _dollar(self, index: int, following: str, top: str) -> int:
        self.word = True
        if following == "(":
            doubled = self.text[index + 2 : index + 3] == "("
            self.stack += ["+", "+"] if doubled else ["("]
            self.word = False
            return index + (3 if doubled else 2)
        if following == "{":
            self.stack.append("{")
            return index + 2
        if following == "'" and top != '"':
            self.lost = self.lost or self._is_unclear(top)
            self.stack.append("$'")
            return index + 2
        return index + (2 if following and following in "$#!?*@-" else 1)

    def _is_unclear(self, top: str) -> bool:
        """Return whether an apostrophe may be a quote or not."""
        return top == "+" or (top == "{" and '"' in self.stack)

    def _tick(self, top: str) -> None:
        if "`" not in self.stack:
            self.stack.append("`")
            self.word = False
            return
        self.lost = self.lost or top != "`" or bool(self.documents)
        while self.stack.pop() != "`":
            pass
        self.word = True

    def _comment(self, index: int) -> int:
        ends = ("\n", "`") if "`" in self.stack else ("\n",)
        while index < len(self.text) and self.text[index] not in ends:
            if self.text[index] == _FIELD:
                self.found.append(Place("?" if self.lost else "#", ticks="`" in self.stack))
            index += 1
        return index

    def _document(self, index: int) -> int:
        if self.text.startswith("<<<", index):
            return index + 3
        found = _DELIMITER.match(self.text, index)
        if found is None or re.search(r"[\0$`]", found.group(2)) or "`" in self.stack:
            self.lost = True
            return index + 2
        word = found.group(2)
        plain = re.sub(r"\\(.)|['\"]", r"\1", word)
        self.documents.append((plain, plain != word, bool(found.group(1))))
        self.word = True
        return found.end()

    def _body(self, index: int, delimiter: str, quoted: bool, tabs: bool) -> int:
        start, joined = index, False
        while index < len(self.text):
            line = self.text[index:].partition("\n")[0]
            if not joined and (line.lstrip("\t") if tabs else line) == delimiter:
                return index + len(line) + 1
            for offset, character in enumerate(line):
                if character == _FIELD:
                    before = self.text[start : index + offset]
                    self._in_document(before, delimiter, quoted=quoted)
            joined = not quoted and is_escaped(line)
            index += len(line) + 1
        return index

    def _in_document(self, before: str, delimiter: str, *, quoted: bool) -> None:
        if self.lost or (not quoted and _EXPANSION.search(before)):
            self.found.append(Place("?", delimiter=delimiter))
        elif quoted:
            self.found.append(Place("<<'", delimiter=delimiter))
        else:
            self.found.append(Place("<<", _before(before), delimiter=delimiter))

    def _field(self, index: int, top: str) -> None:
        within: Within = "?"
        if not self.lost and "{" not in self.stack and "+" not in self.stack:
            within = top if top in ('"', "'", "$'") else ""  # type: ignore[assignment]
        before = _before(self.text[:index]) if within in ("", '"', "$'") else ""
        if within == "" and before == "$name":
            before = ""  # quotes of its own end the name
        self.found.append(Place(within, before, "`" in self.stack))


def is_escaped(text: str) -> bool:
    """Return whether what follows a text is made literal by a backslash."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _before(text: str) -> Literal["", "\\", "$", "$name"]:
    if is_escaped(text):
        return "\\"
    stripped = text.rstrip("$")
    if (len(text) - len(stripped)) % 2:
        return "" if is_escaped(stripped) else "$"
    found = _VARIABLE.search(text)
    return "$name" if found and not is_escaped(text[: found.start()]) else ""
