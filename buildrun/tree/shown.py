"""How a path of a tree is shown in a message."""

import os

from buildrun.printable import printable


def shown(path: bytes) -> str:
    """Return a path on one line and printable."""
    return printable(os.fsdecode(path))
