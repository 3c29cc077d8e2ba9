"""Calls of the process that works with rattler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from buildrun.console import Console
from buildrun.environments import condarc, failures
from buildrun.environments.base import EnvironmentRequest
from buildrun.environments.condarc import Channel, Settings
from buildrun.project.model import CondaEnv
from buildrun.store import home
from buildrun.store.memo import DependencyTracker

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from buildrun.environments.rattler_worker import main; main()"
)
_KEPT_LINES = 12


class Sources(NamedTuple):
    """Where packages come from: the channels, and how conda was told to reach them."""

    channels: Sequence[Channel]
    settings: Settings


def sources(declared: CondaEnv, reader: DependencyTracker) -> Sources:
    """Return the channels of the file, of the user's settings and of ``channel::package`` specs.

    As conda has it, a channel that only a spec names is used after the others.
    """
    settings = condarc.read(reader)
    found = condarc.resolve(declared.channels, declared.path, settings, reader)
    for text in declared.dependencies:
        name, separator, _ = text.partition("::")
        if separator:
            found += condarc.expand(name, declared.path, settings, reader)
    return Sources(tuple({item.address: item for item in found}.values()), settings)


def call(
    request: EnvironmentRequest,
    declared: CondaEnv,
    used: Sources,
    console: Console,
    lock: int,
    **fields: Any,
) -> Sequence[Mapping[str, Any]]:
    """Return the records of what was solved or installed.

    lock: a descriptor that the process inherits; it ends with all that it started when this
    process does, and the lock is held until then. fields: action, prefix, platform,
    virtual_packages and records, see ``rattler_worker``; place where that is not the prefix.
    Raises EnvironmentFailure with rattler's reason.
    """
    if find_spec("rattler") is None:
        raise failures.missing_rattler(declared.path)
    # RATTLER_CACHE_DIR is shared with other programs that use rattler.
    shared = request.environ.get("RATTLER_CACHE_DIR")
    root = shared or os.path.join(home.locate(request.environ).root, "conda")
    reader = DependencyTracker(request.environ)
    order = {
        "packages": os.path.join(root, "pkgs"),
        "repodata": os.path.join(root, "repodata"),
        "channels": [channel.address for channel in used.channels],
        "specs": [_spec(text, declared, used, reader) for text in declared.dependencies],
        "priority": used.settings.priority,
        "verify": used.settings.verify is not False,
        "offline": request.offline,
        "needs_python": bool(declared.pip),
        "live": console.live,
        "place": None,
        **fields,
    }
    end = _converse(order, _connection(request.environ, used.settings), console, lock)
    if end["event"] == "failure":
        raise failures.of_conda(end["kind"], end["reason"], declared, "rattler")
    records: Sequence[Mapping[str, Any]] = end["records"]
    return records


def _spec(text: str, declared: CondaEnv, used: Sources, reader: DependencyTracker) -> str:
    name, separator, rest = text.partition("::")
    if not separator:
        return text
    (first, *_) = condarc.expand(name, declared.path, used.settings, reader)
    return f"{first.address}::{rest.strip()}"


def _connection(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the caller's variables, with what conda was told of certificates and proxies."""
    found = dict(environ)
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    own = settings.verify if isinstance(settings.verify, str) else ""
    if path := next(filter(None, (own, *(environ.get(name) for name in names))), ""):
        found["SSL_CERT_FILE"] = path
    for scheme, proxy in settings.proxies.items():
        found.setdefault(f"{scheme.upper()}_PROXY", proxy)
    return found


def _converse(
    order: Mapping[str, Any], environ: Mapping[str, str], console: Console, lock: int
) -> Mapping[str, Any]:
    """Run the process to its end, and return its last event, a failure if it came to none."""
    import_path = [path for path in sys.path if os.path.isabs(path)]
    process = subprocess.Popen(
        # Isolated from the caller's Python variables and directory, with our own import path.
        (sys.executable, "-I", "-c", _START, json.dumps(import_path)),
        cwd=os.path.dirname(order["prefix"]),
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,) if lock >= 0 else (),
        # A group of its own, so that the scripts of packages can be ended with it.
        start_new_session=True,
    )
    try:
        end, said = _follow(process, order, console)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        console.done()
    ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    reason = said or f"rattler's process ended with {ending}"
    return end or {"event": "failure", "kind": "crash", "reason": reason}


def _follow(
    process: subprocess.Popen[bytes], order: Mapping[str, Any], console: Console
) -> tuple[Mapping[str, Any] | None, str]:
    """Return the last event, if the process came to one, and the end of what else was said."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    said: list[str] = []
    end: Mapping[str, Any] | None = None
    try:
        # Kept open: its closing is how the process learns of our end.
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it says why, or how it ended does
    for line in process.stdout:
        if not line.startswith(b'{"event"'):
            said = [*said, line.decode(errors="replace").rstrip()][-_KEPT_LINES:]
            continue
        event = json.loads(line)
        if event["event"] == "note":
            console.note(console.style(event["text"], "dim"))
        elif event["event"] == "progress":
            console.progress(event["text"])
        else:
            end = event
    return end, "\n".join(said)
