"""One step's command watched, or kept to what it declares: what it read, and what follows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.planning import undeclared
from buildrun.planning.evidence import DECLARED, Evidence
from buildrun.planning.model import Reason, Step, label
from buildrun.planning.undeclared import Declaration, Finding, Undeclared
from buildrun.sandbox import accesses as records
from buildrun.sandbox import landlock, roots, tracer
from buildrun.store.files import is_within

if TYPE_CHECKING:
    from buildrun.executors.base import Job, Result
    from buildrun.planning.state import ProjectState
    from buildrun.sandbox.accesses import Accesses
    from buildrun.workspace.select import FileSet


class Verdict(NamedTuple):
    """What a look at a command's accesses has come to.

    refused: the command was kept from what it wanted, so that it has failed. findings: what is told
    of it.
    """

    evidence: Evidence = DECLARED
    refused: bool = False
    findings: tuple[Finding, ...] = ()

    def reasons(self) -> tuple[Reason, ...]:
        """Return the findings as a report tells them."""
        return tuple(Reason(finding.code, finding.detail) for finding in self.findings)


class InputCheck:
    """The check of one step; used for each try of its command."""

    def __init__(
        self, state: ProjectState, step: Step, inputs: FileSet, upstream: Sequence[str]
    ) -> None:
        """Take the step; upstream: the outputs of steps before it that it may read.

        Raises ExecutionError where a sandbox is asked for and cannot be had.
        """
        self._state = state
        self._step = step
        self._declared = Declaration(state.plan, step, inputs, upstream)
        self._inputs = inputs
        self._upstream = upstream
        self._environ: Mapping[str, str] = {}
        self._accesses: Accesses | None = None
        self._tried_network = self._ran_own = False
        self._allowed: list[str] = []
        self._is_sandboxed = step.sandbox is not None and self._has_sandbox()

    @contextmanager
    def watch(self, job: Job) -> Iterator[Job]:
        """Yield the job as it is to be run; its command has ended when this is left."""
        step, root = self._step, self._declared.root
        sandbox = step.sandbox if self._is_sandboxed else None
        system = roots.environment(job.environ, root)
        home = job.environ.get("HOME", "")
        if step.sandbox is not None:
            allow = (os.path.join(home, path.removeprefix("~/")) for path in step.sandbox.allow)
            self._allowed = list(map(os.path.realpath, allow))
        with ExitStack() as stack:
            outputs = [undeclared.real_output(root, path) for path in step.outputs]
            watched = tracer.Tracer(
                root,
                [*system, *roots.caches(job.environ), *_records(job.environ)],
                outputs,
                self._declared.passing(),
                network=sandbox is None or sandbox.network,
            )
            environ = {**job.environ}
            if sandbox is not None:
                environ["TMPDIR"] = watched.make_temporary()
                holes = [root, *([os.path.realpath(home)] if home else [])]
                readable = [*roots.around(system, holes), *self._allowed, *_records(job.environ)]
                watched.rules = landlock.Ruleset(
                    [*readable, watched.directory, *self._readable_in_project()]
                )
                stack.callback(watched.rules.close)
            stack.enter_context(watched)
            self._environ = environ = {**environ, **watched.variables(environ)}
            yield job._replace(environ=environ, restrict=watched.restrict)
            self._accesses = records.joined(self._accesses, watched.accesses())
            self._tried_network, self._ran_own = watched.tried_network, watched.ran_own

    def conclude(self, result: Result, log: str | None) -> Verdict:
        """Tell what the command did beyond what is declared, and return what follows from it.

        log: the path of the step's log, beside which the accesses are kept.
        """
        accesses = self._accesses
        if accesses is None:
            return Verdict()
        if log is not None:
            _keep(os.path.splitext(log)[0] + ".accesses.json", accesses)
        found = undeclared.find(self._declared, accesses, self._state.environ, self._environ)
        outside = [path for path in found.outside if not self._is_allowed(path)]
        found = found._replace(outside=outside)
        findings = undeclared.describe(found, self._step, refused=self._is_sandboxed)
        if self._tried_network:
            findings.append(_NETWORK)
        if self._ran_own and result.exit_code != 0:
            findings.append(_OWN_PROGRAM)
        refused = self._is_sandboxed and self._is_refused(found, result)
        self._tell(findings, accesses)
        return Verdict(self._evidence(found, accesses), refused, tuple(findings))

    def _is_allowed(self, path: str) -> bool:
        return any(is_within(path, each) for each in self._allowed)

    def _has_sandbox(self) -> bool:
        if why := why_without_sandbox(self._step):
            self._state.console.warn(f"{label(self._step)} it runs without a sandbox: {why}")
        return not why

    def _is_refused(self, found: Undeclared, result: Result) -> bool:
        """Return whether the command was kept from something that it needs.

        A program that looks for files of its user, and can do without, has got what it declares.
        """
        project = bool(found.reads or found.of_others)
        return project or (result.exit_code != 0 and bool(found.outside or self._tried_network))

    def _evidence(self, found: Undeclared, accesses: Accesses) -> Evidence:
        if found.reads or found.of_others:
            path = [*found.reads, *found.of_others][0]
            why = f"the command read `{printable(path)}`, which is not declared"
            return Evidence("declared", {}, why)
        if self._is_sandboxed:
            return Evidence("sandboxed", found.conditions)
        return Evidence("declared" if accesses.unseen else "checked", found.conditions)

    def _tell(self, findings: Sequence[Finding], accesses: Accesses) -> None:
        console, step = self._state.console, self._step
        for finding in findings:
            place = undeclared.place(self._state.plan, step, finding.code)
            console.warn(f"{place}{label(step)} {finding.detail}", finding.hint)
        if accesses.unseen and not self._is_sandboxed:
            console.warn(f"{label(step)} not all that it reads was seen: {accesses.unseen}")

    def _readable_in_project(self) -> list[str | bytes]:
        """Return what the command may read in the project, and what else it declares."""
        from buildrun.planning.granted import granted

        root = self._declared.root
        paths = [os.path.realpath(path) for _, path in self._step.paths]
        made = [os.path.join(root, path) for path in self._upstream]
        return [*granted(root, self._inputs), *paths, *made]


def why_without_sandbox(step: Step) -> str:
    """Return why a step that asks for a sandbox runs without one on this machine, or "".

    Raises ExecutionError where it must not.
    """
    if step.sandbox is None or step.backend != "local":
        return ""
    why = landlock.unavailable() or tracer.unavailable()
    if why and step.sandbox.required:
        raise ExecutionError(
            f"{label(step)} it asks for a sandbox, and there is none: {why}",
            hint="`sandbox: auto` runs without one where there is none",
        )
    return why


_NETWORK = Finding(
    "network-refused",
    "the command tried to use the network, which its sandbox does not have",
    "leave `network: false` out of `sandbox`, or hand in what it fetches",
)


_OWN_PROGRAM = Finding(
    "own-program-refused",
    "the sandbox has kept the command from running a program that it has made itself",
    "make it below `$TMPDIR`, or in a step of its own",
)


def _keep(path: str, accesses: Accesses) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(records.encode(accesses))
    except OSError:
        pass  # it explains, and decides nothing


def _records(environ: Mapping[str, str]) -> list[str]:
    """Return where MLflow runs are recorded on this machine: a client reads what is there."""
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    path = uri.removeprefix("sqlite:///").removeprefix("file://")
    return [os.path.realpath(path)] if os.path.isabs(path) else []
