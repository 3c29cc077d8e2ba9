"""What a command did with files beyond what its step declares."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import listed, printable
from buildrun.planning.model import Plan, Step
from buildrun.store.files import and_above, is_within, names_in
from buildrun.workspace import conditions, glob, names

if TYPE_CHECKING:
    from buildrun.sandbox.accesses import Accesses
    from buildrun.workspace.select import FileSet

# Names that a message tells; the rest is counted.
_SHOWN = 5

_TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/")  # noqa: S108

# Where a finding is mended in an entry point; the others at its command.
_MENDED_AT = {
    "undeclared-read": "inputs",
    "undeclared-listing": "inputs",
    "undeclared-write": "outputs",
}

# What a caller's variables may be called that say where and how, and not what.
_USUAL = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|COLORTERM|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|TEMP|TMP|PWD|OLDPWD"
    r"|SHLVL|_|COLUMNS|LINES|DISPLAY|HOSTNAME|MAIL|EDITOR|PAGER|XDG_.*|SSH_.*|DBUS_.*|PYTHON(?!HASH"
    r"SEED).*|PIP_.*|UV_.*|VIRTUAL_ENV|CONDA_.*|_CE_.*|MLFLOW_.*|BUILDRUN_.*|CI|GITHUB_.*|GITLAB_.*"
    r"|NO_COLOR|FORCE_COLOR|CLICOLOR.*|DEBIAN_FRONTEND|SSL_CERT_.*|REQUESTS_CA_BUNDLE"
    r"|CURL_CA_BUNDLE|(?i:https?_proxy|no_proxy|all_proxy|ftp_proxy)"
)


class Finding(NamedTuple):
    """Something that a step did not declare, see ``Reason``; hint: what to do."""

    code: str
    detail: str
    hint: str


class Undeclared(NamedTuple):
    """What was done beyond what is declared; paths relative to the project but for ``outside``.

    reads: files. of_others: outputs of other entry points that were read, with their makers.
    writes: files. listings: directories that hold what is not declared. outside: files out of the
    project that are neither the system's nor of the environment. variables: of the caller.
    conditions: see ``Evidence``.
    """

    reads: Sequence[str]
    of_others: Mapping[str, str]
    writes: Sequence[str]
    listings: Mapping[str, Sequence[str]]
    outside: Sequence[str]
    variables: Sequence[str]
    conditions: Mapping[str, str]


class Declaration:
    """What a step declares, for one look at what its command did."""

    def __init__(
        self, plan: Plan, step: Step, inputs: FileSet | None, upstream: Iterable[str]
    ) -> None:
        """Take the step; inputs: as they were; upstream: the outputs of steps before it."""
        self.plan, self.step = plan, step
        self.root = os.path.realpath(plan.root)
        made = tuple(upstream)
        self._files = _places(self.root, inputs) | self._above((*step.outputs, *made))
        self._outputs = self._within(step.outputs)
        self._readable = (
            *self._outputs,
            *self._within(made),
            *(os.path.realpath(path) for _, path in step.paths),
        )
        points = plan.spec.entry_points if plan.spec is not None else ()
        self._makers = {path.rstrip("/"): each.name for each in points for path in each.outputs}
        for each in plan.steps:
            self._makers |= {path.rstrip("/"): each.entry_point for path in each.outputs}

    def inside(self, path: str) -> str:
        """Return a path relative to the project, "" where it does not lie there."""
        return os.path.relpath(path, self.root) if is_within(path, self.root) else ""

    def is_output(self, path: str) -> bool:
        """Return whether the step makes a path."""
        return _in_any(path, self._outputs)

    def is_input(self, path: str) -> bool:
        """Return whether a path, in the project or not, is declared to be read."""
        return path in self._files or _in_any(path, self._readable)

    def maker(self, path: str) -> str | None:
        """Return another entry point that makes a path, which is relative to the project."""
        return next((self._makers[each] for each in and_above(path) if each in self._makers), None)

    def _within(self, paths: Iterable[str]) -> list[str]:
        """Return where outputs are as they are declared, and where links lead on the way there."""
        places = [os.path.join(self.root, path.rstrip("/")) for path in paths]
        return [*places, *(real_output(self.root, path) for path in places)]

    def _above(self, paths: Iterable[str]) -> set[str]:
        """Return what is on the way to outputs as they are declared."""
        above = (each for path in paths for each in and_above(os.path.dirname(path.rstrip("/"))))
        return {os.path.join(self.root, path) for path in above}

    def passing(self) -> list[str]:
        """Return what steps make, and what leads there: it comes and goes in what is listed."""
        made = (each for path in self.plan.outputs for each in and_above(os.path.normpath(path)))
        return [os.path.join(self.root, path) for path in made]


def real_output(root: str, output: str) -> str:
    """Return the absolute path of an output, without links but for the output itself."""
    above, name = os.path.split(os.path.join(root, output.rstrip("/")))
    return os.path.join(os.path.realpath(above), name)


def find(
    declared: Declaration,
    accesses: Accesses,
    environ: Mapping[str, str],
    given: Mapping[str, str],
) -> Undeclared:
    """Return what a command did beyond what its step declares.

    environ: the variables of buildrun's caller. given: those that the command had.
    """
    reads: list[str] = []
    writes, outside = [], list[str]()
    for path in map(names.source, accesses.read):
        inside = declared.inside(path)
        if not declared.is_input(path) and not _is_nothing(inside):
            (reads if inside else outside).append(inside or path)
    for path in accesses.written:
        inside = declared.inside(path)
        if not inside:
            outside += [path] if _is_lasting(path, given) else []
        elif not _is_nothing(inside) and not declared.is_output(path) and _is_file(path):
            writes.append(inside)
    listings = _listings(declared, accesses, accesses.listed)
    searched = _listings(declared, accesses, accesses.searched)
    held, root = conditions.observe, declared.root
    makers = {path: maker for path in reads if (maker := declared.maker(path)) is not None}
    return Undeclared(
        [path for path in dict.fromkeys(reads) if path not in makers],
        makers,
        writes,
        {path: undeclared for path, undeclared in listings.items() if undeclared},
        list(dict.fromkeys(outside)),
        _variables(declared.step, accesses, environ, given),
        _looked_up(declared, accesses)
        | {
            path: held(root, path, names=True, outputs=declared.plan.outputs)
            for path in (*listings, *searched)
        },
    )


def describe(found: Undeclared, step: Step, *, refused: bool) -> list[Finding]:
    """Return what people are told, with the line to add to MLproject.

    refused: a sandbox has kept the command from what it wanted to read.
    """
    told = (*_of_files(found, step, refused), *_of_others(found, refused))
    return [Finding(*each) for each in told]


_REFUSED = "the sandbox has kept the command from"


def _of_files(found: Undeclared, step: Step, refused: bool) -> Iterator[tuple[str, str, str]]:
    """Yield what there is to tell of the project's files."""
    read = _REFUSED if refused else "the command read"
    if found.reads:
        what = f"{_are(found.reads)} no input" if step.inputs is None else "`inputs` does not name"
        text = f"{read} {_named(found.reads)}, which {what}"
        yield "undeclared-read", text, _read_hint(step, found.reads)
    for maker in dict.fromkeys(found.of_others.values()):
        paths = [path for path, by in found.of_others.items() if by == maker]
        add = "" if step.inputs is None else f", and {_lines(paths, glob.escape)} to `inputs`"
        text = f"{read} {_named(paths)}, which `{printable(maker)}` makes, and does not "
        hint = f"add `- {printable(maker)}` to `depends_on`{add}"
        yield "undeclared-read", text + "depend on it", hint
    if found.writes and step.outputs:
        text = f"the command wrote {_named(found.writes)}, which `outputs` does not name"
        hint = f"add to `outputs`: {_lines(found.writes)}; or write it below `$TMPDIR`"
        yield "undeclared-write", text, hint
    for path, held in found.listings.items():
        text = f"the command listed the directory `{printable(path)}`, in which {_named(held)} "
        hint = f"add to `inputs`: {_lines(['**' if path == '.' else f'{glob.escape(path)}/**'])}"
        hint += "; as it is, the names there count, and not what is in them" * (path == ".")
        yield "undeclared-listing", text + f"{_are(held)} no input", hint


def _of_others(found: Undeclared, refused: bool) -> Iterator[tuple[str, str, str]]:
    """Yield what there is to tell of other files, and of variables."""
    if found.outside:
        used = _REFUSED if refused else "the command used"
        text = f"{used} {_named(found.outside)}, out of the project"
        hint = "what is there is no part of the key; declare a parameter of the type `path` for it"
        if refused:
            hint = "list it under `allow` of `sandbox`"
        yield "outside-access", text, hint
    if read := found.variables:
        variables = f"variable{'s' * (len(read) > 1)} {_named(read)}"
        text = f"the command read the {variables}, which {_are(read)} no part of the key"
        decides = "it decides" if len(read) == 1 else "they decide"
        hint = f"add to `key_env`: {_lines(read)}; or to `pass_env`, where {decides} nothing"
        yield "undeclared-variable", text, hint


def place(plan: Plan, step: Step, code: str) -> str:
    """Return where a finding is to be mended, such as ``MLproject:7:5: ``, or ""."""
    from buildrun.project.diagnostics import Diagnostic
    from buildrun.project.locate import find_mlproject
    from buildrun.project.yaml_loader import load
    from buildrun.store.memo import DependencyTracker

    file = find_mlproject(plan.root)
    document = load(file, DependencyTracker({})) if file is not None else None
    if file is None or document is None or isinstance(document, Diagnostic):
        return ""
    key = _MENDED_AT.get(code, "command")
    line, column = document.place(("entry_points", step.entry_point, key))
    return f"{os.path.basename(file)}:{line}:{column}: "


def _read_hint(step: Step, paths: Sequence[str]) -> str:
    if any(map(_is_history, paths)):
        return "what version control knows is never an input; hand it in as a parameter"
    if step.inputs is None:
        ignored = "it is ignored" if len(paths) == 1 else "they are ignored"
        named = _lines(paths, glob.escape)
        return f"{ignored}; name the step's inputs under `inputs`, with {named}"
    return f"add to `inputs`: {_lines(paths, glob.escape)}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _named(paths: Sequence[str]) -> str:
    return listed([printable(path) for path in paths], _SHOWN)


def _lines(paths: Sequence[str], escape: Callable[[str], str] = str) -> str:
    """Return lines for a list in MLproject; escape: makes patterns of the paths."""
    from buildrun.project.rewrite import scalar

    shown = ", ".join(f"`- {scalar(escape(path))}`" for path in paths[:_SHOWN])
    return shown + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")


def _places(root: str, inputs: FileSet | None) -> Set[str]:
    """Return where inputs really lie, and what is on the way to them as they are written."""
    found = {root}
    real: dict[str, str] = {}
    for path in inputs.selection.paths if inputs is not None else ():
        directory, _, name = os.fsdecode(path).rstrip("/").rpartition("/")
        if directory not in real:
            place = os.path.join(root, directory).rstrip("/")
            real[directory] = os.path.realpath(place).rstrip("/")
            found.update(itertools.takewhile(lambda each: each != root, and_above(place)))
        found.add(f"{real[directory]}/{name}")
    return found


def _is_nothing(path: str) -> bool:
    """Return whether a path is what programs leave behind, or the project file."""
    return path == "MLproject" or (names.is_leftover(path) and not _is_history(path))


def _is_history(path: str) -> bool:
    return path.split("/", 1)[0] in names.VERSION_CONTROL


def _is_file(path: str) -> bool:
    return os.path.lexists(path) and not os.path.isdir(path)


def _is_lasting(path: str, environ: Mapping[str, str]) -> bool:
    """Return whether something written out of the project is more than temporary."""
    temporary = os.path.realpath(environ.get("TMPDIR") or _TEMPORARY[0]).rstrip("/") + "/"
    is_temporary = path.startswith((*_TEMPORARY, temporary))
    return not is_temporary and "/." not in path and _is_file(path)


def _in_any(path: str, directories: Iterable[str]) -> bool:
    return any(is_within(path, each) for each in directories)


def _listings(
    declared: Declaration, accesses: Accesses, directories: Iterable[str]
) -> dict[str, list[str]]:
    """Return directories that were listed, each with what in it is not declared."""
    found, made = {}, frozenset(accesses.written)
    for directory in directories:
        inside = declared.inside(directory)
        if not inside or names.is_leftover(inside) or not os.path.isdir(directory):
            continue
        held = (os.path.join(directory, name) for name in sorted(names_in(directory)))
        found[inside] = [
            os.path.basename(path)
            for path in held
            if path not in made
            and not declared.is_input(path)
            and (each := declared.inside(path)) != "MLproject"
            and not names.is_leftover(each)
            and declared.maker(each) is None  # what steps make comes and goes
        ]
    return found


def _looked_up(declared: Declaration, accesses: Accesses) -> dict[str, str]:
    """Return what was looked for in the project, and is neither an input nor made."""
    return {
        inside: _with_size(declared.root, inside) if what == "file" else what
        for path, what in accesses.looked_up.items()
        if (inside := declared.inside(path)) not in ("", ".")
        and not _is_nothing(inside)
        and not declared.is_input(path)
    }


def _with_size(root: str, path: str) -> str:
    """Return the condition on a file that was there; one that has gone meanwhile is to break it."""
    now = conditions.observe(root, path)
    return now if now.startswith("file:") else "file:0"


def _variables(
    step: Step, accesses: Accesses, environ: Mapping[str, str], given: Mapping[str, str]
) -> list[str]:
    """Return the variables that were read as the caller had them, and that are not usual ones."""
    named = {*(name for name, _ in (*step.env, *step.key_env)), *step.pass_env}
    return [
        name
        for name in accesses.variables
        if name in environ
        and given.get(name) == environ[name]
        and name not in named
        and not _USUAL.fullmatch(name)
    ]
