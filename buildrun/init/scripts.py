"""Entry points for the programs among a directory's Python and shell scripts.

Nothing is run or imported: Python is read by `ast`, of shell scripts the first line counts.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.init import arguments, python_env
from buildrun.init.draft import Draft, Proposal, draft, template
from buildrun.store import stat_signature
from buildrun.store.files import read
from buildrun.workspace import gitignore
from buildrun.workspace.walk import Sink, walk

_MOST_SCRIPTS, _MOST_PROGRAMS = 2000, 500
_LARGEST = 1 << 20  # bytes
_SUFFIXES = (".py", ".sh", ".bash")
_NO_PROGRAM = re.compile(r"(test_.*|.*_test|conftest|setup|noxfile|__init__)\.py|.*_test\.sh")
_NO_PROGRAMS = frozenset(("test", "tests", "docs"))
_SHELLS = ("bash", "sh", "dash", "ksh", "zsh")
_INTERPRETER = re.compile(r"#![\w ./=+-]+")
_READS_ARGUMENTS = re.compile(r"\$\{?[1-9@*]|\bgetopts\b")


class Script(NamedTuple):
    """A Python or shell script."""

    path: str  # relative to the root
    text: str = ""  # of a shell script
    tree: ast.Module | None = None  # of Python
    interpreter: str = ""  # as its first line has it, with its options

    @property
    def name(self) -> str:
        """Return the file's name without its suffix."""
        return os.path.splitext(os.path.basename(self.path))[0]


class Found(NamedTuple):
    """The scripts of a directory, and what was passed over."""

    scripts: Sequence[Script]
    notes: Sequence[str]

    @property
    def trees(self) -> dict[str, ast.Module]:
        """Return Python's scripts by path."""
        return {item.path: item.tree for item in self.scripts if item.tree is not None}


def propose(root: str) -> Draft:
    """Return a project for the programs below a directory; raises ProjectError for none."""
    found = find(root)
    imported = {name.split(".")[-1] for tree in found.trees.values() for name in _imports(tree)}
    programs = [item for item in found.scripts if _is_program(item, imported)]
    if not programs:
        raise _nothing(root, found)
    if len(programs) > _MOST_PROGRAMS:
        raise _too_many(root, f"{_MOST_PROGRAMS} programs")
    names = _names(programs)
    proposals = [_proposal(item, names[item.path]) for item in programs]
    proposals.sort(key=lambda item: (item.name != "main", item.name))
    notes = list(found.notes)
    if proposals[0].name != "main":
        notes.append("no entry point is called `main`: name one with `-e`")
    environment = python_env.environment(root, lambda: found.trees)
    return draft(os.path.basename(root) or "project", environment, proposals, notes)


def find(root: str) -> Found:
    """Return all scripts that git would not ignore, in order; raises ProjectError for too many."""
    scripts, notes, sink = [], [], Sink(passing_over=True)
    for path, is_link in _paths(root, sink):
        if not path.isprintable():
            notes.append(f"{path}: passed over for its name")
        elif is_link:
            notes.append(f"{path}: passed over, it is a symbolic link")
        else:
            script = _read(root, path)
            if isinstance(script, Script):
                scripts.append(script)
            elif script:
                notes.append(f"{path}: {script}")
        if len(scripts) > _MOST_SCRIPTS:
            raise _too_many(root, f"{_MOST_SCRIPTS} scripts")
    notes += [f"{problem}, so it is passed over" for problem in sink.problems.values()]
    return Found(scripts, notes)


def _paths(root: str, sink: Sink) -> Iterator[tuple[str, bool]]:
    """Yield what may be a script by its name, and whether it is a symbolic link."""
    git = gitignore.Filter(os.fsencode(root))

    def choose(below: bytes, entries: list[bytes], descriptor: int) -> list[bytes]:
        if b"pyvenv.cfg" in entries:
            return []  # a virtualenv
        return [name for name in git(below, entries, descriptor) if name[:1] != b"."]

    for paths, signatures in walk(os.fsencode(root), b"", choose, sink):
        for path, signature in zip(map(os.fsdecode, paths), signatures, strict=True):
            suffix = os.path.splitext(path)[1]
            is_link = stat_signature.is_link(signature)
            if suffix in _SUFFIXES or (not suffix and not is_link):
                yield path, is_link


def _read(root: str, path: str) -> Script | str:
    """Return a script, or why it is none that can be read: empty for what is no script."""
    try:
        content = read(os.path.join(root, path), follow=False, limit=_LARGEST)
    except OSError as error:
        return f"passed over: {error.strerror}" if path.endswith(_SUFFIXES) else ""
    interpreter = _interpreter(content)
    if path.endswith(".py") or interpreter.startswith("python"):
        return _parse(path, content, interpreter)
    if path.endswith(_SUFFIXES) or interpreter.split(" ")[0] in _SHELLS:
        return Script(path, content.decode(errors="replace"), None, interpreter)
    return ""


def _interpreter(content: bytes) -> str:
    """Return what a `#!` line names, without its directory."""
    line = content[:200].split(b"\n")[0].decode(errors="replace").strip()
    words = line[2:].split() if _INTERPRETER.fullmatch(line) else []
    if words and os.path.basename(words[0]) == "env":
        words = words[2:] if words[1:2] == ["-S"] else words[1:]
    return " ".join([os.path.basename(words[0]), *words[1:]]) if words else ""


def _parse(path: str, content: bytes, interpreter: str) -> Script | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's own code
            tree = ast.parse(content)
    except SyntaxError as error:
        return f"passed over: line {error.lineno or 1}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"passed over: {str(error) or 'it is nested too deeply'}"
    return Script(path, "", tree, interpreter)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (each.name for each in node.names)


def _is_program(script: Script, imported: set[str]) -> bool:
    """Return whether a script is to be started, as docs/init.md has it."""
    *directories, file = script.path.split("/")
    if _NO_PROGRAM.fullmatch(file) or not _NO_PROGRAMS.isdisjoint(directories):
        return False
    if script.interpreter or script.tree is None:
        return bool(script.interpreter)
    if file == "__main__.py" or arguments.is_command_line(script.tree):
        return True
    does = (ast.For, ast.While, ast.With)
    return any(
        arguments.is_main_guard(node)
        or (script.name not in imported and (isinstance(node, does) or _is_call(node)))
        for node in script.tree.body
    )


def _is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _names(programs: Sequence[Script]) -> dict[str, str]:
    """Return a name for each program by its path: the file's own where no other has it."""
    if len(programs) == 1:
        return {programs[0].path: "main"}
    plain = {item.path: _plain_name(item) for item in programs}
    count = Counter(plain.values())
    return {
        path: name if name and count[name] == 1 else path.lstrip("-")
        for path, name in plain.items()
    }


def _plain_name(script: Script) -> str:
    above = os.path.basename(os.path.dirname(script.path))
    return (above or "main") if script.name == "__main__" else script.name.lstrip("-")


def _proposal(script: Script, name: str) -> Proposal:
    if script.tree is None:
        notes = []
        if _READS_ARGUMENTS.search(script.text):
            notes = ["it reads arguments: declare them under `parameters`, and add them below"]
        return Proposal(name, f"{script.interpreter} {_word(script.path)}", notes=notes)
    found = arguments.read(script.tree)
    command = " ".join((_python(script, script.tree), *found.words))
    return Proposal(name, command, found.parameters, notes=found.notes)


def _python(script: Script, tree: ast.Module) -> str:
    """Return the command that starts a Python program; as a module where it has to be one."""
    relative = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    module = script.path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    if relative and all(part.isidentifier() for part in module.split(".")):
        return f"python -m {module}"
    return f"python {_word(script.path)}"


def _word(path: str) -> str:
    return template(shlex.quote(f"./{path}" if path.startswith("-") else path))


def _too_many(root: str, what: str) -> ProjectError:
    message, hint = f"there are more than {what} here", "name the directory of one project"
    return ProjectError(message, place=printable(root), hint=hint)


def _nothing(root: str, found: Found) -> ProjectError:
    fact = "no Python or shell script here looks like a program"
    if not found.scripts:
        fact = "there is no Python or shell script here; R scripts and notebooks are not read"
    hint = "`--template sklearn`, `docker` or `pipeline` writes a project to start from"
    if found.scripts:
        hint += '; a program has `if __name__ == "__main__":` or a `#!` line'
    return ProjectError(
        "; ".join((fact, *map(printable, found.notes))), place=printable(root), hint=hint
    )
