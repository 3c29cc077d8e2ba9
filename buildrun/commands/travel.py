"""Which files of steps travel to pods and back, by way of the remote cache."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.docker_cli import CODE
from buildrun.workspace import glob
from buildrun.workspace.names import is_always_ignored

if TYPE_CHECKING:
    from buildrun.executors.kubernetes.transfer import ArtifactTransfer, Delivery, StagedArchive
    from buildrun.plan.model import Plan, Step
    from buildrun.project.model import ProjectSpec


class FileStaging:
    """The files of one project's steps; used by several threads.

    What the image has does not travel: the project's code, and inputs that git does not ignore.
    """

    def __init__(
        self,
        project: ProjectSpec,
        remote: str | None,
        environ: Mapping[str, str],
        endpoint: str | None,
        in_image: Callable[[], frozenset[str]],
    ) -> None:
        """Take the place; it is connected to when it is first needed.

        in_image: returns the paths of the files that the image has.
        """
        self._root = project.root
        self._remote = remote
        self._environ = environ
        self._endpoint = endpoint
        self._mutex = threading.Lock()
        self._goods: ArtifactTransfer | None = None
        self._steps: dict[str, Step] = {}
        self._look_into_image = in_image
        self._files: frozenset[str] | None = None
        self._delivered: dict[str, tuple[str, Delivery]] = {}
        self._own: list[str] = []
        self._is_seen = False

    def check(self, made: Plan) -> None:
        """Take the plan; raises ExecutionError where files would have to travel and cannot."""
        self._steps = {step.id: step for step in made.steps}
        for step in made.steps:
            if not self.is_needed(step):
                continue
            if self._remote is None:
                raise ExecutionError(
                    f"the step `{printable(step.id)}` {self._why(step)}, and files travel to pods "
                    "and back by way of a remote cache",
                    hint="give one that the cluster reaches too, by `--remote-cache "
                    "s3://BUCKET/PREFIX` or BUILDRUN_REMOTE_CACHE; see docs/kubernetes.md",
                )
            self._connected()
            return

    def is_needed(self, step: Step) -> bool:
        """Return whether a step's pod gets or gives files."""
        return bool(
            step.outputs
            or self._upstream(step)
            or self._foreign(step)
            or any(not self._is_in_image(path) for path in self._declared(step))
        )

    def command(self, step: Step) -> str:
        """Return the command with the paths that its files have in the pod."""
        text = step.command
        for _, path in step.paths:
            if (inside := self._inside(path)) is not None:
                text = text.replace(shlex.quote(path), shlex.quote(f"{CODE}/{inside}"))
        return text

    def stage_inputs(
        self, step: Step, name: str, program: tuple[str, ...], workdir: str
    ) -> Mapping[str, str]:
        """Send what the step needs; return the files of its Secret. Raises ExecutionError.

        name: of its Job.
        """
        from buildrun.executors.kubernetes import transfer

        there = self._connected()
        if step.outputs and not self._is_seen:
            there.arrived(name)  # or the command would run, and its outputs find no place
            self._is_seen = True
        parcels = [self._parcel(before) for before in self._upstream(step)]
        if own := self._declared(step):
            parcels.append(there.send(self._root, own))
        if foreign := self._foreign(step):
            parcels.append(there.send("/", foreign, as_absolute=True))
        order = there.order(name) if step.outputs else None
        task = transfer.task(program, workdir, parcels, step.outputs, order)
        return {"carry.py": transfer.program(), "task.json": task}

    def collect_outputs(self, step: Step, name: str, *, last: bool) -> None:
        """Bring a step's outputs into the project; raises ExecutionError.

        name: of its Job. last: nobody else will need what it has delivered.
        """
        if not step.outputs:
            return
        there = self._connected()
        done = there.arrived(name)
        if done is None:
            raise ExecutionError(
                "the pod has succeeded, and its outputs did not arrive in the remote cache",
                hint="its log may tell why; run again",
            )
        there.fetch(name, done, self._root, step.outputs)
        with self._mutex:
            self._delivered[step.id] = (name, done)
            if last:
                self._own.append(name)

    def discard(self) -> None:
        """Delete what was delivered, now that it is in the project."""
        for name in self._own:
            self._connected().discard(name)

    def _parcel(self, step: Step) -> StagedArchive:
        """Return a step's outputs for another's pod: as they were delivered, else as they are."""
        there = self._connected()
        with self._mutex:
            found = self._delivered.get(step.id)
        if found is not None:
            return there.parcel(*found)
        return there.send(self._root, [path.rstrip("/") for path in step.outputs])

    def _connected(self) -> ArtifactTransfer:
        from buildrun.executors.kubernetes import transfer

        with self._mutex:
            if self._goods is None:
                if self._remote is None:
                    raise AssertionError("checked before")
                self._goods = transfer.ArtifactTransfer(
                    self._remote, self._environ, endpoint=self._endpoint
                )
            return self._goods

    def _upstream(self, step: Step) -> list[Step]:
        """Return the steps with outputs that this one follows, near or far."""
        waiting, seen = list(step.depends_on), dict[str, None]()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen[name] = None
                waiting += self._steps[name].depends_on
        return [self._steps[name] for name in seen if self._steps[name].outputs]

    def _declared(self, step: Step) -> list[str]:
        """Return the declared inputs that are here and not in the image."""
        root = os.fsencode(self._root)
        made = [path.rstrip("/") for before in self._upstream(step) for path in before.outputs]
        found = (
            os.fsdecode(path)
            for pattern in step.inputs or ()
            for path, _ in glob.expand(root, pattern.text)
        )
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

    def _foreign(self, step: Step) -> list[str]:
        """Return the values of `path` parameters that are not in the image."""
        return [path for _, path in step.paths if self._inside(path) is None]

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

    def _why(self, step: Step) -> str:
        if step.outputs:
            return "has outputs"
        if self._upstream(step):
            return "needs the outputs of others"
        if foreign := self._foreign(step):
            return f"takes the path `{printable(foreign[0])}` of this machine"
        absent = next(path for path in self._declared(step) if not self._is_in_image(path))
        return f"reads `{printable(absent)}`, which the image has not or not all of"
