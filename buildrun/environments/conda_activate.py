"""What activating a conda environment sets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from buildrun.errors import EnvironmentFailure
from buildrun.store import files
from buildrun.store.files import publish

FILE = ".buildrun-activation.json"

# Sources scripts, by their paths, with some variables and no others; returns what is set then.
Source = Callable[[Sequence[str], Mapping[str, str]], dict[str, str]]

_LIMIT = 120.0  # seconds
# Stands for the caller's value while the scripts run.
_CALLER = "/buildrun/value/of/the/caller"
RUN = 'for script in "$@"; do . "$script"; done >&2; exec env -0'
# What bash itself sets, and what is the caller's business.
_IGNORED = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "HOME", "TMPDIR", "LANG", "LC_ALL", "USER"})


def activate(prefix: str, environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return what ``conda activate`` would set (a text) or remove (None), scripts included."""
    return apply(_load(prefix), prefix, environ)


def record(prefix: str, variables: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Find out what activation sets and keep it in the prefix.

    variables: those of the project's file. environ: the caller's, for where to find bash.
    Raises EnvironmentFailure for a script that does not end, OSError where it cannot be written.
    """
    bash = shutil.which("bash", path=environ.get("PATH"))
    changes = learn(prefix, prefix, variables, partial(_source, bash) if bash else None)
    publish(os.path.join(prefix, FILE), json.dumps({"version": 1, "changes": changes}).encode())


def learn(
    prefix: str, place: str, variables: Mapping[str, str], source: Source | None
) -> dict[str, str | None]:
    """Return what activation sets or removes, for ``apply``.

    place: where the prefix is for the scripts. source: runs them; None where nothing can.
    """
    fixed = {**_declared_by_packages(prefix), **variables}
    changes: dict[str, str | None] = dict(fixed)
    found = scripts(prefix)
    if found and source is not None:
        changes.update(_learn(source, found, place, fixed))
    return changes


def apply(
    changes: Mapping[str, str | None], place: str, environ: Mapping[str, str]
) -> dict[str, str | None]:
    """Return what activation sets or removes for a caller, from what was learnt of it.

    place: where the prefix is. environ: the caller's variables.
    """
    found: dict[str, str | None] = {
        **_basic(place),
        "PATH": f"{os.path.join(place, 'bin')}{os.pathsep}{_CALLER}",
        **changes,
    }
    for name, value in found.items():
        if value is not None and _CALLER in value:
            default = os.defpath if name == "PATH" else ""
            found[name] = value.replace(_CALLER, environ.get(name, default))
    return found


def _basic(prefix: str) -> dict[str, str | None]:
    return {
        "CONDA_PREFIX": prefix,
        "CONDA_DEFAULT_ENV": prefix,
        "CONDA_SHLVL": "1",
        "VIRTUAL_ENV": None,
        "PYTHONHOME": None,
    }


def _load(prefix: str) -> dict[str, str | None]:
    try:
        with open(os.path.join(prefix, FILE), "rb") as file:
            changes: dict[str, str | None] = json.loads(file.read())["changes"]
            return changes
    except (OSError, ValueError, KeyError):
        return {}  # not built yet, or damaged: the marker tells


def _declared_by_packages(prefix: str) -> dict[str, str]:
    folder = os.path.join(prefix, "etc", "conda", "env_vars.d")
    found: dict[str, str] = {}
    for name in (each for each in files.names_in(folder) if each.endswith(".json")):
        try:
            value: Any = json.loads(files.read(os.path.join(folder, name)))
        except (OSError, ValueError):
            continue  # conda, too, passes over what it cannot read
        if isinstance(value, dict):
            found.update({str(key): str(item) for key, item in value.items()})
    return found


def scripts(prefix: str) -> list[str]:
    """Return the paths of the scripts that activation runs."""
    folder = os.path.join(prefix, "etc", "conda", "activate.d")
    return [os.path.join(folder, name) for name in files.names_in(folder) if name.endswith(".sh")]


def _learn(
    source: Source, scripts: Sequence[str], prefix: str, fixed: Mapping[str, str]
) -> dict[str, str | None]:
    """Return what the scripts change, with ``_CALLER`` where the caller's value belongs."""
    before = _clean(prefix, fixed)
    first = _difference(before, source(scripts, before))
    # Again, for those that they changed: what do they do with a value that is there already?
    names = [name for name in first if name not in before]
    marked = {**before, **dict.fromkeys(names, _CALLER)}
    second = source(scripts, marked)
    for name in names:
        value = second.get(name)
        if value is not None and value != _CALLER and _CALLER in value:
            first[name] = value
        elif value is None:
            first[name] = None
    first.update(dict.fromkeys(_removed(source, scripts, before)))
    return first


def _removed(source: Source, scripts: Sequence[str], before: Mapping[str, str]) -> list[str]:
    """Return the variables that the scripts unset, among those that they name."""
    import re

    named: set[str] = set()
    for path in scripts:
        with open(path, encoding="utf-8", errors="replace") as file:
            named.update(re.findall(r"\bunset\s+(?:-v\s+)?([A-Za-z_]\w*)", file.read()))
    unknown = {name: _CALLER for name in named if name not in before}
    if not unknown:
        return []
    after = source(scripts, {**before, **unknown})
    return [name for name in unknown if name not in after]


def _clean(prefix: str, fixed: Mapping[str, str]) -> dict[str, str]:
    basic = {name: value for name, value in _basic(prefix).items() if value is not None}
    search = os.pathsep.join((os.path.join(prefix, "bin"), os.defpath.lstrip(":"), _CALLER))
    return {"HOME": os.path.expanduser("~"), "PATH": search, **basic, **fixed}


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    changed: dict[str, str | None] = {
        name: value
        for name, value in after.items()
        if name not in _IGNORED and not name.startswith("BASH") and before.get(name) != value
    }
    changed.update({name: None for name in before if name not in after and name not in _IGNORED})
    if changed.get("PATH"):
        # The directories of our own clean search path are not the caller's.
        ours = f"{os.defpath.lstrip(':')}{os.pathsep}"
        changed["PATH"] = str(changed["PATH"]).replace(ours, "")
    return changed


def _source(bash: str, scripts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    try:
        done = subprocess.run(
            (bash, "--noprofile", "--norc", "-c", RUN, "bash", *scripts),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailure(
            f"an activation script does not end within {_LIMIT:.0f} s",
            place=os.path.dirname(scripts[0]),
            hint="choose another version of the package that brings it",
        ) from None
    return listed(done.stdout) if done.returncode == 0 else dict(environ)


def listed(output: bytes) -> dict[str, str]:
    """Return the variables that `RUN` has written."""
    pairs = (item.partition("=") for item in output.decode(errors="replace").split("\0"))
    return {name: value for name, equals, value in pairs if equals}
