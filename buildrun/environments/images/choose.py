"""The image that a project's commands run in: pulled, or built above its base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun.console import Console
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.heartbeat import going_on
from buildrun.environments.images.derive import ImageRecipe
from buildrun.environments.images.engine import Engine, Image
from buildrun.errors import EnvironmentFailure
from buildrun.executors.base import ResolvedImage
from buildrun.executors.container_command import begins_with_python
from buildrun.executors.docker_cli import CODE
from buildrun.planning.model import EnvironmentState, docker_env
from buildrun.store.home import Home
from buildrun.store.memo import DependencyTracker
from buildrun.workspace import image_context


class ImageRequest(NamedTuple):
    """What an image is wanted for.

    environment: the project and its environment. config: the backend config. with_code: the
    project's files go into the image. any_user: whoever the cluster runs pods as may write them.
    commands: what is going to run in it.
    """

    environment: EnvironmentRequest
    home: Home
    console: Console
    tracker: DependencyTracker
    config: Mapping[str, Any]
    with_code: bool
    any_user: bool
    commands: tuple[str, ...]


class ImageChooser:
    """Finds or makes the image of one project."""

    def __init__(self, request: ImageRequest) -> None:
        """Take the request; no engine is asked yet."""
        self._request = request
        self._project = request.environment.project
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """Return the engine; it is spoken to when it is first asked."""
        if self._engine is None:
            from buildrun.environments.images.engine import Engine

            self._engine = Engine(self._request.environment.environ)
        return self._engine

    @property
    def declared(self) -> str:
        """Return the name of the image to start from, which the project or its user gives."""
        docker = docker_env(self._project)
        if docker is not None:
            return docker.image
        from buildrun.environments.images import environment

        return environment.base_name(self._request.environment, self._request.config)

    def choose(self, *, refresh: bool = False) -> ResolvedImage:
        """Return the image to run, pulled or built if need be; refresh: built anew.

        Raises BuildrunError.
        """
        with going_on(self._request.console, "preparing the image"):
            try:
                base = self._obtain()
            finally:
                self._request.console.done()
            chosen = self._as_is(base)
            if docker_env(self._project) is None:
                base, chosen = self._with_environment(base, chosen, refresh=refresh)
            if not chosen.environment:
                chosen = chosen._replace(python=self._has_python(base))
            return self._with_code(base, chosen, refresh=refresh)

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
        from buildrun.environments.images import derive

        recipe = self._recipe(base, identity)
        found = derive.find(self.engine, self._request.home, recipe, base)
        state = EnvironmentState(identity.manager, recipe.key, found is not None, identity.lock)
        return chosen._replace(environment=recipe.key), state

    def push(self, image: ResolvedImage, repository: str) -> str:
        """Put the image into a registry, and return its reference there; raises BuildrunError."""
        console = self._request.console
        try:
            with going_on(console, "pushing the image"):
                return self.engine.push(image.id, repository, console.progress)
        finally:
            console.done()

    def _obtain(self) -> Image:
        name = self.declared
        if self._request.environment.offline and self.engine.image(name) is None:
            raise EnvironmentFailure(
                f"the docker engine has no image `{name}`", hint="run once without `--offline`"
            )
        return self.engine.obtain(name, self._request.console.progress)

    def _identify(self, base: Image) -> Identity | None:
        """Return what the environment above the base is made of, None where there is none."""
        if docker_env(self._project) is not None:
            return None
        from buildrun.environments.images import environment

        return environment.identify(self._request.environment, base, self._request.tracker)

    def _with_environment(
        self, base: Image, chosen: ResolvedImage, *, refresh: bool
    ) -> tuple[Image, ResolvedImage]:
        """Return the image with the environment above the base."""
        from buildrun.environments.images import derive
        from buildrun.environments.resolve import tell_of_lock

        request, console, identity = self._request, self._request.console, self._identify(base)
        if identity is None:
            return base, chosen
        tell_of_lock(identity, request.tracker, console)
        recipe = self._recipe(base, identity)
        made = derive.layer_image(
            self.engine, request.home, base, recipe, refresh=refresh, console=console
        )
        found = self.engine.image(made.id)
        if found is None:
            raise EnvironmentFailure(
                f"the image `{made.reference}` is gone as soon as it was made", hint="run again"
            )
        return found, chosen._replace(environment=made.key, reused=made.reused)

    def _recipe(self, base: Image, identity: Identity) -> ImageRecipe:
        from buildrun.environments.images import environment

        request, name = self._request, self.declared
        return environment.recipe(
            request.home, base, name, request.environment, identity, request.console
        )

    def _has_python(self, image: Image) -> bool:
        """Return whether the commands find a `python` in the image without a shell's help.

        Also True where the image has no shell. A container tells, once for each image.
        """
        request = self._request
        if not any(map(begins_with_python, request.commands)):
            return True
        from buildrun.environments.images.build_container import Access, BuildContainer
        from buildrun.store.memo import memoize

        environ = request.environment.environ

        def look(_: DependencyTracker) -> bool:
            with BuildContainer(image, request.home, environ) as site:
                site.create(("sh", "-c", "command -v python || exit 3"), Access())
                return site.run(lambda _: b"").code != 3

        memo = request.environment.memo
        return bool(memoize(memo, f"python {image.id}", environ, look))

    def _with_code(self, base: Image, chosen: ResolvedImage, *, refresh: bool) -> ResolvedImage:
        """Return the image with the project's files above the base."""
        request = self._request
        if not request.with_code:
            return chosen
        from buildrun.environments.images.derive import code_image

        fingerprints = image_context.fingerprints(request.home, self._project.root)
        derived = code_image(
            self.engine, request.home, base, self._project, fingerprints,
            refresh=refresh, console=request.console, any_user=request.any_user,
        )  # fmt: skip
        return chosen._replace(
            id=derived.id, reference=derived.reference, workdir=CODE,
            reused=derived.reused and chosen.reused, key=derived.key, below=base.id,
        )  # fmt: skip

    def _as_is(self, image: Image) -> ResolvedImage:
        return ResolvedImage(
            id=image.id,
            base=image.id,
            reference=self.declared,
            workdir=str(image.config.get("WorkingDir") or "/"),
            user=str(image.config.get("User") or ""),
            reused=True,
        )
