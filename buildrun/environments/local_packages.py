"""Packages that requirements name by a path: what counts of them, and copies to build from.

A tool that builds from a directory remembers what it built by the times of some files in it, and
leaves files behind. So each build gets a copy, at a place that was never there before, of just the
files that are in the key. Around it lies what lies around the package: links to it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote, unquote

from buildrun.console import redact_in_key
from buildrun.environments import requirements
from buildrun.environments.failures import ToolFailure
from buildrun.environments.requirements import Line
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import ProjectSpec
from buildrun.store import digest, files, listing
from buildrun.store.listing import Entry
from buildrun.store.memo import DependencyTracker
from buildrun.workspace import gitignore, select
from buildrun.workspace.fingerprints import Fingerprints
from buildrun.workspace.gitignore import GitIndex
from buildrun.workspace.select import FileSet
from buildrun.workspace.walk import Selection

# What an editable install takes from the directory; the code itself is used where it lies.
_BUILD_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in")

# What they name and what decides nothing.
_PROSE = re.compile(r"readme|licen[cs]e", re.IGNORECASE)

# A package's own packages: `bar = {path = "../bar"}`.
_PATHS = re.compile(r"""\bpath\s*=\s*["']([^"'\n]+)["']""")

# What builds leave beside a package's sources, unless it is a package itself.
_BUILT = ("build", "dist")

# What git writes into its directory at its leisure, which shall not be the user's.
_GITS_OWN = ("HEAD", "index")

_CHUNK = 1 << 20
# A larger file is not copied: no build writes into it, and it may not fit.
_LARGE = 64 << 20


def package_files(path: str, project: ProjectSpec) -> FileSet:
    """Return what counts of a package's directory; raises OSError."""
    dropped = excluded(path, project)

    def chosen(root: bytes, tracked: GitIndex) -> Selection:
        return select.without(select.project(root, tracked), dropped)

    found = Fingerprints(path, None).selected(chosen)
    if found.problems:
        raise OSError(errno.EIO, found.problems[0], path)
    return found


def excluded(path: str, project: ProjectSpec) -> list[str]:
    """Return what is no part of a package though it lies there: what was built, and outputs."""
    built = [name for name in _BUILT if not os.path.exists(os.path.join(path, name, "__init__.py"))]
    outputs = [os.path.normpath(os.path.join(project.root, each)) for each in project.outputs]
    return [*built, *(os.path.relpath(each, path) for each in outputs if each != path)]


def describe(
    line: Line, root: str, reader: DependencyTracker, project: ProjectSpec
) -> dict[str, str]:
    """Return what decides the line's effect, free of absolute paths where it can be.

    A local package counts with the files that it is built from, less outputs of steps, and
    with its metadata, which is all that counts for locks; an editable one with its place and the
    files that its build reads. Variables in a line count with a digest of their values, unless they
    stand where a URL has its credentials.
    """
    parts = {"text": redact_in_key(line.text)}
    if line.constraint:
        parts["kind"] = "constraint"
    for name in requirements.VARIABLE.findall(line.text):
        if f"${{{name}}}" in parts["text"]:
            value = reader.variable(name) or ""
            parts[f"variable {name}"] = digest.content(value.encode(errors="replace"))
    path = requirements.local_path(line, root)
    if path is None:
        return parts
    from buildrun.environments import local_metadata  # and parsers, which few projects need

    reader.untrackable = True
    try:
        if requirements.EDITABLE.match(line.text):
            return {**parts, "editable": path, "content": _build_content(path)}
        whole = _content_of(path) if os.path.isfile(path) else _digest(path, project)
        return {**parts, "content": whole, "metadata": local_metadata.content(path, whole)}
    except OSError as error:
        raise EnvironmentFailure(
            f"`{line.text}` names `{path}`, which cannot be read: {error.strerror}",
            place=line.place,
            hint="paths are relative to the project's root",
        ) from None


def _build_content(path: str) -> str:
    """Return the digest of what an editable install takes from a directory; raises OSError.

    These are the files that say how to build it, and those that they name.
    """
    texts = [files.text(os.path.join(path, name)) for name in _BUILD_FILES]
    names = [
        name
        for name in sorted(os.listdir(path))
        if name in _BUILD_FILES or (_is_named(name, texts) and not _PROSE.match(name))
    ]
    paths = {name: os.path.join(path, name) for name in names}
    found = [[name, _content_of(each)] for name, each in paths.items() if os.path.isfile(each)]
    return digest.key("editable", found)


def _is_named(name: str, texts: Sequence[str]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts)


def _content_of(path: str) -> str:
    return Fingerprints(os.path.dirname(path), None).content(path)


def _digest(
    path: str, project: ProjectSpec, found: FileSet | None = None, trail: Sequence[str] = ()
) -> str:
    """Return the digest of files, of what links lead to outside, and of the packages they need."""
    found = package_files(path, project) if found is None else found
    parts = [found.digest, *_behind_links(path, found)]
    for name in _PATHS.findall(files.text(os.path.join(path, "pyproject.toml"))):
        other = os.path.abspath(os.path.join(path, name))
        if other not in (*trail, path) and os.path.isfile(os.path.join(other, "pyproject.toml")):
            parts.append(_digest(other, project, trail=(*trail, path)))
    return digest.key("package", parts) if len(parts) > 1 else found.digest


def _behind_links(path: str, found: FileSet) -> Iterator[str]:
    """Yield the digests of what links lead to outside: files, and directories of the repository.

    Whole directories elsewhere, such as those of a data set, are no code.
    """
    top = os.fsencode(path)
    repository = gitignore.repository(top)
    home = None if repository is None else os.path.realpath(os.fsdecode(repository.top))
    for entry in found.entries():
        if entry.kind != listing.SYMLINK or not select.leads_out(top, os.fsencode(entry.path)):
            continue
        target = os.path.realpath(os.path.join(path, entry.path))
        shared = home is not None and target.startswith(home + os.sep)
        if os.path.isfile(target) or (shared and os.path.isdir(target)):
            yield Fingerprints(target, None).content(target)


@contextmanager
def build_copies(root: str, project: ProjectSpec, known: str) -> Iterator[Copies]:
    """Give a place for copies, which is gone afterwards.

    root: what paths in requirements are relative to. known: a text that has the digests of what is
    to be built. What is raised by a tool names the packages and not their copies.
    """
    # Not a TemporaryDirectory: where it may not remove something, it changes what links lead to.
    directory = os.path.realpath(tempfile.mkdtemp(prefix="buildrun-"))
    made = Copies(directory, root, project, known)
    try:
        yield made
    except ToolFailure as failure:
        raise ToolFailure(made.restore_paths(failure.output), shown=failure.shown) from None
    finally:
        made.remove_new_metadata()
        shutil.rmtree(directory, ignore_errors=True)


class Copies:
    """The copies for one build."""

    def __init__(self, directory: str, root: str, project: ProjectSpec, known: str) -> None:
        """Start with none; see ``build_copies``."""
        self._directory, self._root = directory, root
        self._project, self._known = project, known
        self._copies: dict[str, str] = {}
        self._absolute: set[str] = set()
        self._editable: dict[str, set[str]] = {}
        self._constraints = 0

    def rewrite(self, lines: Sequence[Line]) -> list[str]:
        """Return requirements as a tool takes them in the root, with copies in their place.

        Raises EnvironmentFailure for what changes meanwhile, and OSError.
        """
        texts: list[str] = []
        bounds: list[str] = []
        for line in lines:
            (bounds if line.constraint else texts).append(self._rewritten(line))
        if texts and bounds:
            self._constraints += 1
            path = os.path.join(self._directory, f"constraints-{self._constraints}.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write("\n".join(bounds) + "\n")
            texts.append(f"-c {path}")
        return texts

    def restore_paths(self, text: str) -> str:
        """Return what a tool says with the packages' own paths."""
        for path, copy in self._copies.items():
            text = text.replace(copy, path).replace(quote(copy), quote(path))
        return text

    def relative_paths(self, text: str) -> str:
        """Return resolved requirements with paths as they would be without copies."""
        for path, copy in self._copies.items():
            if path in self._absolute:
                text = text.replace(copy, path).replace(quote(copy), quote(path))
                continue
            short = os.path.join(os.curdir, os.path.relpath(path, self._root))
            whole = rf"^(?:\S+ @ )?(?:file://)?(?:{re.escape(copy)}|{re.escape(quote(copy))})(?=$|[\s;\[#])"
            text = re.sub(whole, short, text, flags=re.MULTILINE)
        return text

    def remove_new_metadata(self) -> None:
        """Remove the metadata that editable installs have newly left beside the code."""
        for path, before in self._editable.items():
            for each in _metadata(path) - before:
                shutil.rmtree(each, ignore_errors=True)

    def _rewritten(self, line: Line) -> str:
        def address(link: str, base: str) -> str:
            there = os.path.abspath(os.path.join(base, link))
            if "://" in link or not os.path.exists(there):
                return link
            return f"file://{quote(there)}" if " " in there else there

        return requirements.rewrite_paths(line, self._root, partial(self._target, line), address)

    def _target(self, line: Line, path: str, editable: bool) -> str:
        if path in line.text or path in unquote(line.text):
            self._absolute.add(path)
        if editable and os.path.isdir(path):
            self._editable.setdefault(path, _metadata(path))
        elif not os.path.isdir(path):
            self._copies[path] = path
        elif path not in self._copies:
            try:
                self._copies[path] = self._copy(path)
            except OSError as error:
                raise EnvironmentFailure(
                    f"`{line.text}` cannot be copied: {error.strerror}",
                    place=error.filename or path,
                    hint="make room in the directory for temporary files, or set TMPDIR",
                ) from None
        return self._copies.get(path, path)

    def _copy(self, path: str) -> str:
        found = package_files(path, self._project)
        if _digest(path, self._project, found) not in self._known:
            raise _changed(path)
        outer, repository = path, gitignore.repository(os.fsencode(path))
        if repository is not None:
            outer = os.path.abspath(os.fsdecode(repository.top))
        elif path.startswith(self._project.root + os.sep):
            outer = self._project.root
        top = os.path.join(self._directory, str(len(self._copies)), os.path.basename(outer))
        os.makedirs(top)
        if repository is not None:
            _link_git(repository, os.path.join(top, ".git"))
        copy = _surrounded(outer, top, os.path.relpath(path, outer))
        for entry in found.entries():
            _fill(path, copy, entry)
        return copy


def _surrounded(outer: str, top: str, below: str) -> str:
    """Make the directories down to a package's copy, with links to all that is beside them."""
    for part in below.split(os.sep) if below != os.curdir else ():
        for name in os.listdir(outer):
            if name not in (part, ".git"):
                os.symlink(os.path.join(outer, name), os.path.join(top, name))
        outer, top = os.path.join(outer, part), os.path.join(top, part)
        os.mkdir(top)
    return top


def _link_git(repository: gitignore.Repository, place: str) -> None:
    """Let git find its repository, from which some packages take their version."""
    own = os.path.dirname(os.fsdecode(repository.index_file))
    if os.path.isfile(os.path.join(os.fsdecode(repository.top), ".git")):
        with open(place, "w", encoding="utf-8") as file:
            file.write(f"gitdir: {os.path.abspath(own)}\n")
        return
    os.mkdir(place)
    for name in os.listdir(own):
        source, target = os.path.join(own, name), os.path.join(place, name)
        if name in _GITS_OWN:
            shutil.copy2(source, target)
        elif not name.endswith(".lock"):
            os.symlink(source, target)


def _fill(path: str, copy: str, entry: Entry) -> None:
    """Put a file or a link into the copy, just as it is in the listing."""
    source, target = os.path.join(path, entry.path), os.path.join(copy, entry.path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if entry.kind == listing.SYMLINK:
        os.symlink(entry.content, target)
        return
    if entry.size >= _LARGE:
        os.symlink(source, target)
        return
    mode = 0o777 if entry.kind == listing.EXECUTABLE else 0o666
    made = digest.new()
    with (
        files.open_regular(source) as file,
        open(os.open(target, os.O_WRONLY | os.O_CREAT, mode), "wb") as into,
    ):
        while chunk := file.read(_CHUNK):
            made.update(chunk)
            into.write(chunk)
    if digest.text(made) != entry.content:
        raise _changed(source)


def _metadata(path: str) -> set[str]:
    """Return the directories of metadata beside a package's code."""
    folders = [path]
    with os.scandir(path) as listing:
        folders += [each.path for each in listing if each.is_dir(follow_symlinks=False)]
    return {
        os.path.join(folder, name)
        for folder in folders
        for name in os.listdir(folder)
        if name.endswith(".egg-info")
    }


def _changed(path: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        "this changed while the environment was built", place=path, hint="run again"
    )
