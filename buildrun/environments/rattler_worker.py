"""Solves and installs with rattler, in a process of its own.

A process, because rattler's threads cannot be stopped: one that is killed stops writing into the
prefix, holds the environment's lock until then, and cannot take buildrun down with it (py-rattler
0.28 crashes now and then when its interpreter exits). It reads one line of JSON and then waits
for the end of its input, which says that its parent is gone; it writes lines of JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from buildrun.console import size
from buildrun.environments import installed_files
from buildrun.store import locks

# Seconds until a channel that has not delivered is asked whether it answers at all, and how long
# it may take then.
_PATIENCE = 15.0
_ANSWER = 30.0
_RETRIES = 2


class Refusal(Exception):
    """What stops the work, with a kind that the parent knows a remedy for."""

    def __init__(self, kind: str, reason: str) -> None:
        """Take both."""
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def main() -> NoReturn:
    """Do what the first line of standard input asks for, then leave without ceremony."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    events = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not get in between

    def say(event: str, **fields: Any) -> None:
        os.write(events, json.dumps({"event": event, **fields}).encode() + b"\n")

    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        records = asyncio.run(_work(order, say))
        say("done", records=[json.loads(record.to_json()) for record in records])
    except Refusal as refusal:
        say("failure", kind=refusal.kind, reason=refusal.reason)
    except WrongHash as error:
        say("failure", kind="hash", reason=str(error))
    except BaseException as error:
        say("failure", kind=type(error).__name__, reason=str(error) or repr(error))
    os._exit(0)


def _follow_parent() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)  # with the scripts of packages that run now


async def _work(order: Mapping[str, Any], say: Any) -> Sequence[Any]:
    """Do it and return the records.

    order: ``action`` is ``solve``, ``install`` or ``install-records``; ``records`` are those to
    keep in a solve where they fit, or to install. ``place`` is where the prefix will be used, in
    an image; scripts of packages are then left to that. The rest is as ``rattler.call`` has it.
    """
    import rattler

    client = _client(rattler, order)
    if order["action"] == "install-records":
        records = [_record(rattler, fields) for fields in order["records"]]
    else:
        say("progress", text="reading the channels and solving")
        records = await _patiently(_solve(rattler, client, order), order["channels"])
    names = {record.name.normalized for record in records}
    if order["needs_python"] and "python" not in names:
        raise Refusal("no-python", "the `pip:` section needs a Python, and none is installed")
    if order["action"] != "solve":
        await _install(rattler, client, order, records, say)
    return records


async def _solve(rattler: Any, client: Any, order: Mapping[str, Any]) -> Any:
    action = "force-cache-only" if order["offline"] else "cache-or-fetch"
    gateway = rattler.Gateway(
        cache_dir=order["repodata"],
        client=client,
        default_config=rattler.SourceConfig(cache_action=action),
    )
    channels = [rattler.Channel(address) for address in order["channels"]]
    platforms = [rattler.Subdir(order["platform"]), rattler.Subdir("noarch")]
    specs = [_spec(rattler, text) for text in order["specs"]]
    # conda gives every Python a pip, where there is one.
    pip = await gateway.query(channels, platforms, ["pip"], recursive=False)
    return await rattler.solve(
        channels,
        specs,
        gateway=gateway,
        platforms=platforms,
        virtual_packages=[_virtual(rattler, text) for text in order["virtual_packages"]],
        channel_priority=getattr(rattler.ChannelPriority, order["priority"].capitalize()),
        locked_packages=[_record(rattler, fields) for fields in order["records"]],
        add_pip_as_python_dependency=any(pip),
    )


async def _patiently(solving: Any, channels: Sequence[str]) -> Any:
    """Await, but not for ever for a channel that takes a connection and says nothing."""
    task = asyncio.ensure_future(solving)
    done, _ = await asyncio.wait({task}, timeout=_PATIENCE)
    if not done:
        asked = [asyncio.to_thread(_answers, channel) for channel in channels]
        for channel, answers in zip(channels, await asyncio.gather(*asked), strict=True):
            if not answers and not task.done():
                raise Refusal("silent", f"{channel} does not answer")
    return await task


def _answers(channel: str) -> bool:
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    if not channel.startswith(("http://", "https://")):
        return True
    request = Request(f"{channel}/noarch/repodata.json", method="HEAD")  # noqa: S310
    try:
        urlopen(request, timeout=_ANSWER).close()  # noqa: S310
    except TimeoutError:
        return False
    except URLError as error:
        return not isinstance(error.reason, TimeoutError)
    except (OSError, ValueError):
        pass  # whatever is wrong, rattler will say it
    return True


async def _install(
    rattler: Any, client: Any, order: Mapping[str, Any], records: Sequence[Any], say: Any
) -> None:
    entries = [_entry(record) for record in records]
    wanted = _missing(entries, order["packages"])
    whole = sum(entry.size for entry in wanted)
    rest = f"{len(wanted)} to fetch, {size(whole)}" if wanted else "all of them at hand"
    say("note", text=f"{len(entries)} conda packages, {rest}")
    if order["offline"]:
        _refuse_remote(wanted)
    waiting = "waiting for another run that fetches conda packages"
    _prepare_cache(entries, order["packages"], lambda: say("note", text=waiting))
    for last in (False, True):
        await rattler.install(
            list(records),
            order["prefix"],
            cache_dir=order["packages"],
            platform=rattler.Subdir(order["platform"]),
            client=client,
            # As conda does; what a package runs here it could as well run later.
            execute_link_scripts=not order["place"],
            show_progress=False,
            reporter=_Reporter(len(entries), whole, say) if order["live"] else None,
            alternative_target_prefix=order["place"],
        )
        flawed = _flawed(order["prefix"], entries, last=last)
        if not flawed:
            return
        names = ", ".join(entry.name for entry in flawed)
        if last or order["offline"]:
            raise Refusal("damaged", f"packages differ from what they say of themselves: {names}")
        say("note", text=f"the cache has damaged files of {names}, which are fetched anew")
        _discard_all(flawed, order["packages"])
        shutil.rmtree(order["prefix"])


def _flawed(prefix: str, entries: Sequence[Entry], *, last: bool) -> list[Entry]:
    """Return the packages whose files are not as recorded; the prefix gets files of its own.

    last: they were just unpacked. Then only sizes count: a package's script may write into files.
    """
    files = list(installed_files.of_conda(prefix))
    names = set(installed_files.detach_from_cache(prefix, files))
    if last:
        names = set()
    names |= {each.package for each in files if installed_files.has_other_size(prefix, each)}
    return [entry for entry in entries if f"{entry.name}-{entry.version}-{entry.build}" in names]


def _client(rattler: Any, order: Mapping[str, Any]) -> Any:
    settings = "" if order["verify"] else "tls-no-verify = true"
    try:
        return rattler.Client.from_config(
            rattler.Config.from_toml(settings), max_retries=_RETRIES, user_agent="buildrun"
        )
    except ValueError as error:
        raise Refusal("certificates", f"certificates cannot be read ({error})") from None


def _spec(rattler: Any, text: str) -> Any:
    try:
        return rattler.MatchSpec(text, strict=False)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise Refusal("spec", f"`{text}` is not a conda requirement: {reason}") from None


def _virtual(rattler: Any, text: str) -> Any:
    name, version, build = text.split("=")
    return rattler.GenericVirtualPackage(
        rattler.PackageName(name), rattler.Version(version), _build_string(rattler, build)
    )


def _record(rattler: Any, fields: Mapping[str, Any]) -> Any:
    """Return the record of a locked package; see ``conda_lock`` for its fields."""
    names = ("name", "version", "build_number", "subdir", "noarch", "size")
    package = rattler.PackageRecord(
        **{name: fields[name] for name in (*names, "python_site_packages_path")},
        build=_build_string(rattler, fields["build"]),
        depends=fields["depends"] or [],
        constrains=fields["constrains"] or [],
        sha256=bytes.fromhex(fields["sha256"]) if fields["sha256"] else None,
        md5=bytes.fromhex(fields["md5"]) if fields["md5"] else None,
    )
    return rattler.RepoDataRecord(package, fields["file_name"], fields["url"], fields["channel"])


def _build_string(rattler: Any, text: str) -> Any:
    """Return a build string as rattler's constructors take it: a text before 0.28."""
    return getattr(rattler, "BuildString", str)(text)


def _entry(record: Any) -> Entry:
    """Return the record as the guards of the cache take it."""
    name, digest = record.name.normalized, record.sha256.hex() if record.sha256 else ""
    version, build = str(record.version), str(record.build)
    return Entry(name, version, build, record.url, digest, record.size or 0)


def _refuse_remote(wanted: Sequence[Entry]) -> None:
    remote = [entry for entry in wanted if not entry.url.startswith("file:")]
    if remote:
        names = ", ".join(f"{entry.name} {entry.version}" for entry in remote[:5])
        more = f" and {len(remote) - 5} more" if len(remote) > 5 else ""
        raise Refusal("offline", f"not downloaded yet: {names}{more}")


class _Reporter:
    """Says how far it is, ten times a second at most; rattler calls the methods by name."""

    def __init__(self, packages: int, whole: int, say: Any) -> None:
        self._say = say
        self._packages, self._whole = packages, whole
        self._linked = 0
        self._bytes: list[int] = []
        self._started = self._said = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: 0
        raise AttributeError(name)

    def on_download_start(self, cache_entry: int) -> int:  # noqa: ARG002
        self._bytes.append(0)
        return len(self._bytes) - 1

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:  # noqa: ARG002
        self._bytes[download_idx] = progress
        self._draw()

    def on_link_complete(self, index: int) -> None:  # noqa: ARG002
        self._linked += 1
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._said < 0.1:
            return
        self._said = now
        done = sum(self._bytes)
        speed = size(int(done / (now - self._started)))
        fetched = f"fetched {size(done)} of {size(self._whole)}, {speed}/s; " if done else ""
        self._say("progress", text=f"{fetched}linked {self._linked} of {self._packages} packages")


# Three checks of rattler's cache of unpacked packages: each makes up for a hole in its own.

_REVISION_BYTES = 8  # before the digest in the file beside each package


class Entry(NamedTuple):
    """A package that is to be installed.

    digest: SHA-256 of its archive as the channel has it, hexadecimal; "" if it does not say.
    size: bytes of the archive, 0 if unknown.
    """

    name: str
    version: str
    build: str
    url: str
    digest: str
    size: int


class WrongHash(Exception):
    """An archive is not the one that its channel's index describes."""


def _missing(entries: Sequence[Entry], directory: str) -> list[Entry]:
    """Return those that the cache does not have."""
    return [entry for entry in entries if not _has(entry, directory)]


def _prepare_cache(entries: Iterable[Entry], directory: str, waiting: Callable[[], None]) -> None:
    """Take out what rattler would wrongly use for one of the entries, and what kills have left.

    waiting: is called once if another process fills the cache.
    Raises WrongHash for a local archive that is not what its index says.
    """
    os.makedirs(directory, exist_ok=True)
    with _alone(directory, waiting):
        for name in os.listdir(directory):
            if name.startswith(".") and os.path.isdir(os.path.join(directory, name)):
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        for entry in entries:
            if not _has(entry, directory):
                _discard(entry, directory)
    for entry in entries:
        _verify_local(entry, directory)


def _discard_all(entries: Iterable[Entry], directory: str) -> None:
    """Take packages out."""
    with _alone(directory, lambda: None):
        for entry in entries:
            _discard(entry, directory)


@contextmanager
def _alone(directory: str, waiting: Callable[[], None]) -> Iterator[None]:
    # The very lock that rattler holds while it uses the cache.
    with locks.exclusive(os.path.join(directory, ".cache.lock"), waiting=waiting):
        yield


def _has(entry: Entry, directory: str) -> bool:
    path = _path(entry, directory)
    try:
        with open(path + ".lock", "rb") as file:
            digest = file.read()[_REVISION_BYTES:].hex()
    except OSError:
        return False
    return bool(entry.digest) and digest == entry.digest and os.path.isdir(path)


def _path(entry: Entry, directory: str) -> str:
    return os.path.join(directory, f"{entry.name}-{entry.version}-{entry.build}")


def _discard(entry: Entry, directory: str) -> None:
    path = _path(entry, directory)
    if not os.path.isdir(path):
        return
    # A name that `prepare` sweeps away, should this be killed.
    aside = os.path.join(directory, f".{os.path.basename(path)}.{os.getpid()}")
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _verify_local(entry: Entry, directory: str) -> None:
    parts = urlsplit(entry.url)
    if parts.scheme != "file" or not entry.digest or _has(entry, directory):
        return
    digest = hashlib.sha256()
    with open(unquote(parts.path), "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != entry.digest:
        raise WrongHash(
            f"hash mismatch: {entry.url} has sha256 {digest.hexdigest()}, "
            f"its channel says {entry.digest}"
        )
