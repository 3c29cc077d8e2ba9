"""Programs that list directories in search of single names, and do not tell so."""

import os
import re

from buildrun.sandbox.python_log import HOOK

# They list each directory once, rather than look for many names in it.
_MAKE = (b"make", b"gmake")

# Options by which Python imports no `sitecustomize`, or not ours.
_SILENT = re.compile(rb"-[bBdhiOPqRsuvx]*[IES]")


def is_search(process: int) -> bool:
    """Return whether a listing by a process is taken for one; raises OSError if it is gone.

    Its Python tells itself which listings its imports do, where it has loaded what does that.
    """
    program = os.path.basename(os.readlink(b"/proc/%d/exe" % process))
    if program in _MAKE:
        return True
    return program.startswith(b"python") and not _tells(process)


def _tells(process: int) -> bool:
    with open(f"/proc/{process}/environ", "rb") as file:
        if os.fsencode(HOOK) not in file.read():
            return False
    with open(f"/proc/{process}/cmdline", "rb") as file:
        words = file.read().split(b"\0")[1:]
    for word in words:
        if not word.startswith(b"-"):
            break
        if _SILENT.match(word):
            return False
    return True
