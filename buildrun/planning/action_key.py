"""The key of a step: a digest of all that decides its result."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import printable
from buildrun.planning.model import Reason, Step
from buildrun.store import digest

if TYPE_CHECKING:
    from buildrun.store.listing import Entry

DOMAIN = "result"

MADE_ANOTHER_WAY = Reason("key-changed", "keys are made in another way than before")

# Names of changed inputs that a reason tells; the rest is counted.
_SHOWN = 3

_Listing = Callable[[], "Sequence[Entry] | None"]


class ActionKey(NamedTuple):
    """What a key is made of, and what only explains it.

    key_parts: JSON values; the key is their digest. details: JSON values that say more about a
        part, such as which parameter it is that changed the command.
    """

    key_parts: Mapping[str, Any]
    details: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Return the key."""
        return digest.key(DOMAIN, self.key_parts)


def compute(
    step: Step,
    *,
    environment: str | None,
    inputs: str,
    contents: Mapping[str, str],
    upstream: Mapping[str, str],
    salt: str | None,
) -> ActionKey:
    """Return the parts of a step's key.

    environment: what stands for it in keys. inputs: the digest of their listing.
    contents: for each of the step's paths the digest of what lies there. upstream: for each step
    whose outputs this one may see, their digest. salt: the user's means to disown old results.
    Values that may be secret, the command's text and variables, go in as digests only.
    """
    text = step.key_text
    for name, content in contents.items():
        text = text.replace(f"\0{name}\0", content)
    env = {name: digest.of_text(value) for name, value in step.env}
    key_parts = {
        "command": digest.of_text(text),
        "entry_point": step.entry_point,
        "env": env | dict(step.key_env),
        "environment": environment,
        "inputs": inputs,
        "outputs": sorted(step.outputs),
        "platform": step.environment.platform or f"{sys.platform}-{os.uname().machine}",
        "salt": salt,
        "upstream": dict(upstream),
    }
    details = {
        "parameters": {
            name: contents.get(name) or digest.of_text(value)
            for name, value in step.parameters
            # Whoever may read a shared cache could try guesses of a secret against its digest.
            if name not in step.secrets
        },
        "manager": step.environment.manager,
    }
    return ActionKey(key_parts, details)


def explain(
    old: ActionKey, new: ActionKey, old_inputs: _Listing, new_inputs: _Listing
) -> list[Reason]:
    """Return a reason for each part that differs, in the order in which users think of them.

    old_inputs, new_inputs: give the listings, or None where one is not kept any more.
    """
    before, after = old.key_parts, new.key_parts
    found: list[Reason] = []
    if before.get("command") != after["command"]:
        found.append(_command(old.details, new.details))
    if before.get("inputs") != after["inputs"]:
        found += _inputs(old_inputs(), new_inputs())
    found += _mapping("upstream-changed", before, after, "upstream", "what `{}` makes changed")
    if before.get("environment") != after["environment"]:
        found.append(Reason("environment-changed", "the environment changed"))
    found += _mapping("variable-changed", before, after, "env", "the variable `{}` changed")
    for name, code, detail in (
        ("entry_point", "entry-point-changed", "the entry point was renamed"),
        ("outputs", "outputs-changed", "other outputs are declared"),
        ("platform", "platform-changed", "it was made on another platform"),
        ("salt", "salt-changed", "`BUILDRUN_SALT` changed"),
    ):
        if before.get(name) != after[name]:
            found.append(Reason(code, detail))
    return found or [MADE_ANOTHER_WAY]


def similarity(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    """Return how many parts are equal."""
    return sum(old.get(name) == value for name, value in new.items())


def _command(old: Mapping[str, Any], new: Mapping[str, Any]) -> Reason:
    before, after = old.get("parameters", {}), new.get("parameters", {})
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if names:
        which = ", ".join(f"`{name}`" for name in names)
        word = "parameter" if len(names) == 1 else "parameters"
        return Reason("command-changed", f"the command changed: {word} {which}")
    return Reason("command-changed", "the command changed")


def _inputs(old: "Sequence[Entry] | None", new: "Sequence[Entry] | None") -> list[Reason]:
    if old is None or new is None:
        return [Reason("input-changed", "the inputs changed")]
    before = {entry.path: entry[1:3] for entry in old}
    after = {entry.path: entry[1:3] for entry in new}
    return [
        *_files(
            "input-changed", "changed", [p for p in after if before.get(p, after[p]) != after[p]]
        ),
        *_files("input-added", "is new", [path for path in after if path not in before]),
        *_files("input-removed", "is gone", [path for path in before if path not in after]),
    ]


def _files(code: str, what: str, paths: Sequence[str]) -> Iterable[Reason]:
    for path in paths[:_SHOWN]:
        yield Reason(code, f"input `{printable(path)}` {what}")
    if len(paths) > _SHOWN:
        yield Reason(code, f"and {len(paths) - _SHOWN} more inputs")


def _mapping(
    code: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str, text: str
) -> Iterable[Reason]:
    old, new = before.get(name) or {}, after[name]
    for item in {**old, **new}:
        if old.get(item) != new.get(item):
            yield Reason(code, text.format(item))
