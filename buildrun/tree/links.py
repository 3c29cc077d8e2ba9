"""Where links lead."""

import os


def leads_out(root: bytes, path: bytes) -> bool:
    """Return whether a path, with all links followed, is not within the root.

    A link whose target is absolute leads out wherever it ends: it would elsewhere.
    path: relative to the root. What it leads to need not exist.
    """
    place = os.path.join(root, path)
    try:
        target = os.readlink(place)
    except OSError:
        target = b""
    if target.startswith(b"/") or _is_outside(os.path.join(os.path.dirname(path), target)):
        return True
    home = os.path.realpath(root)
    return _is_outside(os.path.relpath(os.path.realpath(place), home))


def is_behind(root: bytes, path: bytes) -> bool:
    """Return whether a directory on the way to a path is a link that leaves the root."""
    above = os.path.dirname(path)
    while above:
        if os.path.islink(os.path.join(root, above)) and leads_out(root, above):
            return True
        above = os.path.dirname(above)
    return False


def _is_outside(path: bytes) -> bool:
    return os.path.normpath(path).split(b"/", 1)[0] == b".."
