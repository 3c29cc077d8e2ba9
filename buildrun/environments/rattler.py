"""Calls of the process that works with rattler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.environments import condarc, failures
from buildrun.environments.condarc import Channel, Settings
from buildrun.environments.rattler_cache import Entry
from buildrun.store import home

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest
    from buildrun.project.model import CondaEnv
    from buildrun.store.memo import DependencyTracker

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from buildrun.environments.rattler_worker import main; main()"
)
_KEPT_LINES = 12


class _Failure(Exception):
    """rattler could not do it; ``kind`` is for a remedy, ``reason`` its own words."""

    def __init__(self, kind: str, reason: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def call(
    order: Mapping[str, Any],
    declared: CondaEnv,
    settings: Settings,
    request: EnvironmentRequest,
    console: Console,
    lock: int,
) -> Sequence[Mapping[str, Any]]:
    """Return the records of what was solved or installed.

    order: see ``conda_order``. lock: a descriptor that the process inherits; it ends with all that
    it started when this process does, and the lock is held until then.
    Raises EnvironmentFailure with rattler's reason.
    """
    if find_spec("rattler") is None:
        raise failures.missing_rattler(declared.path)
    environ = connection(request.environ, settings)
    try:
        return _perform(order, environ, console, lock)
    except _Failure as failure:
        raise failures.of_conda(failure.kind, failure.reason, declared, "rattler") from None


def _perform(
    order: Mapping[str, Any], environ: Mapping[str, str], console: Console, lock: int
) -> Sequence[Mapping[str, Any]]:
    process = subprocess.Popen(
        # Isolated from the caller's Python variables and directory, with our own import path.
        (sys.executable, "-I", "-c", _START, json.dumps(_import_path())),
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
        end, said = _converse(process, order, console)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        console.done()
    if end is None:
        raise _Failure("crash", said or f"rattler's process ended with {_ending(code)}")
    if end["event"] == "failure":
        raise _Failure(end["kind"], end["reason"])
    records: Sequence[Mapping[str, Any]] = end["records"]
    return records


def _converse(
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


def _import_path() -> list[str]:
    return [path for path in sys.path if os.path.isabs(path)]


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


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


def solve_request(
    request: EnvironmentRequest,
    declared: CondaEnv,
    used: Sources,
    reader: DependencyTracker,
    **fields: Any,
) -> dict[str, Any]:
    """Return an order; see ``rattler_worker`` for its fields.

    fields: those that differ: action, prefix, platform, virtual_packages, records, live; place
    where that is not the prefix.
    """
    # RATTLER_CACHE_DIR is shared with other programs that use rattler.
    shared = request.environ.get("RATTLER_CACHE_DIR")
    root = shared or os.path.join(home.locate(request.environ).root, "conda")
    return {
        "packages": os.path.join(root, "pkgs"),
        "repodata": os.path.join(root, "repodata"),
        "channels": [channel.address for channel in used.channels],
        "specs": [_spec(text, declared, used, reader) for text in declared.dependencies],
        "priority": used.settings.priority,
        "verify": used.settings.verify is not False,
        "offline": request.offline,
        "needs_python": bool(declared.pip),
        "place": None,
        **fields,
    }


def connection(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the caller's variables, with what conda was told of certificates and proxies."""
    found = dict(environ)
    certificates = (
        settings.verify if isinstance(settings.verify, str) else "",
        environ.get("SSL_CERT_FILE", ""),
        environ.get("REQUESTS_CA_BUNDLE", ""),
        environ.get("CURL_CA_BUNDLE", ""),
    )
    if path := next((path for path in certificates if path), ""):
        found["SSL_CERT_FILE"] = path
    for scheme, proxy in settings.proxies.items():
        found.setdefault(f"{scheme.upper()}_PROXY", proxy)
    return found


def _spec(text: str, declared: CondaEnv, used: Sources, reader: DependencyTracker) -> str:
    name, separator, rest = text.partition("::")
    if not separator:
        return text
    (first, *_) = condarc.expand(name, declared.path, used.settings, reader)
    return f"{first.address}::{rest.strip()}"


def entry_of(record: Any) -> Entry:
    """Return the record as the guards of the cache take it."""
    digest = record.sha256
    return Entry(
        record.name.normalized,
        str(record.version),
        str(record.build),
        record.url,
        digest.hex() if digest else "",
        record.size or 0,
    )


def describe(record: Any) -> dict[str, Any]:
    """Return the record's fields that a lock keeps, as JSON values."""
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "build_number": record.build_number,
        "subdir": record.subdir,
        "noarch": _noarch(record),
        "depends": list(record.depends),
        "constrains": list(record.constrains),
        "sha256": record.sha256.hex() if record.sha256 else None,
        "md5": record.md5.hex() if record.md5 else None,
        "size": record.size,
        "python_site_packages_path": record.python_site_packages_path,
        "url": record.url,
    }


def _noarch(record: Any) -> str | None:
    if record.noarch.python:
        return "python"
    return "generic" if record.noarch.generic else None


def record_of(rattler: Any, fields: Mapping[str, Any]) -> Any:
    """Return the record that ``describe`` described."""
    known = rattler.PackageRecord(
        name=fields["name"],
        version=fields["version"],
        build=build_string(rattler, fields["build"]),
        build_number=fields["build_number"],
        subdir=fields["subdir"],
        noarch=fields["noarch"],
        depends=fields["depends"] or [],
        constrains=fields["constrains"] or [],
        sha256=bytes.fromhex(fields["sha256"]) if fields["sha256"] else None,
        md5=bytes.fromhex(fields["md5"]) if fields["md5"] else None,
        size=fields["size"],
        python_site_packages_path=fields["python_site_packages_path"],
    )
    return rattler.RepoDataRecord(known, fields["file_name"], fields["url"], fields["channel"])


def build_string(rattler: Any, text: str) -> Any:
    """Return a build string as rattler's constructors take it: a text before 0.28."""
    return getattr(rattler, "BuildString", str)(text)
