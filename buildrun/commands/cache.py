"""``buildrun cache``: what the store holds, and what to take out of it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from buildrun.commands import table
from buildrun.console import Console, printable, size
from buildrun.environments import gc as collection
from buildrun.environments.gc import CacheEntry as Environment
from buildrun.environments.images import gc as images
from buildrun.environments.images.engine import Engine
from buildrun.errors import BuildrunError, UsageError
from buildrun.sources import gc as sources
from buildrun.store import fsck, home, memo, runs
from buildrun.store import gc as collect

if TYPE_CHECKING:
    from buildrun.environments.images.gc import CacheEntry as Image
    from buildrun.store.gc import CacheEntry as Result

# What is kept where nothing else is asked for.
_MAX_AGE, _MAX_SIZE = "30d", "20G"
# Records of what was computed are short, and written again when they are needed.
_RECORDS = 30 * 86400.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class _Kept(NamedTuple):
    """A part of the store, or all of it."""

    environments: Sequence[Environment]
    results: Sequence[Result]
    images: Sequence[Image]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    verbs = parser.add_subparsers(dest="verb", metavar="info|ls|gc|verify|clear", required=True)
    for name, text in (
        ("info", "where the store is and how much it holds"),
        ("ls", "every environment, image and result: size, last use, what it is of"),
        ("gc", "remove what is old, or more than a size; nothing that is in use"),
        ("verify", "check everything; what is damaged is made anew when next needed"),
        ("clear", "remove every environment and image that is not in use, and every result"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--format", choices=("text", "json"), default="text")
        if name == "gc":
            default = f"default, without --max-size: {_MAX_AGE}"
            verb.add_argument(
                "--max-age", metavar="AGE", help=f"such as 30d or 12h since last use; {default}"
            )
            default = f"default, without --max-age: {_MAX_SIZE}"
            verb.add_argument(
                "--max-size", metavar="SIZE", help=f"such as 20G, oldest use goes first; {default}"
            )
            verb.add_argument("--dry-run", action="store_true", help="say what would go")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:  # noqa: ARG001
    """Do one of the subcommands; `verify` returns 1 where something is damaged."""
    store = home.locate(environ)
    if arguments.verb == "info":
        return _info(store, arguments.format, environ)
    if arguments.verb == "ls":
        return _write(_survey(store, environ), arguments.format, environ)
    if arguments.verb == "verify":
        return _verify(store, arguments.format, environ)
    if arguments.verb == "clear":
        memo.prune(memo.Memo(store.memo), 0)
        sources.prune(store, 0)
        gone = _remove(store, _survey(store, environ), arguments.format, environ)
        collect.collect_garbage(store, everything=True)
        return gone
    return _collect(store, arguments, environ)


def _collect(store: home.Home, arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    chosen_age, chosen_size = arguments.max_age, arguments.max_size
    if chosen_age is None and chosen_size is None:
        chosen_age, chosen_size = _MAX_AGE, _MAX_SIZE
    max_age, kept = _duration(chosen_age), _survey(store, environ)
    items: list[Environment | Result | Image] = [*kept.environments, *kept.results, *kept.images]
    chosen = collect.select_expired(
        items,
        now=time.time(),
        max_age=max_age,
        max_size=_amount(chosen_size),
    )
    part = _Kept(
        [item for item in chosen if isinstance(item, Environment)],
        [item for item in chosen if isinstance(item, collect.CacheEntry)],
        [item for item in chosen if isinstance(item, images.CacheEntry)],
    )
    if arguments.dry_run:
        return _write(part, arguments.format, environ)
    memo.prune(memo.Memo(store.memo), _RECORDS)
    if max_age is not None:
        _prune_runs(store.runs, max_age)
        sources.prune(store, max_age)
    code = _remove(store, part, arguments.format, environ)
    collect.collect_garbage(store)
    return code


def _prune_runs(directory: str, max_age: float) -> None:
    """Remove the records and logs of runs that ended longer ago."""
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        path, record = os.path.join(directory, name), runs.load(directory, name)
        if record is not None and record.status == "running":
            continue
        try:
            ended = record.started + (record.seconds or 0) if record else os.stat(path).st_mtime
        except OSError:
            continue
        if time.time() - ended > max_age:
            shutil.rmtree(path, ignore_errors=True)


def _survey(store: home.Home, environ: Mapping[str, str]) -> _Kept:
    made = images.list_entries(store, Engine(environ))
    return _Kept(collection.list_entries(store), collect.list_entries(store), made)


def _info(store: home.Home, form: str, environ: Mapping[str, str]) -> int:
    kept = collection.list_entries(store)
    total = sum(item.bytes for item in kept)
    count, taken = collect.total(store)
    made = images.list_entries(store, Engine(environ))
    layers = sum(item.bytes for item in made)
    fetched = sources.list_entries(store)
    if form == "json":
        value = {
            "version": 1,
            "root": store.root,
            "environments": {"count": len(kept), "bytes": total},
            "results": {"count": count, "bytes": taken},
            "images": {"count": len(made), "bytes": layers},
            "sources": {"count": len(fetched), "bytes": sum(item.bytes for item in fetched)},
        }
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    else:
        sys.stdout.write(
            f"{store.root}\nenvironments: {len(kept)}, {size(total)}\n"
            f"results: {count}, {size(taken)}\n"
            f"images: {len(made)}, {size(layers)} beside their bases\n"
            f"sources: {len(fetched)}, {size(sum(item.bytes for item in fetched))}\n"
        )
    return 0


def _write(kept: _Kept, form: str, environ: Mapping[str, str]) -> int:
    if form == "json":
        value = {
            "version": 1,
            "environments": [item._asdict() for item in kept.environments],
            "results": [_row(item) for item in kept.results],
            "images": [item._asdict() for item in kept.images],
        }
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return 0
    for item in kept.environments:
        state = "" if item.complete else "  (half made)"
        projects = ", ".join(item.projects) or "-"
        _write_row(item.name, item.manager or "-", item, projects + state, environ)
    for image in kept.images:
        state = "" if image.complete else "  (half made)"
        _write_row(image.key[7:31], "image", image, (image.reference or "-") + state, environ)
    for result in kept.results:
        step = f"{printable(result.project)}: {printable(result.step)}"
        what = step if result.complete else "-  (damaged)"
        _write_row(result.key.rpartition(":")[2][:24], "result", result, what, environ)
    return 0


def _write_row(
    name: str, kind: str, item: Environment | Image | Result, what: str, environ: Mapping[str, str]
) -> None:
    cells = (name, f"{kind:<10}", f"{size(item.bytes):>9}", _when(item.used), what)
    table.write(cells, environ)


def _row(item: Result) -> dict[str, object]:
    names = ("key", "project", "step", "entry_point", "bytes", "created", "used")
    return {name: getattr(item, name) for name in names}


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _remove(store: home.Home, chosen: _Kept, form: str, environ: Mapping[str, str]) -> int:
    console = Console(environ)
    environments = []
    for item in chosen.environments:
        if collection.remove(item):
            environments.append(item)
        else:
            console.warn(f"{item.name} is in use and was kept")
    made = _remove_images(store, chosen.images, console, Engine(environ))
    gone = _Kept(environments, collect.remove(chosen.results), made)
    _write(gone, form, environ)
    total = sum(item.cost for kind in gone for item in kind)
    counts = [_environments(len(gone.environments)), _results(len(gone.results))]
    if chosen.images:
        counts.append(_images(len(made)))
    console.note(f"removed {', '.join(counts[:-1])} and {counts[-1]}, {size(total)}")
    return 0


def _remove_images(
    store: home.Home, chosen: Sequence[Image], console: Console, engine: Engine
) -> list[Image]:
    gone = []
    for item in chosen:
        name = item.reference or item.key[7:31]
        try:
            if images.remove(store, engine, item):
                gone.append(item)
            else:
                console.warn(f"{name} is in use and was kept")
        except BuildrunError as error:
            console.warn(f"{name} was kept: {error.message}", error.hint or "")
    return gone


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _environments(count: int) -> str:
    return "1 environment" if count == 1 else f"{count} environments"


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"


def _verify(store: home.Home, form: str, environ: Mapping[str, str]) -> int:
    environments, results = collection.verify(store), fsck.verify(store)
    made = images.list_entries(store, Engine(environ))
    results += [fsck.Finding(*each) for each in images.verify(store)]
    damaged = [*environments, *results]
    if form == "json":
        rows = [{"name": name, "reason": reason} for name, reason in damaged]
        sys.stdout.write(json.dumps({"version": 1, "damaged": rows}, indent=2) + "\n")
    else:
        for name, reason in environments:
            sys.stdout.write(f"{name}: {reason}; it is built anew when next needed\n")
        for name, reason in results:
            sys.stdout.write(f"{name}: {printable(reason)}; it is made anew when next needed\n")
        counts = (
            f"{_environments(len(collection.list_entries(store)))} and "
            f"{_results(collect.total(store)[0])}"
            f"{f' and {_images(len(made))}' if made else ''}"
        )
        sys.stdout.write(f"{counts} checked, {len(damaged) or 'none'} damaged\n")
    return 1 if damaged else 0


def _duration(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise UsageError(f"`{text}` is not an age", hint="give a number and s, m, h, d or w")
    return float(match.group(1)) * _UNITS[match.group(2)]


def _amount(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise UsageError(f"`{text}` is not a size", hint="give a number and k, M, G or T")
    return int(float(match.group(1)) * _SIZES[match.group(2)])
