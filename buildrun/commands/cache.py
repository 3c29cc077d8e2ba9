"""``buildrun cache``: what the store holds, and what to take out of it."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence

from buildrun import home, memo
from buildrun.console import Console, size
from buildrun.environments import collection
from buildrun.environments.collection import Kept
from buildrun.errors import UsageError

# Records of what was computed are short, and written again when they are needed.
_RECORDS = 30 * 86400.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    verbs = parser.add_subparsers(dest="verb", metavar="info|ls|gc|verify|clear", required=True)
    for name, text in (
        ("info", "where the store is and how much it holds"),
        ("ls", "every environment: size, last use, the project it was built for"),
        ("gc", "remove what is old, or more than a size; nothing that is in use"),
        ("verify", "check every environment; damaged ones are built anew when next needed"),
        ("clear", "remove every environment that is not in use"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--format", choices=("text", "json"), default="text")
        if name == "gc":
            verb.add_argument("--max-age", metavar="AGE", help="such as 30d or 12h since last use")
            verb.add_argument("--max-size", metavar="SIZE", help="such as 20G, oldest go first")
            verb.add_argument("--dry-run", action="store_true", help="say what would go")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:  # noqa: ARG001
    """Do one of the subcommands; `verify` returns 1 where something is damaged."""
    store = home.locate(environ)
    if arguments.verb == "info":
        return _info(store, arguments.format)
    if arguments.verb == "ls":
        return _write(collection.survey(store), arguments.format)
    if arguments.verb == "verify":
        return _verify(store, arguments.format)
    if arguments.verb == "clear":
        memo.prune(memo.Memory(store.memory), 0)
        return _remove(collection.survey(store), arguments.format, Console(environ))
    chosen = collection.expendable(
        collection.survey(store),
        now=time.time(),
        max_age=_duration(arguments.max_age or ("30d" if arguments.max_size is None else None)),
        max_size=_amount(arguments.max_size),
    )
    if arguments.dry_run:
        return _write(chosen, arguments.format)
    memo.prune(memo.Memory(store.memory), _RECORDS)
    return _remove(chosen, arguments.format, Console(environ))


def _info(store: home.Home, form: str) -> int:
    kept = collection.survey(store)
    total = sum(item.bytes for item in kept)
    if form == "json":
        value = {
            "version": 1,
            "root": store.root,
            "environments": {"count": len(kept), "bytes": total},
        }
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    else:
        sys.stdout.write(f"{store.root}\nenvironments: {len(kept)}, {size(total)}\n")
    return 0


def _write(kept: Sequence[Kept], form: str) -> int:
    if form == "json":
        rows = [item._asdict() for item in kept]
        sys.stdout.write(json.dumps({"version": 1, "environments": rows}, indent=2) + "\n")
        return 0
    for item in kept:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.used))
        state = "" if item.complete else "  (half made)"
        projects = ", ".join(item.projects) or "-"
        sys.stdout.write(
            f"{item.name}  {item.manager or '-':<10}  {size(item.bytes):>9}  {used}  "
            f"{projects}{state}\n"
        )
    return 0


def _remove(chosen: Sequence[Kept], form: str, console: Console) -> int:
    gone = []
    for item in chosen:
        if collection.remove(item):
            gone.append(item)
        else:
            console.warn(f"{item.name} is in use and was kept")
    _write(gone, form)
    total = sum(item.bytes for item in gone)
    console.note(f"removed {_environments(len(gone))}, {size(total)}")
    return 0


def _environments(count: int) -> str:
    return "1 environment" if count == 1 else f"{count} environments"


def _verify(store: home.Home, form: str) -> int:
    damaged = collection.verify(store)
    if form == "json":
        rows = [{"name": name, "reason": reason} for name, reason in damaged]
        sys.stdout.write(json.dumps({"version": 1, "damaged": rows}, indent=2) + "\n")
    else:
        for name, reason in damaged:
            sys.stdout.write(f"{name}: {reason}; it is built anew when next needed\n")
        count = len(collection.survey(store))
        sys.stdout.write(f"{_environments(count)} checked, {len(damaged) or 'none'} damaged\n")
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
