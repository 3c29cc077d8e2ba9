"""How sure it is that a result was made from what its step declares, and from nothing else."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from buildrun.console import printable
from buildrun.planning.model import Plan, Reason

# declared: nobody looked. checked: the command was watched, and read what it declares. sandboxed:
# it could read nothing else.
Assurance = Literal["declared", "checked", "sandboxed"]

# Conditions of one result; a project of a million files has fewer.
MOST_CONDITIONS = 100_000

# Names among the details of a result.
_ASSURANCE, _CONDITIONS, _INCOMPLETE = "assurance", "conditions", "incomplete"
_OBSERVED = re.compile(r"(file:[0-9]{1,19}|directory|names:[0-9a-f]{32})?")
_NOT_CHECKED = Reason("not-checked", "its result was made without its inputs being checked")
_UNSOUND = Reason("lookup-changed", "its result does not tell which files the command looked for")


class Evidence(NamedTuple):
    """What is known of what a command read.

    conditions: on files that the step does not declare and the command looked for, with what was
    there, see ``workspace.conditions``; the result stands for its key while they hold. obstacle:
    why the result must not be kept, "" where it may. incomplete: the key that a result did not get
    for that, since it does not tell all that the command read.
    """

    assurance: Assurance = "declared"
    conditions: Mapping[str, str] = {}
    obstacle: str = ""
    incomplete: str = ""


DECLARED = Evidence()


def to_details(evidence: Evidence) -> dict[str, Any]:
    """Return what the details of a result keep of it: nothing, where nothing is known."""
    found: dict[str, Any] = {}
    if evidence.assurance != "declared":
        found[_ASSURANCE] = evidence.assurance
    if evidence.incomplete:
        found[_INCOMPLETE] = evidence.incomplete
    if evidence.conditions:
        found[_CONDITIONS] = dict(evidence.conditions)
    return found


def from_details(details: Mapping[str, Any]) -> Evidence:
    """Return what the details of a result tell, whoever wrote them; raises ValueError."""
    conditions = details.get(_CONDITIONS, {})
    if not are_sound(conditions):
        raise ValueError("conditions that are none")
    return Evidence(assurance_of(details), conditions)


def assurance_of(details: Mapping[str, Any]) -> Assurance:
    """Return the assurance of a result; one that is not known here assures of nothing."""
    value = details.get(_ASSURANCE)
    return value if value in ("checked", "sandboxed") else "declared"


def are_sound(conditions: object) -> bool:
    """Return whether these are conditions on places in a project, and not absurdly many."""
    return (
        isinstance(conditions, Mapping)
        and len(conditions) <= MOST_CONDITIONS
        and all(_is_place(path) and _is_observed(was) for path, was in conditions.items())
    )


def is_checked(details: Mapping[str, Any]) -> bool:
    """Return whether a result was made with its inputs checked, or in a sandbox."""
    return assurance_of(details) != "declared"


def has_conditions(details: Mapping[str, Any]) -> bool:
    """Return whether a result with these details counts under conditions only."""
    return bool(details.get(_CONDITIONS))


def is_incomplete(details: Mapping[str, Any], key: str) -> bool:
    """Return whether a command was seen to read more than a key tells of."""
    return details.get(_INCOMPLETE) == key


def refusal(plan: Plan, details: Mapping[str, Any], *, strict: bool) -> Reason | None:
    """Return why a result with these details does not count in a project, or None where it does.

    strict: whether it has to be checked or made in a sandbox.
    """
    if strict and not is_checked(details):
        return _NOT_CHECKED
    try:
        conditions = from_details(details).conditions
    except ValueError:
        return _UNSOUND
    return _broken(plan.root, conditions, plan.outputs) if conditions else None


def _broken(root: str, conditions: Mapping[str, str], outputs: Sequence[str]) -> Reason | None:
    from buildrun.workspace.conditions import NAMES, broken, observe

    path = _leading_out(root, conditions)
    if path is not None:
        fact = f"`{printable(path)}`, which the command looks for, is behind a link that leads out"
        return Reason("lookup-changed", f"{fact} of the project")
    path = broken(root, conditions, outputs)
    if path is None:
        return None
    was, now = conditions[path], observe(root, path)
    if was.startswith(NAMES) and now == "directory":
        where = "the project's directory" if path == "." else f"`{printable(path)}`"
        return Reason("lookup-changed", f"the names in {where} changed")
    kind = now.split(":")[0]
    fact = "is there now" if not was else "is gone" if not now else f"is a {kind} now"
    if was.startswith("file:") and kind == "file":
        fact = "has another size"
    return Reason("lookup-changed", f"`{printable(path)}`, which the command looks for, {fact}")


def _leading_out(root: str, conditions: Mapping[str, str]) -> str | None:
    """Return a path that a link leads out of the project, where nobody is to look."""
    from buildrun.workspace.select import is_behind, leads_out

    base = os.fsencode(root)
    behind: dict[str, bool] = {}
    for path in conditions:
        above, name = os.path.dirname(path), os.fsencode(path)
        if above not in behind:
            behind[above] = is_behind(base, name)
        if behind[above] or (os.path.islink(os.path.join(base, name)) and leads_out(base, name)):
            return path
    return None


def _is_place(path: object) -> bool:
    if not isinstance(path, str) or "\0" in path or len(path) > 4096:
        return False
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return path == "." or all(part not in ("", ".", "..") for part in path.split("/"))


def _is_observed(was: object) -> bool:
    return isinstance(was, str) and _OBSERVED.fullmatch(was) is not None
