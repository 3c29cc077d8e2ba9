"""Images that the commands of a run are executed in: chosen, built, or remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from buildrun.environments.resolve import manager_of
from buildrun.errors import BuildrunError, ExecutionError
from buildrun.executors.base import ContainerOptions, Environment, ResolvedImage
from buildrun.planning.model import EnvironmentState, docker_env
from buildrun.planning.plan_cache import PlanOutdated
from buildrun.store.memo import frozen

if TYPE_CHECKING:
    from buildrun.environments.images.choose import ImageChooser
    from buildrun.planning.context import RunContext
    from buildrun.project.model import ProjectSpec


class ImageProvider:
    """An image: the project's own, or one that is built with its environment or its code."""

    packages: tuple[str, ...] = ()

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
        self.image: ResolvedImage | None = None
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

    @property
    def prefix(self) -> str | None:
        """See ``EnvironmentProvider``."""
        return None

    def identify(self, repository: str | None) -> tuple[EnvironmentState, str]:
        """Return how the image stands, and what stands for it in the keys of results.

        It is pulled or built here; repository: where it is pushed to as well. Raises
        BuildrunError.
        """
        image = self.chooser.choose(refresh=self._refresh)
        if repository is not None:
            image = image._replace(pushed=self.chooser.push(image, repository))
        self.image = image
        return EnvironmentState("docker", None, True), self.content(image)

    def known(self) -> tuple[EnvironmentState, str | None]:
        """Return the same as far as is known here, without pulling or building."""
        from buildrun.environments.images.engine import EngineError

        try:
            found = self.chooser.known()
        except (ExecutionError, EngineError):
            found = None  # a plan needs no engine
        if found is None:
            return EnvironmentState(manager_of(self._context, self._project), None, False), None
        return found[1], self.content(found[0])

    def provide(self) -> Environment:
        """See ``EnvironmentProvider``; ``identify`` has made it."""
        return Environment("docker", None, None, True, {})

    def record(self) -> Any:
        """Return JSON values for ``RememberedImage``, None where it was pushed."""
        if self.image is None or self.image.pushed:
            return None
        return {
            "image": self.image,
            "declared": self.chooser.declared,
            "containers": self.containers,
        }

    def close(self) -> None:
        """See ``EnvironmentProvider``."""

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
        options = self._context.options
        declared = docker_env(self._project) is not None
        return options.build_image or options.backend == "kubernetes" or not declared


class RememberedImage:
    """The image of a remembered plan."""

    prefix = None
    packages: tuple[str, ...] = ()

    def __init__(self, context: RunContext, record: Any, plan: Any) -> None:
        """Take the records; raises PlanOutdated where the image would be another one by now."""
        from buildrun.executors import docker

        self._context = context
        self._plan = plan
        self.image = image = ResolvedImage(*frozen(record["image"]))
        self.containers = ContainerOptions(*frozen(record["containers"]))
        try:
            now = docker.content(
                image, self.containers, context.environ, plan["root"], with_code=bool(image.key)
            )
            if now != plan["content"]:
                raise PlanOutdated("a variable has another value")
            self._require_current(record["declared"])
        except (BuildrunError, OSError) as error:
            raise PlanOutdated(str(error)) from error

    def provide(self) -> Environment:
        """See ``EnvironmentProvider``."""
        return Environment("docker", None, None, True, {})

    def close(self) -> None:
        """See ``EnvironmentProvider``."""

    def _require_current(self, declared: str) -> None:
        """Compare the image that the project names, and the project's files, with what they were.

        declared: the name of that image. Raises PlanOutdated, BuildrunError and OSError.
        """
        from buildrun.environments.images import engine_api

        image = self.image
        socket = engine_api.find(self._context.environ).socket
        if socket is None:
            raise PlanOutdated("the engine is not on this machine")
        base = engine_api.over_socket(socket, declared)
        if base is None or base.id != image.base:
            raise PlanOutdated("the name stands for another image")
        if not image.key:
            return
        below = base if image.below == base.id else engine_api.over_socket(socket, image.below)
        if below is None or self._code_key(below) != image.key:
            raise PlanOutdated("the project's files changed")
        if engine_api.over_socket(socket, image.id) is None:
            raise PlanOutdated("the image was removed")

    def _code_key(self, below: Any) -> str:
        from buildrun.environments.images.derive import code_recipe
        from buildrun.project.model import EntryPoint, ProjectSpec, PythonEnv
        from buildrun.workspace import image_context

        context, name, root = self._context, self._plan["project"], self._plan["root"]
        entry_point = EntryPoint("", (), "", outputs=tuple(self._plan["outputs"]))
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
