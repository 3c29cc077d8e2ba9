"""Results of steps: found here or in a remote cache, restored, and kept for the next time."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from buildrun.home import Home
from buildrun.store import load
from buildrun.store.manifest import Manifest

if TYPE_CHECKING:
    from buildrun.store.remote import Remote
    from buildrun.tree.listing import Entry
    from buildrun.tree.taken import Taken

# Among a manifest's details: it rests on digests of the other kind, see ``buildrun.former``, and so
# does not leave this machine.
TAKEN_OVER = "taken_over"

# Manifests looked at for one like a new result.
_LOOKED_AT = 500


class Results:
    """The results for one project; safe to be used by several threads.

    remote: a shared cache, asked where this machine has nothing. write: False leaves the disk
    alone, so that what a remote has is only told of.
    """

    def __init__(self, home: Home, root: str, remote: "Remote | None", *, write: bool) -> None:
        """Take the places; nothing is read yet."""
        self._home = home
        self._root = root
        self._remote = remote
        self._write = write
        self._distrusted: set[str] = set()
        self._whole: Manifest | None = None

    def find(self, key: str) -> Manifest | None:
        """Return the result of a key whose contents are all to be had, or None."""
        if key in self._distrusted:
            return None
        manifest = load.load(self._home, key)
        if manifest is not None and (
            self._remote is not None or manifest == self._whole or self._is_whole(manifest)
        ):
            # What is lost from here on is noticed when it is restored.
            self._whole = manifest
            return manifest
        return self._find_remotely(key)

    def listing(self, digest: str) -> "tuple[Entry, ...] | None":
        """Return a listing that explains, or None where it is not kept."""
        from buildrun.store.blobs import is_digest

        return load.listing_of(self._home, digest) if is_digest(digest) else None

    def like(self, project: str, entry_point: str) -> Iterator[Manifest]:
        """Yield results of an entry point, the latest first; for explanations only."""
        for path in _latest(self._home.results)[:_LOOKED_AT]:
            manifest = load.look(path)
            if manifest is None:
                continue
            if (manifest.project, manifest.entry_point) == (project, entry_point):
                yield manifest

    def restore(
        self, manifest: Manifest, on_disk: "Taken | None"
    ) -> Mapping[str, tuple[bytes, str]]:
        """Make the project's outputs those of the result; raises Lost, StoreError.

        on_disk: the outputs as they are; those that match already are left alone. Returns what is
        known of the files that were made, for ``Fingerprints.learn``.
        """
        from buildrun.store.restore import restore

        if self._remote is not None:
            self._fetch(manifest, self._remote)
        matching = self._matching(manifest, on_disk)
        return restore(self._home, self._root, manifest, matching=matching).made

    def fetch_log(self, manifest: Manifest, path: str) -> bool:
        """Write the result's log to a file; False where it is lost. Raises OSError."""
        import shutil

        from buildrun.store import blobs

        if not blobs.has(self._home, manifest.log):
            return False
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        shutil.copyfile(blobs.path_of(self._home, manifest.log), path)
        return True

    def save(
        self, manifest: Manifest, outputs: "Taken", inputs: "Taken | None", log_path: str
    ) -> None:
        """Keep a result, and put it into the remote cache where that is wanted.

        Raises StoreError; then nothing is kept.
        """
        from buildrun.store.save import save

        stored = save(self._home, self._root, manifest, outputs, inputs, log_path)
        self._distrusted.discard(stored.key)
        self._upload(stored)

    def share(self, key: str) -> None:
        """Put a result that is here into the remote cache, where that is wanted and it lacks it."""
        if self._remote is None or not self._remote.writes:
            return
        stored = load.load(self._home, key)
        if (
            stored is not None
            and not stored.details.get(TAKEN_OVER)
            and self._remote.manifest(key) is None
        ):
            self._upload(stored)

    def _upload(self, stored: Manifest) -> None:
        from buildrun.store import blobs
        from buildrun.store.manifest import encode

        if self._remote is None:
            return
        named = []
        for digest in load.all_digests(self._home, stored):
            path = blobs.path_of(self._home, digest)
            try:
                named.append((digest, path, os.stat(path).st_size))
            except OSError:
                return  # collected meanwhile: others would find half a result
        self._remote.upload(stored.key, encode(stored), named)

    def distrust(self, manifest: Manifest) -> None:
        """Drop a result whose contents were not what it says."""
        from buildrun.store import blobs
        from buildrun.store.copying import Copier

        self._distrusted.add(manifest.key)
        self._whole = None
        copier = Copier()
        for digest in load.all_digests(self._home, manifest):
            try:
                with open(blobs.path_of(self._home, digest), "rb") as file:
                    found, _ = copier.digest(file.fileno(), blobs.algorithm_of(digest))
            except OSError:
                continue
            if found != digest:
                blobs.discard(self._home, digest)
        blobs.quietly(os.unlink, load.path_of(self._home, manifest.key))

    def finish(self) -> None:
        """Wait for what is on its way to the remote cache."""
        if self._remote is not None:
            self._remote.finish()

    def abandon(self) -> None:
        """Give up what is on its way."""
        if self._remote is not None:
            self._remote.abandon()

    def _find_remotely(self, key: str) -> Manifest | None:
        from buildrun.store.manifest import decode

        data = self._remote.manifest(key) if self._remote is not None else None
        if self._remote is None or data is None:
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

    def _fetch(self, manifest: Manifest, remote: "Remote") -> None:
        """Bring all contents of a result here, then the result itself; raises Lost."""
        from buildrun.store import blobs
        from buildrun.store.blobs import Lost
        from buildrun.store.manifest import encode

        if not blobs.has(self._home, manifest.outputs):
            self._fetch_some({manifest.outputs: None}, remote)
        if load.outputs_of(self._home, manifest) is None:
            if blobs.has(self._home, manifest.outputs):
                remote.refuse(manifest.key, "has outputs that are not safe to restore")
            raise Lost("the list of its outputs is lost or not safe", place=manifest.step)
        named = load.all_digests(self._home, manifest)
        named.pop(manifest.inputs)
        missing = {
            digest: size
            for digest, size in named.items()
            if not blobs.has(self._home, digest, size)
        }
        self._fetch_some(missing, remote)
        if not blobs.has(self._home, manifest.inputs):
            remote.fetch_many([(manifest.inputs, self._place(manifest.inputs), None)])
        path = load.path_of(self._home, manifest.key)
        if load.look(path) is None:
            blobs.publish(path, encode(manifest))

    def _fetch_some(self, wanted: "dict[str, int | None]", remote: "Remote") -> None:
        from buildrun.store.blobs import Lost

        if not wanted:
            return
        items = [(digest, self._place(digest), size) for digest, size in wanted.items()]
        if remote.fetch_many(items):
            raise Lost("contents of it are not in the remote cache")

    def _place(self, digest: str) -> str:
        from buildrun.store import blobs

        path = blobs.path_of(self._home, digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _is_whole(self, manifest: Manifest) -> bool:
        from buildrun.store import blobs

        if load.outputs_of(self._home, manifest) is None:
            return False
        named = load.all_digests(self._home, manifest)
        named.pop(manifest.inputs)
        return not blobs.missing(self._home, named)

    def _matching(self, manifest: Manifest, on_disk: "Taken | None") -> list[str]:
        """Return the declared outputs that are on disk as the result has them."""
        entries = load.outputs_of(self._home, manifest)
        if on_disk is None or entries is None or on_disk.problems:
            return []
        wanted, there = set(entries), set(on_disk.entries())
        differing = {entry.path for entry in wanted ^ there}
        return [
            output
            for output in manifest.declared
            if not any(_is_in(path, output.rstrip("/")) for path in differing)
        ]


def _is_in(path: str, output: str) -> bool:
    return path == output or path.startswith(output + "/")


def _latest(directory: str) -> list[str]:
    """Return the manifests in the store, the last used first."""
    found = []
    for below, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(below, name)
            try:
                found.append((os.stat(path).st_mtime, path))
            except OSError:
                continue
    return [path for _, path in sorted(found, reverse=True)]
