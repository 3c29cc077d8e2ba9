"""Where an environment meets an executor: what the commands of a run are executed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from buildrun.executors.base import ContainerOptions, Environment, ResolvedImage, Task
from buildrun.planning.model import EnvironmentState, Step
from buildrun.store.memo import frozen

if TYPE_CHECKING:
    from buildrun.environments.images.choose import ImageChooser
    from buildrun.environments.resolve import ResolvedEnvironment
    from buildrun.planning.context import RunContext
    from buildrun.project.model import ProjectSpec
    from buildrun.store.locks import Lock


class PlanOutdated(Exception):
    """What a remembered plan was made with is another one by now."""


class Target(Protocol):
    """What commands are executed in: an environment of this machine, or an image."""

    # Returns how it stands, and what stands for it in the keys of results. An image is pulled or
    # built here; repository: where it is pushed to as well. Raises BuildrunError.
    def identify(self, repository: str | None) -> tuple[EnvironmentState, str]: ...

    # Returns it ready for commands, built if need be, and held until `close`. Raises BuildrunError.
    def provide(self) -> Environment: ...

    # Returns JSON values from which `remembered` makes it again, None where that is not possible.
    def record(self) -> Any: ...

    # Lets go of it.
    def close(self) -> None: ...


class PrefixTarget:
    """A virtualenv, a conda environment, or the caller's own environment."""

    def __init__(
        self, context: RunContext, load: Callable[[], ProjectSpec], *, refresh: bool = False
    ) -> None:
        """Take the context; nothing is looked at yet.

        load: returns the project. refresh: the environment is built anew.
        """
        self._context = context
        self._load = load
        self._refresh = refresh
        self._resolved: ResolvedEnvironment | None = None
        self._environment: Environment | None = None
        self._lock: Lock | None = None

    def identify(self, repository: str | None) -> tuple[EnvironmentState, str]:
        """See ``Target``."""
        del repository
        resolved = self._resolve()
        return resolved.state(self._context.home), resolved.content()

    def provide(self) -> Environment:
        """See ``Target``."""
        if self._environment is None:
            from buildrun.environments import provision

            context, (manager, request, identity) = self._context, self._resolve()
            self._environment, self._lock = provision.provide(
                manager, identity, request, context.home, context.console, refresh=self._refresh
            )
        return self._environment

    def record(self) -> Any:
        """See ``Target``; what activation does is in it if the environment has been provided."""
        made, resolved = self._environment, self._resolve()
        variables = None if made is None else dict(made.variables)
        return {
            "manager": resolved.manager.NAME,
            "key": resolved.identity.key,
            "variables": variables,
        }

    def close(self) -> None:
        """See ``Target``."""
        if self._lock is not None:
            self._lock.release()

    def _resolve(self) -> ResolvedEnvironment:
        if self._resolved is None:
            from buildrun.environments.resolve import resolve

            self._resolved = resolve(self._context, self._load(), fetch=True)
        return self._resolved


class ImageTarget:
    """An image: the project's own, or one that is built with its environment or its code."""

    def __init__(
        self,
        context: RunContext,
        project: ProjectSpec,
        commands: Sequence[str] = (),
        *,
        refresh: bool = False,
    ) -> None:
        """Take the project; no engine is asked yet. Raises UsageError for bad `-A` arguments.

        commands: what is going to run in it.
        """
        self._commands = tuple(commands)
        self._context = context
        self._project = project
        self._refresh = refresh
        self._chooser: ImageChooser | None = None
        self._image: ResolvedImage | None = None
        self.containers = container_options(context, project)

    @property
    def chooser(self) -> ImageChooser:
        """Return what finds or makes the image."""
        if self._chooser is None:
            from buildrun.environments.images.choose import ImageChooser, ImageRequest
            from buildrun.environments.resolve import request_of

            context = self._context
            self._chooser = ImageChooser(
                ImageRequest(
                    request_of(context, self._project),
                    context.home,
                    context.console,
                    context.tracker,
                    context.options.backend_config,
                    with_code=self._has_code,
                    any_user=context.options.backend == "kubernetes",
                    commands=self._commands,
                )
            )
        return self._chooser

    def identify(self, repository: str | None) -> tuple[EnvironmentState, str]:
        """See ``Target``."""
        image = self.chooser.choose(refresh=self._refresh)
        if repository is not None:
            image = image._replace(pushed=self.chooser.push(image, repository))
        self._image = image
        return EnvironmentState("docker", None, True), self.content(image)

    def known(self) -> tuple[EnvironmentState, str] | None:
        """Return the same without pulling or building, or None; raises BuildrunError."""
        found = self.chooser.known()
        return None if found is None else (found[1], self.content(found[0]))

    def provide(self) -> Environment:
        """See ``Target``; ``identify`` has made it."""
        return Environment("docker", None, None, True, {}, self._image)

    def record(self) -> Any:
        """See ``Target``."""
        if self._image is None or self._image.pushed:
            return None
        project = self._project
        outputs = {path: None for point in project.entry_points for path in point.outputs}
        return {
            "image": list(self._image),
            "declared": self.chooser.declared,
            "project": [project.name, project.root, list(outputs)],
        }

    def close(self) -> None:
        """See ``Target``."""

    def content(self, image: ResolvedImage) -> str:
        """Return what stands for the project's containers in keys; raises ProjectError."""
        from buildrun.executors import docker

        context = self._context
        return docker.content(
            image,
            self.containers,
            context.environ,
            self._project.root,
            with_code=self._has_code,
        )

    @property
    def _has_code(self) -> bool:
        """Return whether the project's files are in the image."""
        from buildrun.planning.model import docker_env

        options = self._context.options
        declared = docker_env(self._project) is not None
        return options.build_image or options.backend == "kubernetes" or not declared


class RememberedPrefix(PrefixTarget):
    """The environment of a remembered plan; where it is gone, it is built again."""

    def __init__(
        self, context: RunContext, record: Any, root: str, load: Callable[[], ProjectSpec]
    ) -> None:
        """Take the record; load: returns the project, if it has to be built again."""
        super().__init__(context, load)
        self._record = record
        self._root = root

    def provide(self) -> Environment:
        """See ``Target``."""
        if self._environment is None and self._hold():
            record = self._record
            prefix, variables = self.prefix, record["variables"]
            if variables is None:
                from buildrun.environments import base

                manager = base.load(record["manager"])
                variables = manager.activate(prefix or "", self._context.environ)
            key = record["key"] or None
            self._environment = Environment(record["manager"], key, prefix, True, variables)
        return super().provide()

    @property
    def prefix(self) -> str | None:
        """Return the directory of the environment, None for the caller's own."""
        if not self._record["key"]:
            return None
        from buildrun.environments.prefix import prefix_of

        return prefix_of(self._context.home, self._record["key"])

    def _hold(self) -> bool:
        """Hold the environment, and return whether it is there."""
        prefix = self.prefix
        if prefix is None:
            return True
        from buildrun.environments.prefix import acquire

        self._lock = acquire(prefix, self._record["key"], self._root)
        return self._lock is not None


class RememberedImage:
    """The image of a remembered plan."""

    def __init__(
        self, context: RunContext, record: Any, containers: ContainerOptions, content: str
    ) -> None:
        """Take the record; raises PlanOutdated where the image would be another one by now.

        content: what stood for the containers in keys when the plan was made.
        """
        from buildrun.errors import BuildrunError
        from buildrun.executors import docker

        self._record = record
        self._image = ResolvedImage(*frozen(record["image"]))
        root, with_code = record["project"][1], bool(self._image.key)
        try:
            now = docker.content(
                self._image, containers, context.environ, root, with_code=with_code
            )
        except BuildrunError as error:
            raise PlanOutdated(str(error)) from error
        if now != content:
            raise PlanOutdated("a variable has another value")
        self._require_current(context)

    def identify(self, repository: str | None) -> tuple[EnvironmentState, str]:
        """Not called: the plan that was remembered says it."""
        raise PlanOutdated(repository)

    def provide(self) -> Environment:
        """See ``Target``."""
        return Environment("docker", None, None, True, {}, self._image)

    def record(self) -> Any:
        """See ``Target``."""
        return self._record

    def close(self) -> None:
        """See ``Target``."""

    def _require_current(self, context: RunContext) -> None:
        """Compare the image that the project names, and the project's files, with what they were.

        Raises PlanOutdated.
        """
        from buildrun.environments.images import engine_api
        from buildrun.errors import BuildrunError

        image = self._image
        try:
            socket = engine_api.find(context.environ).socket
            if socket is None:
                raise PlanOutdated("the engine is not on this machine")
            base = engine_api.over_socket(socket, self._record["declared"])
            if base is None or base.id != image.base:
                raise PlanOutdated("the name stands for another image")
            if not image.key:
                return
            below = base if image.below == base.id else engine_api.over_socket(socket, image.below)
            if below is None or self._code_key(context, below) != image.key:
                raise PlanOutdated("the project's files changed")
            if engine_api.over_socket(socket, image.id) is None:
                raise PlanOutdated("the image was removed")
        except (BuildrunError, OSError) as error:
            raise PlanOutdated(str(error)) from error

    def _code_key(self, context: RunContext, below: Any) -> str:
        from buildrun.environments.images.derive import code_recipe
        from buildrun.project.model import EntryPoint, ProjectSpec, PythonEnv
        from buildrun.workspace import image_context

        name, root, outputs = self._record["project"]
        entry_point = EntryPoint("", (), "", outputs=tuple(outputs))
        project = ProjectSpec(name, root, None, (entry_point,), PythonEnv())
        fingerprints = image_context.fingerprints(context.home, root)
        recipe = code_recipe(below, project, fingerprints, context.console)
        fingerprints.save()
        return recipe.key


def container_options(context: RunContext, project: ProjectSpec) -> ContainerOptions:
    """Return what the project and its user want of containers.

    Raises UsageError for arguments under which a container could not be looked after.
    """
    from buildrun.executors import docker_cli
    from buildrun.planning.model import docker_env

    options, declared = context.options, docker_env(project)
    arguments = docker_cli.arguments(options.docker_args)
    docker_cli.refuse_unfit(arguments)
    if options.backend != "kubernetes":
        _warn_of_unknown(context)
    return ContainerOptions(
        volumes=declared.volumes if declared is not None else (),
        environment=declared.environment if declared is not None else (),
        arguments=arguments,
    )


# What the backend config may say for containers; the others are for Kubernetes.
_CONFIG = ("docker_base", "kube-context", "kube-job-template-path", "repository-uri")


def _warn_of_unknown(context: RunContext) -> None:
    for key in context.options.backend_config:
        if key not in _CONFIG:
            from buildrun.console import did_you_mean

            hint = did_you_mean(key, _CONFIG) or f"known: {', '.join(_CONFIG)}"
            context.console.warn(f"the backend config's `{key}` means nothing here", hint)


def task_of(step: Step) -> Task:
    """Return what an executor is told of a step."""
    return Task(
        id=step.id,
        command=step.command,
        shown=step.shown,
        depends_on=step.depends_on,
        inputs=tuple(pattern.text for pattern in step.inputs or ()),
        outputs=step.outputs,
        paths=step.paths,
        env=step.env,
        pass_env=step.pass_env,
        timeout=step.timeout,
        retries=step.retries,
        secret=bool(step.secrets),
    )
