"""The action cache: results by key, found here or remotely, restored and kept."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from buildrun.errors import StoreError
from buildrun.store import cas, listing
from buildrun.store.cas import Copier, MissingBlob
from buildrun.store.digest import content, is_digest
from buildrun.store.files import closing, open_directory, read_or_none
from buildrun.store.home import Home
from buildrun.store.listing import Entry
from buildrun.store.manifest import Manifest, decode, encode, output_of, validate_outputs

if TYPE_CHECKING:
    from buildrun.store.remote.client import Remote
    from buildrun.workspace.select import FileSet

# Manifests looked at for one like a new result.
_LOOKED_AT = 500

# Takes the details of a result, and whether it comes from the remote cache; returns whether the
# result counts.
Accept = Callable[[Mapping[str, Any], bool], bool]


class ActionCache:
    """The results for one project; may be used by several threads.

    remote: asked where this machine has nothing. write: False leaves the disk alone. shareable:
    whether the remote cache is to have a result with these details; None: any.
    """

    def __init__(
        self,
        home: Home,
        root: str,
        remote: Remote | None,
        *,
        write: bool,
        shareable: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        """Take the places; nothing is read yet."""
        self._home = home
        self._root = root
        self._remote = remote
        self._write = write
        self._shareable = shareable or (lambda _: True)
        self._distrusted: set[str] = set()
        self._whole: Manifest | None = None

    def find(self, key: str, accept: Accept = lambda *_: True) -> Manifest | None:
        """Return the result of a key whose contents are all to be had, or None.

        accept: is asked of each result that is found, here and then in the remote cache.
        """
        if key in self._distrusted:
            return None
        manifest = load(self._home, key)
        if manifest is not None and not accept(manifest.details, False):
            manifest = None
        if manifest is not None and (
            self._remote is not None
            or manifest == self._whole
            or (
                outputs_of(self._home, manifest) is not None
                and not cas.missing(self._home, needed(self._home, manifest))
            )
        ):
            # What is lost from here on is noticed when it is restored.
            self._whole = manifest
            return manifest
        manifest = self._find_remotely(key)
        return manifest if manifest is not None and accept(manifest.details, True) else None

    def listing(self, digest: str) -> tuple[Entry, ...] | None:
        """Return a listing that only explains, such as that of inputs; None where it is lost."""
        data = cas.read(self._home, digest) if is_digest(digest) else None
        try:
            return None if data is None else listing.decode(data)
        except ValueError:
            return None

    def similar(self, project: str, entry_point: str) -> Iterator[Manifest]:
        """Yield results of an entry point, the latest first; for explanations only."""
        files = sorted(cas.list_files(self._home.results), key=lambda file: -file.used)
        wanted = (project, entry_point)
        for file in files[:_LOOKED_AT]:
            found = manifest_at(file.path)
            if found is not None and (found.project, found.entry_point) == wanted:
                yield found

    def fetch_contents(self, manifest: Manifest) -> None:
        """Bring the contents of a result that only the remote cache has, then the result itself.

        Raises StoreError, such as MissingBlob.
        """
        home, remote = self._home, self._remote
        if remote is None:
            return
        if not cas.has(home, manifest.outputs):
            self._fetch({manifest.outputs: None}, remote)
        if outputs_of(home, manifest) is None:
            if cas.has(home, manifest.outputs):
                remote.refuse(manifest.key, "has outputs that are not safe to restore")
            raise MissingBlob("the list of its outputs is lost or not safe", place=manifest.step)
        named = needed(home, manifest)
        missing = cas.missing(home, named)
        self._fetch({digest: named[digest] for digest in missing}, remote)
        if not cas.has(home, manifest.inputs):
            remote.fetch_many([(manifest.inputs, self._place(manifest.inputs), None)])
        path = path_of(home, manifest.key)
        if manifest_at(path) != manifest:  # none, or one that does not count here
            cas.publish(path, encode(manifest))

    def fetch_log(self, manifest: Manifest, path: str) -> bool:
        """Write the result's log to a file; False where it is lost. Raises OSError."""
        import shutil

        if not cas.has(self._home, manifest.log):
            return False
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        shutil.copyfile(cas.path_of(self._home, manifest.log), path)
        return True

    def save(
        self, manifest: Manifest, outputs: FileSet, inputs: FileSet | None, log_path: str
    ) -> None:
        """Keep a result, here and in the remote cache where that is wanted; raises StoreError."""
        stored = save(self._home, self._root, manifest, outputs, inputs, log_path)
        self._distrusted.discard(stored.key)
        self._upload(stored)

    def upload_if_missing(self, key: str) -> None:
        """Put a result that is here into the remote cache, where that is wanted and it lacks it."""
        if self._remote is None or not self._remote.writes:
            return
        stored = load(self._home, key)
        if stored is None or self._is_withheld(stored):
            return
        there = self._find_remotely(key)
        if there is None or not self._shareable(there.details):
            self._upload(stored)

    def _is_withheld(self, stored: Manifest) -> bool:
        """Return whether a result stays here, and say so."""
        withheld = not self._shareable(stored.details)
        if withheld and self._remote is not None:
            self._remote.withhold()
        return withheld

    def _upload(self, stored: Manifest) -> None:
        if self._remote is None or not self._remote.writes or self._is_withheld(stored):
            return
        named = []
        for digest in all_digests(self._home, stored):
            path = cas.path_of(self._home, digest)
            try:
                named.append((digest, path, os.stat(path).st_size))
            except OSError:
                return  # collected meanwhile: others would find half a result
        self._remote.upload(stored.key, encode(stored), named)

    def invalidate(self, manifest: Manifest) -> None:
        """Drop a result whose contents were not what it says."""
        self._distrusted.add(manifest.key)
        self._whole = None
        copier = Copier()
        for digest in all_digests(self._home, manifest):
            if cas.is_damaged(cas.path_of(self._home, digest), digest, copier):
                cas.discard(self._home, digest)
        cas.ignore_errors(os.unlink, path_of(self._home, manifest.key))

    def forget(self, key: str, unless: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drop the result of a key on this machine; unless: tells by its details that it stays."""
        manifest = load(self._home, key)
        if manifest is not None and not unless(manifest.details):
            self._whole = None
            cas.ignore_errors(os.unlink, path_of(self._home, key))

    def finish(self) -> None:
        """Wait for what is on its way to the remote cache."""
        if self._remote is not None:
            self._remote.finish()

    def abandon(self) -> None:
        """Give up what is on its way."""
        if self._remote is not None:
            self._remote.abandon()

    def _find_remotely(self, key: str) -> Manifest | None:
        if self._remote is None or (data := self._remote.manifest(key)) is None:
            return None
        try:
            manifest = decode(data)
        except Exception:  # whatever is wrong with it
            self._remote.refuse(key, "is no result of a step")
            return None
        # The key is that of its parts, so these are the outputs that the step declares.
        if manifest.key != key or sorted(manifest.declared) != manifest.parts.get("outputs"):
            self._remote.refuse(key, "is the result of something else")
            return None
        return manifest

    def _fetch(self, wanted: Mapping[str, int | None], remote: Remote) -> None:
        items = [(digest, self._place(digest), size) for digest, size in wanted.items()]
        if items and remote.fetch_many(items):
            raise MissingBlob("contents of it are not in the remote cache")

    def _place(self, digest: str) -> str:
        path = cas.path_of(self._home, digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def matching_outputs(self, manifest: Manifest, on_disk: FileSet | None) -> list[str]:
        """Return the declared outputs that are on disk as the result has them."""
        entries = outputs_of(self._home, manifest)
        if on_disk is None or entries is None or on_disk.problems:
            return []
        wanted, there = set(entries), set(on_disk.entries())
        differing = {entry.path for entry in wanted ^ there}
        return [
            output
            for output in manifest.declared
            if not any(output_of(path, (output.rstrip("/"),)) for path in differing)
        ]


# Seconds after which a use is recorded again.
_USE = 3600.0


def path_of(home: Home, key: str) -> str:
    """Return where the manifest of a key lies; raises ValueError for what is no digest."""
    return cas.path_for(home.results, key)


def load(home: Home, key: str) -> Manifest | None:
    """Return the result of a key, and record the use; raises ValueError for what is no digest."""
    path = path_of(home, key)
    found = manifest_at(path)
    if found is None or found.key != key:
        return None
    try:
        if time.time() - os.stat(path).st_mtime > _USE:
            os.utime(path)
    except OSError:
        pass  # a store that may only be read
    return found


def manifest_at(path: str) -> Manifest | None:
    """Return the manifest in a file, whatever its key."""
    data = read_or_none(path)
    try:
        return None if data is None else decode(data)
    except ValueError:
        return None


def outputs_of(home: Home, manifest: Manifest) -> tuple[Entry, ...] | None:
    """Return the outputs, or None where they are not known or not safe to restore."""
    try:
        return _outputs(home, manifest.outputs, manifest.declared)
    except ValueError:
        return None


@lru_cache(maxsize=2)
def _outputs(home: Home, digest: str, declared: tuple[str, ...]) -> tuple[Entry, ...]:
    """Return a listing, which a restore needs several times; raises ValueError without one."""
    data = cas.read(home, digest)
    if data is None:
        raise ValueError("it is lost")
    entries = listing.decode(data)
    if reason := validate_outputs(entries, declared):
        raise ValueError(reason)
    return entries


def needed(home: Home, manifest: Manifest) -> dict[str, int | None]:
    """Return the contents that a result is restored from, with their sizes where known."""
    named: dict[str, int | None] = {
        manifest.log: sum(size for _, size in manifest.streams),
        manifest.outputs: None,
    }
    for entry in outputs_of(home, manifest) or ():
        if entry.is_file:
            named[entry.content] = entry.size
    return named


def all_digests(home: Home, manifest: Manifest) -> dict[str, int | None]:
    """Return the same with the listing of inputs, which only explains."""
    return {manifest.inputs: None, **needed(home, manifest)}


def save(
    home: Home,
    root: str,
    manifest: Manifest,
    outputs: FileSet,
    inputs: FileSet | None,
    log_path: str,
) -> Manifest:
    """Store a result and return its manifest, with the digests of the log and of the inputs.

    Without inputs nothing explains the next run. Raises StoreError where the outputs are not what
    was taken, or the store cannot be written; then an earlier result of the key is whole.
    """
    entries = outputs.entries()
    reasons = (*outputs.problems, *outputs.unmatched, validate_outputs(entries, manifest.declared))
    if reason := next(filter(None, reasons), None):
        raise StoreError(f"the outputs cannot be stored: {reason}", place=root)
    data = listing.encode(entries)
    if not outputs.digest == manifest.outputs == content(data):
        raise StoreError("the outputs changed while they were looked at", place=root)
    _put_files(home, root, entries)
    cas.put_bytes(home, data)
    manifest = manifest._replace(log=cas.put_file(home, log_path))
    if inputs is not None:
        data = listing.encode(inputs.entries())
        manifest = manifest._replace(inputs=cas.put_bytes(home, data))
    cas.publish(path_of(home, manifest.key), encode(manifest))
    return manifest


def _put_files(home: Home, root: str, entries: Sequence[Entry]) -> None:
    files = [entry for entry in entries if entry.is_file]
    missing = set(cas.missing(home, {entry.content: entry.size for entry in files}))
    wanted = [entry for entry in files if entry.content in missing]
    copier, place = Copier(), root
    try:
        # A directory is opened once for the files in a row that lie in it.
        for above, group in groupby(wanted, lambda entry: entry.path.rpartition("/")[0]):
            together = list(group)
            place = os.path.join(root, together[0].path)
            with closing(open_directory(root, above)) as directory:
                for entry in together:
                    place = os.path.join(root, entry.path)
                    _put_file(home, entry, directory, copier)
    except StoreError as error:
        error.place = error.place or place
        raise
    except OSError as error:
        raise StoreError(f"cannot be stored: {error.strerror}", place=place) from error


def _put_file(home: Home, entry: Entry, directory: int, copier: Copier) -> None:
    # A file that has become a pipe is not waited for, and a link is not followed.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with closing(os.open(os.path.basename(entry.path), flags, dir_fd=directory)) as source:
        status = os.fstat(source)
        executable = bool(status.st_mode & stat.S_IXUSR)
        if not stat.S_ISREG(status.st_mode) or executable != (entry.kind == listing.EXECUTABLE):
            raise StoreError("it changed while it was stored")
        cas.put(home, entry.content, source, entry.size, copier)
