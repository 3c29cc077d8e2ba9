"""Running a project's commands in containers: the image, and what goes in and out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from buildrun import tracking
from buildrun.environments.heartbeat import going_on
from buildrun.errors import EnvironmentFailure
from buildrun.executors import docker as containers
from buildrun.executors import docker_cli, docker_files, docker_reaper
from buildrun.executors.base import Job, OutputSink, ProcessRunner, Result
from buildrun.executors.docker import ContainerOptions, ResolvedImage, Task, code_fingerprints
from buildrun.plan.model import EnvironmentState, docker_env
from buildrun.store import digest
from buildrun.workspace import glob

if TYPE_CHECKING:
    from buildrun.commands.session import RunContext
    from buildrun.commands.tracked import Tracking
    from buildrun.environments.base import EnvironmentRequest, Identity
    from buildrun.environments.images.engine import Engine, Image
    from buildrun.executors.docker_cli import Container
    from buildrun.plan.model import Plan, Step
    from buildrun.project.model import ProjectSpec
    from buildrun.store.memo import DependencyTracker

# What the backend config may say for containers; the others are for Kubernetes.
_CONFIG = ("docker_base", "kube-context", "kube-job-template-path", "repository-uri")


class Docker:
    """Runs the steps of one project in containers."""

    def __init__(
        self, running: RunContext, project: ProjectSpec, tracking: Tracking | None = None
    ) -> None:
        """Take the project; no engine is asked yet."""
        self._running = running
        self._tracking = tracking
        self._project = project
        self._engine: Engine | None = None
        self._chosen: ResolvedImage | None = None
        self._steps: dict[str, Step] = {}
        self.wants = _wants(running, project)

    @property
    def engine(self) -> Engine:
        """Return the engine; it is spoken to when it is first asked."""
        if self._engine is None:
            from buildrun.environments.images.engine import Engine

            self._engine = Engine(self._running.environ)
        return self._engine

    @property
    def declared(self) -> str:
        """Return the name of the image to start from, which the project or its user gives."""
        docker = docker_env(self._project)
        if docker is not None:
            return docker.image
        from buildrun.environments.images import environment

        return environment.base_name(self._request, self._running.options.backend_config)

    def choose(self, made: Plan, *, refresh: bool = False) -> ResolvedImage:
        """Return the image to run, pulled or built if need be, for the plan's steps.

        Raises BuildrunError.
        """
        with going_on(self._running.console, "preparing the image"):
            return self._choose(made, refresh=refresh)

    def _choose(self, made: Plan, *, refresh: bool) -> ResolvedImage:
        running, console = self._running, self._running.console
        docker_reaper.reap_abandoned(containers.directory(running.home), running.environ)
        try:
            base = self._obtain()
        finally:
            console.done()
        self._chosen = self._as_is(base)
        if docker_env(self._project) is None:
            base = self._with_environment(base, refresh=refresh)
        if not self._chosen.environment:
            self._chosen = self._chosen._replace(python=self._has_python(base, made))
        if self._has_code:
            from buildrun.environments.images.derive import code_image

            derived = code_image(
                self.engine,
                running.home,
                base,
                self._project,
                code_fingerprints(running.home, self._project.root),
                refresh=refresh,
                console=console,
                any_user=running.options.backend == "kubernetes",
            )
            self._chosen = self._chosen._replace(
                id=derived.id, reference=derived.reference, workdir=docker_cli.CODE,
                reused=derived.reused and self._chosen.reused, key=derived.key, below=base.id,
            )  # fmt: skip
        self._steps = {step.id: step for step in made.steps}
        return self._chosen

    def known(self) -> tuple[ResolvedImage, EnvironmentState] | None:
        """Return the image as it is here, and how it stands, without pulling or building.

        None where there is not even what to start from. Raises BuildrunError.
        """
        base = self.engine.image(self.declared)
        if base is None:
            return None
        chosen = self._as_is(base)
        identity = self._identify(base)
        if identity is None:
            return chosen, EnvironmentState("docker", base.id, True)
        from buildrun.environments.images import environment

        key = environment.key(base, identity)
        found = environment.find(self.engine, self._running.home, base, identity)
        state = EnvironmentState(identity.manager, key, found is not None, identity.lock)
        return chosen._replace(environment=key), state

    def content(self, chosen: ResolvedImage) -> str:
        """Return what stands for the containers of the project in keys of results.

        The project's own code is not in it, for that is among the inputs of each step.
        Raises ProjectError for a variable that is not set.
        """
        environ, root = self._running.environ, self._project.root
        named = [
            item if isinstance(item, str) else [item[0], docker_cli.value_of(item, environ, root)]
            for item in self.wants.environment
        ]
        image = chosen.environment or chosen.base
        return digest.key(
            "container",
            [image, self._has_code, list(self.wants.volumes), named, list(self.wants.arguments)],
        )

    @property
    def _has_code(self) -> bool:
        """Return whether the project's files are in the image."""
        options = self._running.options
        declared = docker_env(self._project) is not None
        return options.build_image or options.backend == "kubernetes" or not declared

    def run(self, step: Step, log: str | None) -> Result:
        """Run a lone step with our own streams and terminal; log: as in ``Job``."""
        running = self._running
        made = self._container(step)
        running.console.note(running.console.style(f"[{step.id}] {step.shown}", "dim"))
        return containers.run(made, self._project.root, running.home, running.environ, log)

    def perform(
        self,
        step: Step,
        identity: Callable[[], str],
        job: Job,
        hands: ProcessRunner,
        sink: OutputSink,
    ) -> Result:
        """Run one of several steps: its output to the sink, files into the container and out."""
        del identity
        run_id = job.environ.get("MLFLOW_RUN_ID", "")
        home, caller = self._running.home, self._running.environ
        made = self._container(step, run_id)
        environ = docker_cli.cli_environ(caller, made)
        workdir = self._chosen.workdir if self._chosen is not None else "/"
        attendance = docker_reaper.lease(containers.directory(home), made.name, caller)
        try:
            create = Job("", job.cwd, environ, None, docker_cli.create_argv(made))
            result = hands.run(create, _without_id(sink))
            if result.exit_code == 0:
                docker_files.copy_in(made.name, workdir, job.cwd, self._inputs(step), environ)
                start = Job("", job.cwd, environ, job.timeout, docker_cli.start_argv(made))
                result = hands.run(start, sink)
                if result.exit_code == 0 and result.interrupted is None:
                    docker_files.copy_out(made.name, workdir, job.cwd, step.outputs, environ)
        finally:
            containers.end(made, attendance, caller)
        return result

    @property
    def _request(self) -> EnvironmentRequest:
        from buildrun.commands import session

        return session.request_of(self._running, self._project)

    def _obtain(self) -> Image:
        name = self.declared
        if self._running.options.offline and self.engine.image(name) is None:
            raise EnvironmentFailure(
                f"the docker engine has no image `{name}`", hint="run once without `--offline`"
            )
        return self.engine.obtain(name, self._running.console.progress)

    def _identify(self, base: Image) -> Identity | None:
        """Return what the environment above the base is made of, None where there is none."""
        if docker_env(self._project) is not None:
            return None
        from buildrun.environments.images import environment

        return environment.identify(self._request, base, self._running.tracker)

    def _with_environment(self, base: Image, *, refresh: bool) -> Image:
        """Return the image with the environment above the base."""
        from buildrun.commands import session
        from buildrun.environments.images import environment

        running, identity = self._running, self._identify(base)
        if identity is None or self._chosen is None:
            return base
        session.tell_of_lock(running, identity)
        made = environment.environment_image(
            self.engine, running.home, base, self.declared, self._request, identity,
            running.console, refresh=refresh,
        )  # fmt: skip
        found = self.engine.image(made.id)
        if found is None:
            raise EnvironmentFailure(
                f"the image `{made.reference}` is gone as soon as it was made", hint="run again"
            )
        self._chosen = self._chosen._replace(environment=made.key, reused=made.reused)
        return found

    def _has_python(self, image: Image, made: Plan) -> bool:
        """Return whether the plan's commands find a `python` in the image without a shell's help.

        Also True where the image has no shell. A container tells, once for each image.
        """
        if not any(docker_cli.begins_with_python(step.command) for step in made.steps):
            return True
        from buildrun.environments.images.build_container import Access, BuildContainer
        from buildrun.store.memo import memoize

        running = self._running

        def look(_: DependencyTracker) -> bool:
            with BuildContainer(image, running.home, running.environ) as site:
                site.create(("sh", "-c", "command -v python || exit 3"), Access())
                return site.run(lambda _: b"").code != 3

        return bool(memoize(running.memo, f"python {image.id}", running.environ, look))

    def _as_is(self, image: Image) -> ResolvedImage:
        return ResolvedImage(
            id=image.id,
            base=image.id,
            reference=self.declared,
            workdir=str(image.config.get("WorkingDir") or "/"),
            user=str(image.config.get("User") or ""),
            reused=True,
        )

    def _container(self, step: Step, run_id: str = "") -> Container:
        """Return the container of a step; run_id: of MLflow's run for it, if it has its own."""
        if self._chosen is None:
            raise AssertionError(step.id)
        wants, environ, tracking = self.wants, self._running.environ, self._tracking
        if tracking is not None and tracking.run_id is not None:
            variables = {**tracking.variables, **({"MLFLOW_RUN_ID": run_id} if run_id else {})}
            wants, environ = containers.tracked(wants, environ, variables, tracking.artifacts)
        return containers.container_for(task_of(step), wants, self._chosen, environ)

    def _inputs(self, step: Step) -> list[str]:
        """Return what goes into the container: what the step declares, and what was made for it."""
        root = os.fsencode(self._project.root)
        declared = [
            os.fsdecode(path)
            for pattern in step.inputs or ()
            for path, _ in glob.expand(root, pattern.text)
        ]
        waiting, seen = list(step.depends_on), dict[str, None]()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen[name] = None
                waiting += self._steps[name].depends_on
        made = [path for name in seen for path in self._steps[name].outputs]
        return [path for path in dict.fromkeys((*declared, *made)) if path not in ("", ".")]


def task_of(step: Step) -> Task:
    """Return what of a step concerns its container."""
    return Task(step.id, step.command, step.paths, step.env, step.pass_env, step.shown)


def _wants(running: RunContext, project: ProjectSpec) -> ContainerOptions:
    options, declared = running.options, docker_env(project)
    arguments = docker_cli.arguments(options.docker_args)
    docker_cli.refuse_unfit(arguments)
    if options.backend != "kubernetes":
        _warn_of_unknown(running)
    variables = tracking.variables(
        run_id=options.run_id,
        experiment_id=options.experiment_id,
        experiment_name=options.experiment_name,
    )
    return ContainerOptions(
        volumes=declared.volumes if declared is not None else (),
        environment=declared.environment if declared is not None else (),
        arguments=arguments,
        variables=tuple((name, text) for name, text in variables.items() if text is not None),
        root=project.root,
        cwd=running.cwd,
    )


def _warn_of_unknown(running: RunContext) -> None:
    for key in running.options.backend_config:
        if key not in _CONFIG:
            from buildrun.console import did_you_mean

            hint = did_you_mean(key, _CONFIG) or f"known: {', '.join(_CONFIG)}"
            running.console.warn(f"the backend config's `{key}` means nothing here", hint)


def _without_id(sink: OutputSink) -> OutputSink:
    """Return a sink for `docker create`, which writes the container's id to standard output."""

    def passed(stream: int, chunk: bytes) -> None:
        if stream == 2:
            sink(stream, chunk)

    return passed
