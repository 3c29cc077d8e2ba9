"""The command of a DVC stage as a template, with parameters for what it takes from files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence

from buildrun.init.draft import template
from buildrun.init.dvc_values import Reference, Unreadable, Values
from buildrun.project.model import Parameter
from buildrun.project.quoting import is_plain, places

_SHELL = re.compile(r"[;&|#()`\\\n]|<<")


def pieces(cmd: object, wdir: str, values: Values) -> Iterator[str | Reference]:
    """Yield the parts of a command; raises Unreadable.

    DVC gives each line to a shell of its own, and ends at the first that fails.
    """
    given = cmd.splitlines() if isinstance(cmd, str) else cmd
    if not isinstance(given, list) or not all(isinstance(line, str) for line in given):
        raise Unreadable("`cmd` is neither a text nor a list of texts")
    lines = [line.strip("\n") for line in given if line.strip()]
    if wdir != ".":
        yield f"cd {shlex.quote(wdir if wdir[0] != '-' else f'./{wdir}')} || exit\n"
    plain = len(lines) == 1 or not any(_SHELL.search(line) for line in lines)
    begin, end, between = ("", "", " &&\n") if plain else ("(\n", "\n) || exit", "\n")
    for index, line in enumerate(lines):
        yield (between if index else "") + begin
        yield from values.pieces(line, command=True)
        yield end


def fill(
    parts: Sequence[str | Reference],
    fixed: Collection[str],
    local: Collection[str],
    names: dict[str, str],
) -> tuple[str, list[Parameter]]:
    """Return a command as a template, and the parameters that it uses.

    A value becomes one where its text stays the same when it is quoted for the shell.
    fixed: references whose values stand as they are. local: names that are the stage's own, whose
    values do as well. names: what each parameter of the project stands for, which grows.
    """
    free = {
        part
        for part in parts
        if isinstance(part, Reference)
        and part.parameter.isidentifier()
        and part.name not in fixed
        and part.name.split(".")[0] not in local
        and is_plain(part.text)
        and names.setdefault(part.parameter, part.name) == part.name
    }
    while True:
        fields = [part for part in parts if isinstance(part, Reference) and part in free]
        text = "".join(
            f"{{{part.parameter}}}"
            if isinstance(part, Reference) and part in free
            else template(str(part))
            for part in parts
        )
        # One place more than fields: where a further word would stand.
        stands = zip(fields, places(text)[:-1], strict=True)
        odd = {part for part, place in stands if place[:2] != ("", "")}
        if not odd:
            used = dict.fromkeys(fields)
            return text, [Parameter(part.parameter, _type(part.text), part.text) for part in used]
        free -= odd


def _type(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return "string"
    return "float"
