"""``buildrun cache``: what the store holds, and what to take out of it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from buildrun.commands import table
from buildrun.console import Console, counted, printable, size
from buildrun.environments import gc as environments
from buildrun.environments.images import gc as images
from buildrun.environments.images.engine import Engine
from buildrun.errors import BuildrunError, StoreError, UsageError
from buildrun.sources import gc as sources
from buildrun.store import fsck, home, memo, runs
from buildrun.store import gc as results
from buildrun.store.files import names_in
from buildrun.store.gc import CacheEntry

# What is kept where nothing else is asked for.
_MAX_AGE, _MAX_SIZE = "30d", "20G"
# Records of what was computed are short, and written again when they are needed.
_RECORDS = 30 * 86400.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class _Kind(NamedTuple):
    """A kind of entries; remove: returns False where one is in use."""

    name: str
    entries: Callable[[], list[CacheEntry]]
    remove: Callable[[CacheEntry], bool]


_Entries = Sequence[tuple[_Kind, Sequence[CacheEntry]]]


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
    verb, form = arguments.verb, arguments.format
    if verb == "info":
        return _info(store, form, environ)
    if verb == "verify":
        return _verify(store, form, environ)
    if verb == "gc":
        return _collect(store, arguments, environ)
    kinds = _kinds(store, environ)
    if verb == "ls":
        return _write([(kind, kind.entries()) for kind in kinds], form, environ)
    memo.prune(memo.Memo(store.memo), 0)
    sources.prune(store, 0)
    _remove([(kind, kind.entries()) for kind in kinds], form, environ)
    results.collect_garbage(store, everything=True)
    return 0


def _kinds(store: home.Home, environ: Mapping[str, str]) -> tuple[_Kind, ...]:
    engine = Engine(environ)
    return (
        _Kind("environment", partial(environments.list_entries, store), environments.remove),
        _Kind("result", partial(results.list_entries, store), results.remove),
        _Kind(
            "image",
            partial(images.list_entries, store, engine),
            partial(images.remove, store, engine),
        ),
    )


def _collect(store: home.Home, arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    chosen_age, chosen_size = arguments.max_age, arguments.max_size
    if chosen_age is None and chosen_size is None:
        chosen_age, chosen_size = _MAX_AGE, _MAX_SIZE
    max_age, max_size, kinds = _duration(chosen_age), _amount(chosen_size), _kinds(store, environ)
    items = [item for kind in kinds for item in kind.entries()]
    expired = results.select_expired(items, now=time.time(), max_age=max_age, max_size=max_size)
    chosen = [(kind, [item for item in expired if item.kind == kind.name]) for kind in kinds]
    if arguments.dry_run:
        return _write(chosen, arguments.format, environ)
    memo.prune(memo.Memo(store.memo), _RECORDS)
    if max_age is not None:
        _prune_runs(store.runs, max_age)
        sources.prune(store, max_age)
    _remove(chosen, arguments.format, environ)
    results.collect_garbage(store)
    return 0


def _prune_runs(directory: str, max_age: float) -> None:
    """Remove the records and logs of runs that ended longer ago."""
    for name in names_in(directory):
        path, record = os.path.join(directory, name), runs.load(directory, name)
        if record is not None and record.status == "running":
            continue
        try:
            ended = record.started + (record.seconds or 0) if record else os.stat(path).st_mtime
        except OSError:
            continue
        if time.time() - ended > max_age:
            shutil.rmtree(path, ignore_errors=True)


def _info(store: home.Home, form: str, environ: Mapping[str, str]) -> int:
    counts = {}
    for kind in _kinds(store, environ):
        # The results need not be read for that, and what they share counts once.
        counts[f"{kind.name}s"] = (
            results.total(store) if kind.name == "result" else _total(kind.entries())
        )
    counts["sources"] = _total(sources.list_entries(store))
    if form == "json":
        value = {"version": 1, "root": store.root}
        value |= {name: {"count": count, "bytes": taken} for name, (count, taken) in counts.items()}
        table.write_json(value)
        return 0
    lines = [store.root]
    for name, (count, taken) in counts.items():
        more = " beside their bases" if name == "images" else ""
        lines.append(f"{name}: {count}, {size(taken)}{more}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _total(entries: Sequence[CacheEntry]) -> tuple[int, int]:
    return len(entries), sum(item.bytes for item in entries)


def _write(kept: _Entries, form: str, environ: Mapping[str, str]) -> int:
    if form == "json":
        value: dict[str, Any] = {"version": 1}
        value |= {f"{kind.name}s": [item.row for item in items] for kind, items in kept}
        table.write_json(value)
        return 0
    # An image is seen before the results that were made in it.
    for _, items in sorted(kept, key=lambda each: each[0].name):
        for item in items:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
            cells = (item.name, f"{item.label:<10}", f"{size(item.bytes):>9}", used, item.about)
            table.write(cells, environ)
    return 0


def _remove(chosen: _Entries, form: str, environ: Mapping[str, str]) -> None:
    """Remove entries, and tell which are gone; raises StoreError for one that is only read."""
    console = Console(environ)
    gone = [
        (kind, [item for item in items if _is_removed(kind, item, console)])
        for kind, items in chosen
    ]
    _write(gone, form, environ)
    total = sum(item.cost for _, items in gone for item in items)
    counts = [
        counted(len(left), kind.name)
        for (kind, left), (_, items) in zip(gone, chosen, strict=True)
        if items or kind.name != "image"
    ]
    console.note(f"removed {', '.join(counts[:-1])} and {counts[-1]}, {size(total)}")


def _is_removed(kind: _Kind, item: CacheEntry, console: Console) -> bool:
    name = item.row.get("reference") or item.name
    try:
        if kind.remove(item):
            return True
        console.warn(f"{name} is in use and was kept")
    except StoreError:
        raise
    except BuildrunError as error:  # the engine does not answer, or refuses
        console.warn(f"{name} was kept: {error.message}", error.hint or "")
    return False


def _verify(store: home.Home, form: str, environ: Mapping[str, str]) -> int:
    built, made = environments.verify(store), fsck.verify(store)
    there = images.list_entries(store, Engine(environ))
    made += images.verify(store)
    damaged = [*built, *made]
    if form == "json":
        rows = [{"name": name, "reason": reason} for name, reason in damaged]
        table.write_json({"version": 1, "damaged": rows})
    else:
        for name, reason in built:
            sys.stdout.write(f"{name}: {reason}; it is built anew when next needed\n")
        for name, reason in made:
            sys.stdout.write(f"{name}: {printable(reason)}; it is made anew when next needed\n")
        counts = [
            counted(len(environments.list_entries(store)), "environment"),
            counted(results.total(store)[0], "result"),
            *([counted(len(there), "image")] if there else ()),
        ]
        sys.stdout.write(f"{' and '.join(counts)} checked, {len(damaged) or 'none'} damaged\n")
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
