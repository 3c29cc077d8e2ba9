"""What a command did with files beyond what its step declares."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import listed, printable
from buildrun.planning.model import Plan, Step
from buildrun.workspace import conditions
from buildrun.workspace.names import is_always_ignored

if TYPE_CHECKING:
    from buildrun.sandbox.accesses import Accesses
    from buildrun.workspace.select import FileSet

# Names that a message tells; the rest is counted.
_SHOWN = 5

_TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/")  # noqa: S108
_VERSION_CONTROL = (".git", ".hg", ".svn")
_COMPILED = re.compile(r"(?P<directory>(?:.*/)?)__pycache__/(?P<name>[^/.]+)\.[^/]*\.pyc")

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
        self.root = os.path.realpath(plan.root)
        self._plan = plan
        self._step = step
        self._outputs = [path.rstrip("/") for path in step.outputs]
        self._upstream = [path.rstrip("/") for path in upstream]
        self._paths = [os.path.realpath(path) for _, path in step.paths]
        self._files, self._above = _places(self.root, inputs)
        self._makers = {
            path.rstrip("/"): point.name
            for point in (plan.spec.entry_points if plan.spec is not None else ())
            for path in point.outputs
        } | {path.rstrip("/"): each.entry_point for each in plan.steps for path in each.outputs}

    def inside(self, path: str) -> str | None:
        """Return a path relative to the project, None where it does not lie there."""
        if path == self.root:
            return "."
        prefix = self.root.rstrip("/") + "/"
        return path[len(prefix) :] if path.startswith(prefix) else None

    def is_output(self, path: str) -> bool:
        """Return whether the step makes a path."""
        return _in_any(path, self._outputs)

    def is_input(self, path: str) -> bool:
        """Return whether a path in the project is declared to be read."""
        place = os.path.join(self.root, path)
        return (
            place in self._files
            or place in self._above
            or self.is_output(path)
            or _in_any(path, self._upstream)
            or self.is_foreign_input(place)
        )

    def is_foreign_input(self, path: str) -> bool:
        """Return whether an absolute path is an input by a link or a parameter."""
        return path in self._files or _in_any(path, self._paths)

    def maker(self, path: str) -> str | None:
        """Return another entry point that makes a path."""
        while path:
            if path in self._makers:
                return self._makers[path]
            path = path.rpartition("/")[0]
        return None


def find(
    declared: Declaration,
    plan: Plan,
    step: Step,
    accesses: Accesses,
    environ: Mapping[str, str],
    given: Mapping[str, str],
) -> Undeclared:
    """Return what a command did beyond what its step declares.

    environ: the variables of buildrun's caller. given: those that the command had.
    """
    reads: dict[str, None] = {}
    outside: dict[str, None] = {}
    for path in accesses.read:
        inside = declared.inside(path)
        if inside is None:
            if not declared.is_foreign_input(path):
                outside[path] = None
            continue
        source = _source(inside)
        if not _is_nothing(source) and not declared.is_input(source):
            reads[source] = None
    writes: dict[str, None] = {}
    for path in accesses.written:
        inside = declared.inside(path)
        if inside is None:
            if _is_lasting(path, given):
                outside[path] = None
        elif not _is_nothing(inside) and not declared.is_output(inside) and _is_file(path):
            writes[inside] = None
    listings = _listings(declared, accesses, accesses.listed)
    searched = _listings(declared, accesses, accesses.searched)
    makers = {path: maker for path in reads if (maker := declared.maker(path)) is not None}
    return Undeclared(
        [path for path in reads if path not in makers],
        makers,
        list(writes),
        {path: names for path, names in listings.items() if names},
        list(outside),
        _variables(step, accesses, environ, given),
        {
            **_looked_up(declared, accesses),
            **{
                path: conditions.observe(declared.root, path, names=True, outputs=plan.outputs)
                for path in (*listings, *searched)
            },
        },
    )


def describe(found: Undeclared, step: Step) -> list[Finding]:
    """Return what people are told, with the line to add to MLproject."""
    findings = []
    if found.reads:
        findings.append(
            Finding(
                "undeclared-read",
                f"the command read {_named(found.reads)}, which {_what(step)}",
                _read_hint(step, found.reads),
            )
        )
    for maker in dict.fromkeys(found.of_others.values()):
        paths = [path for path, by in found.of_others.items() if by == maker]
        add = "" if step.inputs is None else f", and {_lines(paths)} to `inputs`"
        findings.append(
            Finding(
                "undeclared-read",
                f"the command read {_named(paths)}, which `{printable(maker)}` makes, and does not "
                "depend on it",
                f"add `- {printable(maker)}` to `depends_on`{add}",
            )
        )
    if found.writes and step.outputs:
        text = f"the command wrote {_named(found.writes)}, which `outputs` does not name"
        hint = f"add to `outputs`: {_lines(found.writes)}; or write it below `$TMPDIR`"
        findings.append(Finding("undeclared-write", text, hint))
    for directory, names in found.listings.items():
        beneath = "**" if directory == "." else f"{directory}/**"
        text = (
            f"the command listed the directory `{printable(directory)}`, in which {_named(names)} "
            f"{'is' if len(names) == 1 else 'are'} no input"
        )
        hint = f"add to `inputs`: `- {_yaml(beneath)}`"
        findings.append(Finding("undeclared-listing", text, hint))
    if found.outside:
        text = f"the command used {_named(found.outside)}, out of the project"
        hint = "what is there is no part of the key; declare a parameter of the type `path` for it"
        findings.append(Finding("outside-access", text, hint))
    if found.variables:
        names = list(found.variables)
        text = f"the command read the variables {_named(names)}, which are no part of the key"
        hint = f"add to `key_env`: {_lines(names)}; or to `pass_env`, where they decide nothing"
        findings.append(Finding("undeclared-variable", text, hint))
    return findings


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
    key = {
        "undeclared-read": "inputs",
        "undeclared-listing": "inputs",
        "undeclared-write": "outputs",
    }
    line, column = document.place(("entry_points", step.entry_point, key.get(code, "command")))
    return f"{os.path.basename(file)}:{line}:{column}: "


def _what(step: Step) -> str:
    return "is no input" if step.inputs is None else "`inputs` does not name"


def _read_hint(step: Step, paths: Sequence[str]) -> str:
    if any(map(_is_history, paths)):
        return "what version control knows is never an input; hand it in as a parameter"
    if step.inputs is None:
        return f"it is ignored; name the step's inputs under `inputs`, with {_lines(paths)}"
    return f"add to `inputs`: {_lines(paths)}"


def _named(paths: Sequence[str]) -> str:
    return listed([printable(path) for path in paths], _SHOWN)


def _lines(paths: Sequence[str]) -> str:
    shown = ", ".join(f"`- {_yaml(path)}`" for path in paths[:_SHOWN])
    return shown + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")


_PLAIN = re.compile(r"[\w./][\w./ -]*(?<! )")


def _yaml(text: str) -> str:
    """Return a path as YAML takes it."""
    if _PLAIN.fullmatch(text) and not text.isdecimal():
        return text
    return "'" + printable(text).replace("'", "''") + "'"


def _places(root: str, inputs: FileSet | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return where inputs really lie, and what is on the way to them as they are written."""
    files: set[str] = set()
    above: set[str] = {root}
    real: dict[str, str] = {}
    for path in inputs.selection.paths if inputs is not None else ():
        directory, name = os.path.split(os.path.join(root, os.fsdecode(path).rstrip("/")))
        if directory not in real:
            real[directory] = os.path.realpath(directory)
            here = directory
            while here not in above and here != "/":
                above.add(here)
                here = os.path.dirname(here)
        files.add(os.path.join(real[directory], name))
    return frozenset(files), frozenset(above)


def _source(path: str) -> str:
    """Return the source file where Python has read what it has compiled of it."""
    found = _COMPILED.fullmatch(path)
    return f"{found['directory']}{found['name']}.py" if found else path


def _is_nothing(path: str) -> bool:
    """Return whether a path is what programs leave behind, or the project file."""
    if _is_history(path):
        return False
    return path == "MLproject" or any(is_always_ignored(os.fsencode(n)) for n in path.split("/"))


def _is_history(path: str) -> bool:
    return path.split("/", 1)[0] in _VERSION_CONTROL


def _is_file(path: str) -> bool:
    return os.path.lexists(path) and not os.path.isdir(path)


def _is_lasting(path: str, environ: Mapping[str, str]) -> bool:
    """Return whether something written out of the project is more than temporary."""
    temporary = os.path.realpath(environ.get("TMPDIR") or _TEMPORARY[0])
    if path.startswith((*_TEMPORARY, temporary.rstrip("/") + "/")):
        return False
    return not any(part.startswith(".") for part in path.split("/")) and _is_file(path)


def _in_any(path: str, directories: Collection[str]) -> bool:
    return any(path == one or path.startswith(one + "/") for one in directories)


def _listings(
    declared: Declaration, accesses: Accesses, paths: Iterable[str]
) -> dict[str, list[str]]:
    """Return directories that were listed, each with what in it is not declared."""
    found, made = {}, frozenset(accesses.written)
    for path in paths:
        inside = declared.inside(path)
        if inside is None or (inside != "." and _is_nothing(inside)) or _is_history(inside):
            continue
        try:
            names = sorted(os.listdir(path))
        except OSError:
            continue
        beneath = "" if inside == "." else inside + "/"
        found[inside] = [
            name
            for name in names
            if not _is_nothing(beneath + name)
            and not _is_history(name)
            and os.path.join(path, name) not in made
            and not declared.is_input(beneath + name)
        ]
    return found


def _looked_up(declared: Declaration, accesses: Accesses) -> dict[str, str]:
    """Return what was looked for in the project, and is neither an input nor made."""
    found = {}
    for path, what in accesses.looked_up.items():
        inside = declared.inside(path)
        if inside in (None, ".") or inside is None or _is_nothing(inside):
            continue
        if not declared.is_input(inside):
            found[inside] = what
    return found


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
