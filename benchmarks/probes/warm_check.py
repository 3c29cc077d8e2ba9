"""Prints the wall and processor time of one check of the environment of `buildrun .` here.

``long``: the identity of the environment from its record, then the environment itself.
``short``: the record of the whole command line, then the environment itself.
Imports are part of neither.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from buildrun.environments import base, prefix
from buildrun.environments.base import EnvironmentRequest, identify
from buildrun.planning.plan_cache import PlanCache
from buildrun.project.read import read_project
from buildrun.store import home, memo


def main() -> None:
    """Check once, and print the times."""
    check = {"long": _long, "short": _short}[sys.argv[1]](os.getcwd())
    cpu, started = time.process_time(), time.perf_counter()
    ready = check()
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    if not ready:
        sys.exit("the environment is not ready, so nothing was measured")
    print(json.dumps([seconds, used]))


def _long(cwd: str) -> Callable[[], bool]:
    store = home.locate(os.environ)
    spec = read_project(cwd, memo.DependencyTracker(os.environ)).spec
    if spec is None:
        sys.exit("the project cannot be read")
    name = base.choose(spec.environment, None)
    manager = base.load(name)
    request = EnvironmentRequest(spec, name, os.environ, memo.Memo(store.memo, write=False))

    def check() -> bool:
        key = identify(manager, request).key
        return prefix.acquire(prefix.prefix_of(store, key), key, cwd) is not None

    return check


def _short(cwd: str) -> Callable[[], bool]:
    store, cache = home.locate(os.environ), PlanCache(["."], os.environ, cwd)

    def check() -> bool:
        value = cache.lookup(temporary=False)
        if value is None:
            return False
        key = value["environment"]["key"]
        return prefix.acquire(prefix.prefix_of(store, key), key, cwd) is not None

    return check


if __name__ == "__main__":
    main()
