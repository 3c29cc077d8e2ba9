"""Writing files so that a reader sees all of the new content or none of it."""

from __future__ import annotations

import os


def publish(path: str, content: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at ``path`` in one step.

    Raises OSError; then the old file, if any, is untouched and no temporary file is left.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
