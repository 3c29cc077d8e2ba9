"""Which files of steps travel to where their commands run, and back."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.base import Usage, upstream
from buildrun.executors.docker_cli import CODE
from buildrun.workspace import glob
from buildrun.workspace.names import is_always_ignored

if TYPE_CHECKING:
    from buildrun.executors.base import Task
    from buildrun.executors.kubernetes.transfer import ArtifactTransfer, Delivery, StagedArchive
    from buildrun.workspace.declared import DeclaredFiles


class FileStaging:
    """The files of one project's steps; used by several threads. Raises ExecutionError.

    What the image has does not travel: the project's code, and inputs that git does not ignore.
    """

    def __init__(
        self,
        root: str,
        in_image: Callable[[], frozenset[str]],
        open_transfer: Callable[[], ArtifactTransfer] | None,
    ) -> None:
        """Take the place; it is connected to when it is first needed.

        in_image: returns the paths of the files that the image has. open_transfer: returns the way
        that files take, None where there is none.
        """
        self._root = root
        self._look_into_image = in_image
        self._mutex = threading.Lock()
        self._open_transfer = open_transfer
        self._opened: ArtifactTransfer | None = None
        self._tasks: dict[str, Task] = {}
        self._delivered: dict[str, tuple[str, Delivery]] = {}
        self._own: list[str] = []
        self._is_seen = False

    def check(self, tasks: Sequence[Task]) -> None:
        """Take the steps; raises ExecutionError where files would have to travel and cannot."""
        self._tasks = {task.id: task for task in tasks}
        for task in tasks:
            why = self._why(task)
            if why and self._open_transfer is None:
                raise ExecutionError(
                    f"the step `{printable(task.id)}` {why}, and files travel to pods and back by "
                    "way of a remote cache",
                    hint="give one that the cluster reaches too, by `--remote-cache "
                    "s3://BUCKET/PREFIX` or BUILDRUN_REMOTE_CACHE; see docs/kubernetes.md",
                )
            if why:
                self._transfer()
                return

    def is_needed(self, task: Task) -> bool:
        """Return whether a task's pod gets, gives or removes files before its command runs."""
        return task.declared_only or bool(self._why(task))

    def command(self, task: Task, code: str = CODE, others: str = "") -> str:
        """Return the command with the paths that its files have where it runs.

        code: the project's directory there. others: that of files from elsewhere, with the paths
        that they have here.
        """
        text = task.command
        for _, path in task.paths:
            inside = self._inside(path)
            there = others + path if inside is None else f"{code}/{inside}"
            text = text.replace(shlex.quote(path), shlex.quote(there))
        return text

    def stage_inputs(
        self, task: Task, job: str, program: tuple[str, ...], workdir: str
    ) -> Mapping[str, str]:
        """Send what the task needs, and return the files of its Job's Secret."""
        from buildrun.executors.kubernetes import transfer

        if task.outputs and not self._is_seen:
            # or the command would run, and its outputs find no place
            self._transfer().arrived(job)
            self._is_seen = True
        archives = self.archives(task)
        order = self._transfer().order(job) if task.outputs else ()
        only = self._only(task) if task.declared_only else None
        text = transfer.task(program, workdir, archives, task.outputs, order, only=only)
        return {"pod_runner.py": transfer.program(), "task.json": text}

    def archives(self, task: Task) -> list[StagedArchive]:
        """Send what the task needs beside the image's files, and return where it is.

        These are outputs of steps before it, declared inputs, and paths of this machine.
        """
        archives = [self._archive_of(before) for before in self._producers(task)]
        if own := self._declared(task):
            archives.append(self._transfer().send(self._root, own))
        if foreign := self._foreign(task):
            archives.append(self._transfer().send("/", foreign, as_absolute=True))
        return archives

    def collect_outputs(self, task: Task, job: str, *, last: bool) -> Usage | None:
        """Bring a task's outputs into the project, and return what its command has used.

        last: nobody else will need what its Job has delivered.
        """
        if not task.outputs:
            return None
        there = self._transfer()
        done = there.arrived(job)
        if done is None:
            raise ExecutionError(
                f"the command has succeeded, and its outputs did not arrive in {there.shown}",
                hint="its log may tell why; run again",
            )
        there.fetch(job, done, self._root, task.outputs)
        with self._mutex:
            self._delivered[task.id] = (job, done)
            if last:
                self._own.append(job)
        return done.usage

    def drop(self, job: str) -> None:
        """Have what a Job has delivered deleted as well when all is discarded."""
        with self._mutex:
            self._own.append(job)

    def discard(self) -> None:
        """Delete what was delivered, now that it is in the project."""
        for job in self._own:
            self._transfer().discard(job)

    def _archive_of(self, task: Task) -> StagedArchive:
        """Return a task's outputs for another's pod: as they were delivered, else as they are."""
        with self._mutex:
            found = self._delivered.get(task.id)
        if found is not None:
            return self._transfer().delivered_archive(*found)
        return self._transfer().send(self._root, [path.rstrip("/") for path in task.outputs])

    def _transfer(self) -> ArtifactTransfer:
        with self._mutex:
            if self._opened is None:
                if self._open_transfer is None:
                    raise AssertionError("checked before")
                self._opened = self._open_transfer()
            return self._opened

    def _producers(self, task: Task) -> list[Task]:
        return [before for before in upstream(self._tasks, task) if before.outputs]

    def _declared(self, task: Task) -> list[str]:
        """Return the declared inputs that are here and not in the image."""
        if task.declared_only:
            files = self.declared_files(task).files
            return [path for path in files if path not in self._in_image]
        root = os.fsencode(self._root)
        made = [path.rstrip("/") for before in self._producers(task) for path in before.outputs]
        found = (os.fsdecode(path) for text in task.inputs for path, _ in glob.expand(root, text))
        return [
            path
            for path in dict.fromkeys(found)
            if path not in ("", ".")
            and path not in self._in_image
            and not any(path == one or path.startswith(f"{one}/") for one in made)
        ]

    def declared_files(self, task: Task) -> DeclaredFiles:
        """Return the files that a task declares, as far as they are here."""
        from buildrun.workspace.declared import declared_files

        made = [path for before in self._producers(task) for path in before.outputs]
        return declared_files(self._root, task.inputs, (*task.outputs, *made))

    def _only(self, task: Task) -> Mapping[str, Sequence[str]]:
        """Return what stays of the image in a pod that is to have declared files alone."""
        from buildrun.workspace.declared import merged

        files, directories = self.declared_files(task)
        keep = merged(self._in_image.intersection(files), self._in_image)
        return {"keep": [*self.paths_inside(task), *keep], "directories": directories}

    def paths_inside(self, task: Task) -> list[str]:
        """Return the values of `path` parameters that are in the image, relative to the project."""
        found = (self._inside(path) for _, path in task.paths)
        return [inside for inside in found if inside is not None]

    def _is_in_image(self, path: str) -> bool:
        """Return whether the image has a file, or all files of a directory."""
        if path in self._in_image:
            return True
        top = os.path.join(self._root, path)
        if os.path.islink(top) or not os.path.isdir(top):
            return False
        files = [
            os.path.relpath(os.path.join(place, name), self._root)
            for place, _, names in os.walk(top)
            for name in names
            if not is_always_ignored(os.fsencode(name))
        ]
        return bool(files) and self._in_image.issuperset(files)

    def _foreign(self, task: Task) -> list[str]:
        """Return the values of `path` parameters that are not in the image."""
        return [path for _, path in task.paths if self._inside(path) is None]

    @cached_property
    def _in_image(self) -> frozenset[str]:
        return self._look_into_image()

    def _inside(self, path: str) -> str | None:
        """Return where a path lies in the image, relative to the project; None if it does not."""
        prefix = self._root.rstrip("/") + "/"
        inside = path.removeprefix(prefix) if path.startswith(prefix) else ""
        if not inside:
            return None
        below = f"{inside}/"
        there = inside in self._in_image or any(item.startswith(below) for item in self._in_image)
        return inside if there else None

    def _why(self, task: Task) -> str:
        """Return why files of a task travel, "" where none do."""
        if task.outputs:
            return "has outputs"
        if self._producers(task):
            return "needs the outputs of others"
        if foreign := self._foreign(task):
            return f"takes the path `{printable(foreign[0])}` of this machine"
        for path in self._declared(task):
            if not self._is_in_image(path):
                return f"reads `{printable(path)}`, which the image has not or not all of"
        return ""
