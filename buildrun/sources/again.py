"""A commit that was checked out before, checked out again at the same place.

What a warm run needs of sources, and nothing else.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from buildrun.home import Home
from buildrun.sources import workdir
from buildrun.sources.checkout import Objects, check_out
from buildrun.sources.workdir import Workdir


class Again(NamedTuple):
    """How a working directory is had again; JSON values.

    place, name: see ``workdir.claim``. parts: path in the directory, the objects there, and the
    lock to share while they are needed, "" for none; a submodule after what it lies in.
    """

    place: str
    name: str
    parts: tuple[tuple[str, Objects, str], ...]


def open_again(
    value: Any, home: Home, environ: Mapping[str, str], meanwhile: Callable[[], None]
) -> Workdir | None:
    """Return the directory with its files, or None where the long way has to be gone.

    value: an ``Again`` as it comes from JSON. meanwhile: is called while git is at work.
    """
    again = Again(*value)
    workdir.collect(home)
    opened = workdir.claim_place(home, again.place, again.name)
    if opened is None:
        return None
    try:
        for path, objects, use in again.parts:
            if not _fill(opened, path, Objects(*objects), use, environ, meanwhile):
                opened.discard()
                return None
    except OSError:
        opened.discard()
        return None
    except BaseException:
        opened.discard()
        raise
    return opened


def _fill(
    opened: Workdir,
    path: str,
    objects: Objects,
    use: str,
    environ: Mapping[str, str],
    meanwhile: Callable[[], None],
) -> bool:
    if use:
        opened.borrow(use)
    where = os.path.join(opened.path, path) if path else opened.path
    os.makedirs(where, exist_ok=True)
    return not check_out(where, objects, environ, {}, meanwhile)
