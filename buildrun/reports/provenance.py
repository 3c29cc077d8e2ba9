"""Provenance: an in-toto statement on a run's outputs, with SLSA's predicate.

What its fields mean for a run is told in docs/supply-chain.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from buildrun import __version__
from buildrun.console import Console, printable
from buildrun.errors import ProjectError, StoreError
from buildrun.reports.model import RunReport, StepReport
from buildrun.store import action_cache, cas, digest, listing, own_files
from buildrun.store.files import is_descriptor, open_regular, overwrite
from buildrun.store.home import Home
from buildrun.store.listing import Entry
from buildrun.store.manifest import Manifest

BUILD_TYPE = "urn:buildrun:run:v1"
BUILDER = "urn:buildrun:local:v1"

_STATEMENT = "https://in-toto.io/Statement/v1"
_CHUNK = 1 << 20


class Origin(NamedTuple):
    """What a run was of.

    uri: of the project, as the user named it. root: its directory. commit: of its repository, and
    url: of that, "" where they are not known; modified: files of it differ from the commit. lock:
    the path of the environment's lock, None where none was used.
    """

    uri: str
    root: str
    commit: str = ""
    url: str = ""
    modified: bool = False
    lock: str | None = None


def write(
    path: str, report: RunReport, find: Callable[[], Origin], home: Home, console: Console
) -> None:
    """Write the statement; where there can be none, say why, and leave none of an earlier run."""
    try:
        if report["status"] != "ok":
            raise StoreError(f"the run ended as `{report['status']}`")
        statement = _statement(report, find(), home)
        overwrite(path, (json.dumps(statement, indent=2) + "\n").encode())
        own_files.note(home, path)
    except (ProjectError, StoreError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        hint = None if isinstance(error, OSError) else error.hint
        console.warn(f"{printable(path)}: no provenance is written: {reason}", hint or "")
        remove_earlier(path)


def remove_earlier(path: str) -> None:
    """Remove a statement, so that nobody takes it for this run's; anything else stays."""
    if is_descriptor(path):
        return
    try:
        with open_regular(path) as file:
            is_statement = json.load(file)["_type"] == _STATEMENT
        if is_statement:
            os.unlink(path)
    except (OSError, ValueError, KeyError, TypeError):
        pass


def _statement(report: RunReport, origin: Origin, home: Home) -> dict[str, Any]:
    """Return the statement; raises StoreError where it would not be known to be true."""
    results = {step["id"]: _result(step, home) for step in report["steps"] if step["outputs"]}
    subjects: list[dict[str, Any]] = []
    inputs: dict[Entry, None] = {}
    for name, manifest in results.items():
        subjects += _subjects(name, manifest, origin.root, home)
        inputs.update(dict.fromkeys(_inputs(name, manifest, home)))
    if not subjects:
        raise StoreError("there is no file among the outputs")
    asked = report["steps"][-1]
    return {
        "_type": _STATEMENT,
        "subject": subjects,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "project": origin.uri,
                    "entryPoint": asked["entry_point"],
                    "parameters": asked["parameters"],
                },
                "internalParameters": {
                    "platform": asked["environment"]["platform"]
                    or f"{sys.platform}-{os.uname().machine}",
                    "steps": [_step(step, results.get(step["id"])) for step in report["steps"]],
                },
                "resolvedDependencies": [
                    *_source(origin),
                    *_images(report["steps"]),
                    *_lock(origin),
                    *(_input(entry, origin.root) for entry in inputs),
                ],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"buildrun": __version__}},
                "metadata": {
                    "invocationId": report["run_id"],
                    "startedOn": _time(report["started"]),
                    "finishedOn": _time(report["started"] + report["seconds"]),
                },
            },
        },
    }


def _result(step: StepReport, home: Home) -> Manifest:
    """Return what is kept of a step's result; raises StoreError."""
    key = step["key"]
    manifest = action_cache.load(home, key) if key else None
    if manifest is None:
        raise StoreError(
            f"the result of `{printable(step['id'])}` is not in the store, and so is not what it "
            "was made from",
            hint="where it was made just now, a warning says why; else run with `--force`",
        )
    return manifest


def _subjects(step: str, manifest: Manifest, root: str, home: Home) -> Iterator[dict[str, Any]]:
    """Yield the files of a result; raises StoreError unless they are in the project as recorded."""
    for entry in action_cache.outputs_of(home, manifest) or ():
        if not entry.is_file:
            continue
        digests = _digests(entry, root)
        if "sha256" not in digests:
            raise StoreError(
                f"`{printable(entry.path)}` is not what `{printable(step)}` has made",
                hint="run again",
            )
        yield {"name": _name(entry.path), "digest": digests}


def _inputs(step: str, manifest: Manifest, home: Home) -> Iterable[Entry]:
    data = cas.read(home, manifest.inputs)
    try:
        if data is not None:
            return [entry for entry in listing.decode(data) if entry.is_file]
    except ValueError:
        pass  # a result of others may name anything
    raise StoreError(
        f"the store has lost what `{printable(step)}` was made from", hint="run with `--force`"
    )


def _input(entry: Entry, root: str) -> dict[str, Any]:
    return {"name": _name(entry.path), "digest": _digests(entry, root)}


def _digests(entry: Entry, root: str) -> dict[str, str]:
    """Return the recorded digest of a file, and its SHA-256 where it is still that file."""
    recorded = {digest.ALGORITHM: entry.content.removeprefix(digest.PREFIX)}
    sha256, own = hashlib.sha256(), digest.new()
    try:
        with open_regular(os.path.join(root, entry.path.rstrip("/"))) as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
                own.update(chunk)
    except OSError:
        return recorded
    same = digest.text(own) == entry.content
    return {"sha256": sha256.hexdigest(), **recorded} if same else recorded


def _name(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _step(step: StepReport, manifest: Manifest | None) -> dict[str, Any]:
    """Return a step; made: by which run, for one that was not made in this."""
    made = {}
    if manifest is not None:
        run = manifest.details.get("run")
        made = {
            **({"invocationId": run} if isinstance(run, str) else {}),
            "finishedOn": _time(manifest.created),
            "version": {"buildrun": manifest.producer},
        }
    return {
        "id": step["id"],
        "entryPoint": step["entry_point"],
        "command": step["command"],
        "parameters": step["parameters"],
        "dependsOn": step["depends_on"],
        "backend": step["backend"],
        "environment": step["environment"],
        "image": step["image"],
        "state": step["state"],
        "key": step["key"],
        **({"made": made} if made else {}),
    }


def _source(origin: Origin) -> Iterator[dict[str, Any]]:
    if origin.commit:
        uri = {"uri": f"git+{origin.url}@{origin.commit}"} if "://" in origin.url else {}
        changed = {"annotations": {"modified": True}} if origin.modified else {}
        yield {"name": "source", **uri, "digest": {"gitCommit": origin.commit}, **changed}


def _images(steps: Iterable[StepReport]) -> Iterator[dict[str, Any]]:
    for image in dict.fromkeys(step["image"] for step in steps):
        if image is not None:
            name, kind, found = image.rpartition("sha256:")
            uri = {"uri": f"docker://{image}"} if name or not kind else {}
            yield {"name": "image", **uri, **({"digest": {"sha256": found}} if kind else {})}


def _lock(origin: Origin) -> Iterator[Mapping[str, Any]]:
    if origin.lock is not None:
        with open_regular(origin.lock) as file:
            found = hashlib.sha256(file.read()).hexdigest()
        name = os.path.relpath(origin.lock, origin.root)
        yield {"name": _name(name), "digest": {"sha256": found}}


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
