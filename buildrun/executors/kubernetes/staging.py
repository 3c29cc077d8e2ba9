"""Which files of steps travel to pods and back, by way of the remote cache."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.docker_cli import CODE
from buildrun.workspace import glob
from buildrun.workspace.names import is_always_ignored

if TYPE_CHECKING:
    from buildrun.executors.base import Task
    from buildrun.executors.kubernetes.transfer import ArtifactTransfer, Delivery, StagedArchive


class FileStaging:
    """The files of one project's steps; used by several threads.

    What the image has does not travel: the project's code, and inputs that git does not ignore.
    """

    def __init__(
        self,
        root: str,
        remote: str | None,
        environ: Mapping[str, str],
        endpoint: str | None,
        in_image: Callable[[], frozenset[str]],
    ) -> None:
        """Take the place; it is connected to when it is first needed.

        in_image: returns the paths of the files that the image has.
        """
        self._root = root
        self._remote = remote
        self._environ = environ
        self._endpoint = endpoint
        self._mutex = threading.Lock()
        self._transfer: ArtifactTransfer | None = None
        self._tasks: dict[str, Task] = {}
        self._look_into_image = in_image
        self._files: frozenset[str] | None = None
        self._delivered: dict[str, tuple[str, Delivery]] = {}
        self._own: list[str] = []
        self._is_seen = False

    def check(self, tasks: Sequence[Task]) -> None:
        """Take the steps; raises ExecutionError where files would have to travel and cannot."""
        self._tasks = {task.id: task for task in tasks}
        for task in tasks:
            if not self.is_needed(task):
                continue
            if self._remote is None:
                raise ExecutionError(
                    f"the step `{printable(task.id)}` {self._why(task)}, and files travel to pods "
                    "and back by way of a remote cache",
                    hint="give one that the cluster reaches too, by `--remote-cache "
                    "s3://BUCKET/PREFIX` or BUILDRUN_REMOTE_CACHE; see docs/kubernetes.md",
                )
            self._connected()
            return

    def is_needed(self, task: Task) -> bool:
        """Return whether a task's pod gets or gives files."""
        return bool(
            task.outputs
            or self._upstream(task)
            or self._foreign(task)
            or any(not self._is_in_image(path) for path in self._declared(task))
        )

    def command(self, task: Task) -> str:
        """Return the command with the paths that its files have in the pod."""
        text = task.command
        for _, path in task.paths:
            if (inside := self._inside(path)) is not None:
                text = text.replace(shlex.quote(path), shlex.quote(f"{CODE}/{inside}"))
        return text

    def stage_inputs(
        self, task: Task, name: str, program: tuple[str, ...], workdir: str
    ) -> Mapping[str, str]:
        """Send what the task needs; return the files of its Secret. Raises ExecutionError.

        name: of its Job.
        """
        from buildrun.executors.kubernetes import transfer

        there = self._connected()
        if task.outputs and not self._is_seen:
            there.arrived(name)  # or the command would run, and its outputs find no place
            self._is_seen = True
        archives = [self._archive_of(before) for before in self._upstream(task)]
        if own := self._declared(task):
            archives.append(there.send(self._root, own))
        if foreign := self._foreign(task):
            archives.append(there.send("/", foreign, as_absolute=True))
        order = there.order(name) if task.outputs else None
        text = transfer.task(program, workdir, archives, task.outputs, order)
        return {"pod_runner.py": transfer.program(), "task.json": text}

    def collect_outputs(self, task: Task, name: str, *, last: bool) -> None:
        """Bring a task's outputs into the project; raises ExecutionError.

        name: of its Job. last: nobody else will need what it has delivered.
        """
        if not task.outputs:
            return
        there = self._connected()
        done = there.arrived(name)
        if done is None:
            raise ExecutionError(
                "the pod has succeeded, and its outputs did not arrive in the remote cache",
                hint="its log may tell why; run again",
            )
        there.fetch(name, done, self._root, task.outputs)
        with self._mutex:
            self._delivered[task.id] = (name, done)
            if last:
                self._own.append(name)

    def discard(self) -> None:
        """Delete what was delivered, now that it is in the project."""
        for name in self._own:
            self._connected().discard(name)

    def _archive_of(self, task: Task) -> StagedArchive:
        """Return a task's outputs for another's pod: as they were delivered, else as they are."""
        there = self._connected()
        with self._mutex:
            found = self._delivered.get(task.id)
        if found is not None:
            return there.delivered_archive(*found)
        return there.send(self._root, [path.rstrip("/") for path in task.outputs])

    def _connected(self) -> ArtifactTransfer:
        from buildrun.executors.kubernetes import transfer

        with self._mutex:
            if self._transfer is None:
                if self._remote is None:
                    raise AssertionError("checked before")
                self._transfer = transfer.ArtifactTransfer(
                    self._remote, self._environ, endpoint=self._endpoint
                )
            return self._transfer

    def _upstream(self, task: Task) -> list[Task]:
        """Return the steps with outputs that this one follows, near or far."""
        waiting, seen = list(task.depends_on), dict[str, None]()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen[name] = None
                waiting += self._tasks[name].depends_on
        return [self._tasks[name] for name in seen if self._tasks[name].outputs]

    def _declared(self, task: Task) -> list[str]:
        """Return the declared inputs that are here and not in the image."""
        root = os.fsencode(self._root)
        made = [path.rstrip("/") for before in self._upstream(task) for path in before.outputs]
        found = (os.fsdecode(path) for text in task.inputs for path, _ in glob.expand(root, text))
        return [
            path
            for path in dict.fromkeys(found)
            if path not in ("", ".")
            and path not in self._in_image
            and not any(path == one or path.startswith(f"{one}/") for one in made)
        ]

    def _is_in_image(self, path: str) -> bool:
        """Return whether the image has a file, or all files of a directory."""
        if path in self._in_image:
            return True
        top = os.fsencode(os.path.join(self._root, path))
        if os.path.islink(top) or not os.path.isdir(top):
            return False
        inside = os.fsencode(self._root)
        files = [
            os.fsdecode(os.path.relpath(os.path.join(place, name), inside))
            for place, _, names in os.walk(top)
            for name in names
            if not is_always_ignored(name)
        ]
        return bool(files) and self._in_image.issuperset(files)

    def _foreign(self, task: Task) -> list[str]:
        """Return the values of `path` parameters that are not in the image."""
        return [path for _, path in task.paths if self._inside(path) is None]

    @property
    def _in_image(self) -> frozenset[str]:
        if self._files is None:
            self._files = self._look_into_image()
        return self._files

    def _inside(self, path: str) -> str | None:
        """Return where a path lies in the image, relative to the project; None if it does not."""
        prefix = self._root.rstrip("/") + "/"
        inside = path[len(prefix) :] if path.startswith(prefix) else ""
        if not inside:
            return None
        below = f"{inside}/"
        there = inside in self._in_image or any(item.startswith(below) for item in self._in_image)
        return inside if there else None

    def _why(self, task: Task) -> str:
        if task.outputs:
            return "has outputs"
        if self._upstream(task):
            return "needs the outputs of others"
        if foreign := self._foreign(task):
            return f"takes the path `{printable(foreign[0])}` of this machine"
        absent = next(path for path in self._declared(task) if not self._is_in_image(path))
        return f"reads `{printable(absent)}`, which the image has not or not all of"
