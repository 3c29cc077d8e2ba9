"""What a pod has delivered on its way into the project."""

from __future__ import annotations

import os
from collections.abc import Sequence

from buildrun.errors import ExecutionError, StoreError
from buildrun.kubernetes import carry
from buildrun.printable import printable
from buildrun.store import staging
from buildrun.store.flaw import Owners
from buildrun.store.restore import check_places, settle, swap


def fetch(parts: carry.Parts, root: str, outputs: Sequence[str], *, size: int, sha256: str) -> None:
    """Put the outputs that a delivery holds into the project, each in the place of an old one.

    parts: its archive, which must have the size and the digest (in hexadecimal). All is made
    ready beside the project's files first. Raises carry.Trouble for a delivery that is not what
    it should be, and ExecutionError where the project cannot be written; then the outputs are as
    they were, or wholly replaced where the failure came in between.
    """
    paths = sorted(os.path.normpath(path) for path in outputs)
    try:
        stage = staging.make(root)
        try:
            check_places(root, paths)
            there = _unpack(parts, stage, paths, size, sha256)
            swap(stage, there)
        finally:
            settle(stage)
    except StoreError as error:
        raise ExecutionError(error.message, place=error.place, hint=error.hint) from error
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else root
        raise ExecutionError(
            f"the outputs cannot be written: {error.strerror}", place=printable(place)
        ) from error


def _unpack(
    parts: carry.Parts, stage: staging.Staging, paths: Sequence[str], size: int, sha256: str
) -> list[str]:
    """Return which outputs came, in the order of their numbers in the staging directory."""
    owners = Owners(paths)

    def accept(member: carry.Member) -> None:
        if owners.of(os.fsdecode(member.name)) is None:
            name = carry.shown(member.name)
            raise carry.Trouble(f"the delivery holds `{name}`, which is no output")

    tree = stage.new(len(paths))
    os.mkdir(tree)
    # Links are what the command made of them: kept, and never followed here.
    carry.Tree(os.fsencode(tree), links="anywhere").unpack(parts, accept)
    parts.finish(sha256, size)
    there = [path for path in paths if os.path.lexists(os.path.join(tree, path))]
    for number, path in enumerate(there):
        os.rename(os.path.join(tree, path), stage.new(number))
    return there
