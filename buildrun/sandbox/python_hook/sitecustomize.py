"""Has a Python program tell which variables it reads, what it imports, and where that is sought.

Python imports a module of this name when it starts. This one runs in any Python from 3.6 on, writes
a line with a NUL at its end for each event, and must never fail.
"""

import os
import sys

MYPY = False
if MYPY:  # a program need not load `typing` for us
    from collections.abc import Callable
    from typing import Any

    Tell = Callable[[bytes, bytes], None]


# Modules that look through Python's path for others.
IMPORTERS = (
    "_frozen_importlib_external", "importlib._bootstrap_external", "importlib.metadata",
    "importlib_metadata", "pkg_resources",
)  # fmt: skip


def _watch(log: str, with_files: bool) -> None:
    told = set()

    def tell(kind: bytes, text: bytes) -> None:
        if (kind, text) in told and kind != b"import":
            return
        told.add((kind, text))
        try:
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(out, kind + b" " + text + b"\0")
            finally:
                os.close(out)
        except OSError:
            pass

    _watch_variables(tell)
    _watch_files(tell, os.fsencode(log), with_files)


def _watch_variables(tell: "Tell") -> None:
    kind: Any = type(os.environ)
    copied = set()  # whoever goes through all variables asks for each, and means none

    class Environ(kind):  # type: ignore[misc]
        def __getitem__(self, name: "Any") -> "Any":
            if name in copied:
                copied.discard(name)
            elif isinstance(name, str):
                tell(b"variable", os.fsencode(name))
            return kind.__getitem__(self, name)

        def __iter__(self) -> "Any":
            names = list(kind.__iter__(self))
            copied.update(names)
            return iter(names)

    Environ.__name__ = Environ.__qualname__ = kind.__name__
    os.environ.__class__ = Environ


def _watch_files(tell: "Tell", log: bytes, with_files: bool) -> None:
    def opened(path: "Any", flags: int) -> None:
        if isinstance(path, (str, bytes)):
            path = os.path.abspath(os.fsencode(path))
            if path != log:
                tell(b"open", str(flags).encode() + b" " + path)

    def hook(event: str, arguments: "Any") -> None:
        if event in ("os.listdir", "os.scandir"):
            listed(arguments[0] or ".")
        elif event == "import":
            tell(b"module", os.fsencode(arguments[0].partition(".")[0]))
        elif with_files and event == "open":
            opened(arguments[0], arguments[2] or 0)
        elif with_files and event == "os.rename":
            opened(arguments[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def listed(path: "Any") -> None:
        caller = sys._getframe(2).f_globals.get("__name__")
        if caller in IMPORTERS and isinstance(path, (str, bytes)):
            tell(b"import", os.fsencode(os.path.realpath(path)))
        elif with_files:
            opened(path, os.O_DIRECTORY)

    sys.addaudithook(hook)


def _go_on() -> None:
    """Import the module of this name that would have been found without this one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    ours = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ImportError:
        sys.modules[__name__] = ours


try:
    _watch(os.environ["BUILDRUN_WATCH_LOG"], "BUILDRUN_WATCH_FILES" in os.environ)
except Exception:  # noqa: S110
    pass
_go_on()
