"""Rules of an entry point: its keys, limits and steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.console import is_named
from buildrun.project.diagnostics import Findings, Path
from buildrun.project.model import Declared, EntryPoint, Parameter, Sandbox
from buildrun.project.rules.command import check_command
from buildrun.project.rules.dependencies import (
    check_dependencies,
    check_handed_down,
    read_dependencies,
)
from buildrun.project.rules.inputs import all_inputs, check_effect, check_origins, read_inputs
from buildrun.project.rules.outputs import check_overlaps, read_outputs
from buildrun.project.rules.values import (
    check_scalar,
    is_number,
    is_passable,
    items,
    misfit,
    read_env,
    read_names,
)


def read_entry_point(
    findings: Findings, path: Path, value: Mapping[Any, Any], reserved: Mapping[str, str]
) -> tuple[Declared, EntryPoint | None]:
    """Return an entry point as it is declared, and as it runs: None without a command."""
    declared = _declared(findings, path, value, reserved)
    env = read_env(findings, (*path, "env"), value.get("env"))
    taken = {"env": [name for name, _ in env]}
    pass_env = read_names(findings, (*path, "pass_env"), value.get("pass_env"), taken)
    taken["pass_env"] = [*pass_env]
    key_env = read_names(findings, (*path, "key_env"), value.get("key_env"), taken)
    timeout = read_timeout(findings, (*path, "timeout"), value.get("timeout"))
    command = value.get("command")
    if declared.defaults is not None:
        used = check_handed_down(findings, declared.depends_on, declared.defaults)
        if isinstance(command, str):
            check_command(findings, path, command, declared.defaults, used)
    if not isinstance(command, str):
        return declared, None
    return declared, EntryPoint(
        declared.name,
        declared.parameters,
        command,
        tuple(dict.fromkeys(item for _, item in declared.depends_on)),
        all_inputs(findings, (*path, "inputs"), value.get("inputs")),
        tuple(dict.fromkeys(item for _, item in declared.outputs)),
        env,
        pass_env,
        timeout,
        read_retries(value.get("retries")),
        key_env,
        value.get("check_inputs") is True,
        read_sandbox(findings, (*path, "sandbox"), value.get("sandbox")),
    )


def check_steps(findings: Findings, entry_points: Sequence[Declared]) -> None:
    """Check all entry points beside each other, as the steps of one project."""
    graph = {
        entry_point.name: tuple(item.entry_point for _, item in entry_point.depends_on)
        for entry_point in entry_points
    }
    check_dependencies(findings, entry_points, graph)
    check_overlaps(findings, entry_points)
    check_origins(findings, entry_points, graph)
    check_effect(findings, entry_points, graph)


def _declared(
    findings: Findings, path: Path, value: Mapping[Any, Any], reserved: Mapping[str, str]
) -> Declared:
    listed = value.get("parameters", {})
    parameters = _parameters(findings, (*path, "parameters"), listed)
    defaults: dict[str, str | None] | None = None
    if listed is None or isinstance(listed, dict):
        defaults = {str(key): None for key in listed or ()}
        defaults.update((parameter.name, parameter.default) for parameter in parameters)
    names = list(defaults or ())
    return Declared(
        path,
        parameters,
        defaults,
        read_dependencies(findings, (*path, "depends_on"), value.get("depends_on")),
        read_inputs(findings, (*path, "inputs"), value.get("inputs"), names),
        read_outputs(findings, (*path, "outputs"), value.get("outputs"), names, reserved),
    )


def _parameters(findings: Findings, path: Path, declared: object) -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}
    for key, value in declared.items() if isinstance(declared, dict) else ():
        if not isinstance(key, str):
            message = f"the name of this parameter is read as `{key}`; MLflow cannot set it"
            hint = "put the name in quotes"
            findings.warning("yaml-value", message, (*path, key), key=True, hint=hint)
        parameter = _parameter(findings, (*path, key), value)
        if parameter is not None:
            found[parameter.name] = parameter
    return tuple(found.values())


def _parameter(findings: Findings, path: Path, value: object) -> Parameter | None:
    name = str(path[-1])
    if value is None:
        return Parameter(name, secret=is_named(name))
    if isinstance(value, str):
        return Parameter(name, value, secret=is_named(name))
    if not isinstance(value, dict):
        return None
    kind = str(value.get("type", "string"))
    default, secret = value.get("default"), bool(value.get("secret", is_named(name)))
    if default is None:
        return Parameter(name, kind, secret=secret)
    _check_default(findings, (*path, "default"), default, kind)
    return Parameter(name, kind, str(default), secret)


def _check_default(findings: Findings, path: Path, value: object, kind: str) -> None:
    if isinstance(value, (dict, list, bytes, set)):
        message = f"the command gets the text `{str(value)[:60]}`"
        findings.warning("yaml-value", message, path, hint="write that text in quotes")
    elif not (isinstance(value, bool) and is_number(kind)):
        check_scalar(findings, path, value, "the command gets", exact=False, kind=kind)
    # The schema judges the defaults of MLflow's own types.
    if kind != "float" and (what := misfit(kind, str(value))):
        message = f"the default of the `{kind}` parameter `{path[-2]}` is not {what}"
        hint = f"give it {what}, or the type `string`"
        findings.warning("default-mismatch", message, path, hint=hint)


LONGEST = 366 * 86_400  # seconds

_TIME = re.compile(r"(?=[0-9])(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s?)?")
_UNITS = (86_400, 3_600, 60, 1)
_MOST_RETRIES = 100


def seconds(text: str) -> float | None:
    """Return the seconds that a text such as ``1h30m`` stands for, None if it is no time."""
    match = _TIME.fullmatch(text) if len(text) < 100 else None
    if match is None:
        return None
    parts = zip(match.groups(), _UNITS, strict=True)
    return float(sum(int(number or 0) * unit for number, unit in parts))


def read_timeout(findings: Findings, path: Path, value: object) -> float | None:
    """Return the timeout in seconds, or None where there is none or it is no time."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None  # the schema says so
    number = seconds(value) if isinstance(value, str) else value
    if number is not None and 0 < number <= LONGEST:
        _check_number(findings, path, value)
        return float(number)
    message = f"`{str(value)[:60]}` is no time between 0 seconds and 366 days"
    hint = "write a time such as `90s`, `15m`, `2h`, `1h30m` or `1d`; without the key there is none"
    findings.error("bad-timeout", message, path, hint=hint)
    return None


def _check_number(findings: Findings, path: Path, value: str | float) -> None:
    raw = findings.document.raw(path) or ""
    if isinstance(value, str) or ":" not in raw:
        check_scalar(findings, path, value, "the seconds are", exact=False, kind="float")
        return
    message = f"YAML reads `{raw[:60]}` as a number; the seconds are `{value}`"
    findings.warning("yaml-value", message, path, hint="write a time such as `1h30m` or `1m30s`")


def read_retries(value: object) -> int:
    """Return how often to try again; 0 for what the schema refuses."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(value) if value in range(_MOST_RETRIES + 1) else 0


def read_sandbox(findings: Findings, path: Path, value: object) -> Sandbox | None:
    """Return the sandbox; None where there is none, or for what the schema refuses."""
    if not isinstance(value, dict):
        return Sandbox(required=value is True) if value is True or value == "auto" else None
    allow = []
    for where, item in items((*path, "allow"), value.get("allow")):
        if not isinstance(item, str):
            continue  # the schema says so
        allow.append(item)
        if not item.startswith(("/", "~/")) or not is_passable(item):
            message = f"`{item[:60]}` is no path that a sandbox can allow"
            hint = (
                "write an absolute path, or one that begins with `~/`; a file of the project "
                "belongs under `inputs`"
            )
            findings.error("bad-sandbox", message, where, hint=hint)
    return Sandbox(network=value.get("network") is not False, allow=tuple(allow))
