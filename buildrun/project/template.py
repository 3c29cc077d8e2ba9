"""Commands as templates in Python's format syntax, and what can be wrong with them."""

from __future__ import annotations

import itertools
import re
import shlex
import string
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from buildrun.project.quoting import Place, is_escaped, name_of, places

# A longer command than this cannot be handed to bash (MAX_ARG_STRLEN on Linux), so a wider
# field is refused before anybody formats it.
WIDTH_LIMIT = 131_072

_OPTION_LINE = re.compile(r"\s*--?[A-Za-z{]")


class Placeholder(NamedTuple):
    """A `{…}` of a template."""

    name: str  # empty or a number where it is no parameter
    source: str  # the text it begins with
    place: Place
    dollar: bool  # `$` stands before it
    nested: bool  # part of another's format specification


class Cut(NamedTuple):
    """A newline that ends a command whose next line is meant to go on."""

    text: str  # the line that is cut off
    blank: bool  # after a backslash with blanks, which continues nothing


def placeholders(template: str) -> tuple[Placeholder, ...]:
    """Return a template's placeholders in order; raises ValueError where it is no format string."""
    found: list[Placeholder] = []
    where = iter(places(template))
    for literal, field, specification, _ in string.Formatter().parse(template):
        if field is None:
            continue
        place = next(where)
        dollar = literal.endswith("$")
        found.append(Placeholder(name_of(field), "{" + field, place, dollar, nested=False))
        for _, inner, _, _ in string.Formatter().parse(specification or ""):
            if inner is not None:
                found.append(Placeholder(name_of(inner), "{" + inner, place, False, nested=True))
    return tuple(found)


def trial(template: str, defaults: Mapping[str, str | None]) -> str | None:
    """Return why a template cannot be filled in, or None; defaults: None where one is required."""
    values = {name: shlex.quote("1.5" if text is None else text) for name, text in defaults.items()}
    fields = string.Formatter().parse(template)
    widths = [width for _, _, form, _ in fields for width in re.findall(r"\d+", form or "")]
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
        if not begun or not _OPTION_LINE.match(line) or is_escaped(before):
            continue
        if not before.strip().startswith("#"):
            yield Cut(line.strip(), is_escaped(before.rstrip()))
