"""How a path is shown in a message."""

import os


def shown(path: bytes) -> str:
    """Return a path on one line and printable."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in os.fsdecode(path)
    )
