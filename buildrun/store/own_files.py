"""What buildrun itself has written into projects, which decides no result: reports, and its store.

A report is passed over only as long as it is as it was written.
"""

import json
import os

from buildrun.store import stat_signature
from buildrun.store.files import is_within, make_directory, publish, read_or_none
from buildrun.store.home import Home

# So many of the latest are remembered.
_MOST = 200


def note(home: Home, path: str) -> None:
    """Remember that a file was written; path: absolute, links followed.

    What cannot be remembered counts as any other file.
    """
    try:
        signature = stat_signature.of(os.lstat(path))
        known = {**_known(home), path: signature.hex()}
        make_directory(home.memo)
        publish(_path(home), json.dumps(dict(list(known.items())[-_MOST:])).encode())
    except OSError:
        pass


def is_ours(home: Home, path: str) -> bool:
    """Return whether a file is as it was written; path: absolute, links followed."""
    signature = _known(home).get(path)
    return signature is not None and signature == _signature(path)


def below(home: Home, root: str) -> list[str]:
    """Return the paths in a project that are ours, relative to it."""
    root = os.path.realpath(root)
    place, known = os.path.realpath(home.root), _known(home)
    return [
        os.path.relpath(path, root)
        for path in (*known, place)
        if path != root
        and is_within(path, root)
        and (path == place or _signature(path) == known[path])
    ]


def _path(home: Home) -> str:
    return os.path.join(home.memo, "reports.json")


def _known(home: Home) -> dict[str, str]:
    try:
        found = json.loads(read_or_none(_path(home)) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _signature(path: str) -> str | None:
    try:
        return stat_signature.of(os.lstat(path)).hex()
    except (OSError, ValueError):
        return None
