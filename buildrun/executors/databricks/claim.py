"""The task of a step, laid down where files are: by it, calls for the same step find one run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.errors import ExecutionError
from buildrun.executors.databricks import files

if TYPE_CHECKING:
    from buildrun.executors.base import Usage
    from buildrun.executors.databricks.files import Place

# Bytes of a task's file that is looked for again.
_LARGEST = 16 << 20
_TOKEN = re.compile(r"[0-9a-f]{43}-[0-9a-f]{20}")


class StepRun(NamedTuple):
    """What a step's run is made of.

    key: of all that decides it, in hexadecimal. task: returns what the launch program is to do, by
    the run's token. body: returns what is submitted, by the task's path. secrets: returns variables
    that travel in a file of their own, by the token. collect: brings the outputs of the run of a
    token into the project, and returns what the command has used; it is told whether nobody else
    needs them there. forget: deletes the archives that were sent. anew: an ended run that
    is found for the same is not wanted; drop: deletes its outputs, by its token, in the end.
    """

    step: str
    key: str
    task: Callable[[str], Mapping[str, Any]]
    body: Callable[[str], Mapping[str, Any]]
    secrets: Callable[[str], Mapping[str, str]]
    collect: Callable[[str, bool], Usage | None]
    forget: Callable[[], None]
    drop: Callable[[str], None]
    anew: bool = False

    @property
    def task_name(self) -> str:
        """Return the name of the task's file, which is there as long as its run is wanted."""
        return f"v1/tasks/{self.key[:60]}.json"


class Claim:
    """A call's hold on the run of a step, made by it or found; its methods raise ExecutionError.

    token: by which Databricks tells the run from others. is_attached: whether another call has
    made it.
    """

    def __init__(self, place: Place, spec: StepRun, run_id: str) -> None:
        """Lay down nothing yet. run_id: of the call."""
        self._place = place
        self._spec = spec
        self._run_id = run_id
        self.token = ""
        self.is_attached = False
        self._secrets = ""
        self._left: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the files that go with the run, of its task first."""
        return tuple(name for name in (self._spec.task_name, self._secrets, *self._left) if name)

    def take(self) -> None:
        """Lay down the task with a token of its own, unless a run is there for the same."""
        try:
            self.is_attached = self._take()
        except ExecutionError:
            if self._secrets:
                with suppress(ExecutionError):
                    self._place.delete([self._secrets])
            raise

    def is_ours(self) -> bool:
        """Return whether it is for us to clean up: whoever came last does."""
        follower = files.load(self._place.read(self._follower, _LARGEST)).get("run")
        return follower in (None, self._run_id)

    def release(self) -> None:
        """Delete the task, so that the same command makes a run anew, and the secrets."""
        self._place.delete([*self.names, *([self._follower] if self.is_attached else [])])

    def leave(self) -> None:
        """Delete the task of the run that was found, to make one anew."""
        self._place.delete(self.names)
        self._spec.drop(self.token)
        self._secrets = ""
        # Whoever still collects that run sees by it that the new task is not his.
        self._left.append(self._follower)

    def _take(self) -> bool:
        spec, place = self._spec, self._place
        self.token = own = f"{spec.key[:43]}-{os.urandom(10).hex()}"
        if secrets := spec.secrets(own):
            self._secrets = f"v1/tasks/{own}.json"
            place.write(self._secrets, json.dumps(secrets).encode())
        path = place.at(self._secrets) if secrets else None
        data = json.dumps({**spec.task(own), "token": own, "secrets": path}).encode()
        if place.write(spec.task_name, data, replace=False):
            return False
        there = files.load(place.read(spec.task_name, _LARGEST)).get("token")
        # One of another key would give results of others.
        if not (isinstance(there, str) and _TOKEN.fullmatch(there) and there[:43] == own[:43]):
            place.write(spec.task_name, data)
            return False
        if there == own:
            return False  # the answer was lost
        if secrets:
            place.delete([self._secrets])
            self._secrets = f"v1/tasks/{there}.json"
        self.token = there
        place.write(self._follower, json.dumps({"run": self._run_id}).encode())
        return True

    @property
    def _follower(self) -> str:
        """Return the name of the file that says which call has come last to follow the run."""
        return f"v1/tasks/{self.token}.follower.json"
