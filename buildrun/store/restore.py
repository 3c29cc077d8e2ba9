"""Restoring a result's outputs: everything is made ready beside them, then swapped in."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from buildrun.errors import StoreError
from buildrun.home import Home
from buildrun.store import staging
from buildrun.store.blobs import Lost
from buildrun.store.fetch import Fetcher
from buildrun.store.flaw import Owners
from buildrun.store.load import outputs_of
from buildrun.store.manifest import Manifest
from buildrun.store.staging import Staging
from buildrun.store.within import open_directory
from buildrun.tree.listing import Entry


class Restored(NamedTuple):
    """What was restored.

    outputs: as declared. made: see ``fetch.Fetcher``; it spares reading the files again.
    """

    outputs: tuple[str, ...]
    made: Mapping[str, tuple[bytes, str]]


def restore(
    home: Home, root: str, manifest: Manifest, *, matching: Collection[str] = ()
) -> Restored:
    """Replace outputs in the project by those of a result.

    matching: outputs, as declared, that are known to be as they should; they stay untouched.
    Each output is replaced whole: what else is in an output directory goes. Raises Lost where
    contents are missing or damaged, and StoreError where the project cannot be written; then the
    outputs are as they were, or wholly replaced where the failure came in between.
    """
    wanted = [path for path in manifest.declared if path not in matching]
    entries = outputs_of(home, manifest)
    if entries is None:
        raise Lost("the list of its outputs is lost", place=manifest.step)
    if not wanted:
        return Restored((), {})
    paths = [path.rstrip("/") for path in wanted]
    stage = staging.make(root)
    try:
        check_places(root, paths)
        made = _fetch(home, stage, entries, paths)
        swap(stage, paths)
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else root
        text = f"the outputs cannot be restored: {error.strerror}"
        raise StoreError(text, place=place) from error
    finally:
        settle(stage)
    return Restored(tuple(wanted), made)


def check_places(root: str, paths: Sequence[str]) -> None:
    """Raise before anything is fetched or moved where an output would lie outside."""
    for above in {path.rpartition("/")[0] for path in paths}:
        try:
            os.close(open_directory(root, above))
        except FileNotFoundError:
            continue  # made when it is needed


def _fetch(
    home: Home, stage: Staging, entries: Sequence[Entry], paths: Sequence[str]
) -> Mapping[str, tuple[bytes, str]]:
    places = {path: stage.new(number) for number, path in enumerate(paths)}
    owners, fetcher = Owners(places), Fetcher(home)
    for entry in entries:
        output = owners.of(entry.path)
        if output is not None:
            fetcher.fetch(entry, places[output] + entry.path[len(output) :])
    return fetcher.made


def swap(stage: Staging, paths: Sequence[str]) -> None:
    """Put new outputs in the places of old ones; raises OSError and StoreError."""
    stage.announce(paths)
    for number in range(len(paths)):
        stage.take(number)
        stage.give(number)


def settle(stage: Staging) -> None:
    """Put back what was moved away without anything in its place, however it came to that."""
    try:
        stage.put_back()
    except (OSError, StoreError):
        stage.leave()
        return
    stage.end()
