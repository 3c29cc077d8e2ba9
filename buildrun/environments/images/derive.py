"""Derived images: found by key, else built; and their records."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from buildrun.console import Console
from buildrun.environments.images import engine, engine_api
from buildrun.environments.images.config import Archive, ConfigChange, build_context
from buildrun.environments.images.engine import Engine, EngineError, Image
from buildrun.environments.provision import unwritable
from buildrun.project.model import ProjectSpec
from buildrun.store import digest, files, locks
from buildrun.store.home import Home
from buildrun.store.locks import Lock
from buildrun.workspace import archive, image_context
from buildrun.workspace.archive import Layer
from buildrun.workspace.fingerprints import Fingerprints

# Where a project lies in its image, as with MLflow.
CODE = "/mlflow/projects/code"

# How images are made; another number makes all of them anew.
_FORMAT = "1"


class DerivedImage(NamedTuple):
    """An image that was made.

    key: the digest of what it is made of. id: the same on every machine. reference: its name.
    reused: it was there.
    """

    key: str
    id: str
    reference: str
    reused: bool


class ImageRecipe(NamedTuple):
    """What an image is made of, before anything is made.

    key: the digest of all that decides it. project: its name, for people. make: makes the layer
    above the base, which is there as long as the context lasts, and says what else differs.
    """

    key: str
    project: str
    make: Callable[[], AbstractContextManager[tuple[Layer, ConfigChange]]]

    @property
    def reference(self) -> str:
        """Return the image's name."""
        return f"{engine.REPOSITORY}{engine_api.component(self.project)}:{self.key[7:23]}"


def code_image(
    engine: Engine,
    home: Home,
    base: Image,
    project: ProjectSpec,
    fingerprints: Fingerprints,
    *,
    refresh: bool,
    console: Console,
    any_user: bool = False,
) -> DerivedImage:
    """Return the base with the project's files in `CODE`, made if it is not there.

    refresh: it is made anew. any_user: see `archive.of_files`. Raises BuildrunError.
    """
    recipe = code_recipe(base, project, fingerprints, console, any_user=any_user)
    made = layer_image(engine, home, base, recipe, refresh=refresh, console=console)
    fingerprints.save()
    return made


def code_recipe(
    base: Image,
    project: ProjectSpec,
    fingerprints: Fingerprints,
    console: Console,
    *,
    any_user: bool = False,
) -> ImageRecipe:
    """Return what the project's image is made of; nothing is made, no engine is asked.

    Raises ProjectError where a file cannot be read.
    """
    content = image_context.content(project.root, project.outputs, fingerprints)
    parts = {"format": _FORMAT, "base": base.id, "code": content.taken.digest, "at": CODE}
    if any_user:
        parts["users"] = "any"

    @contextmanager
    def make() -> Iterator[tuple[Layer, ConfigChange]]:
        for path in content.secrets:
            console.note(f"`{path}` stays out of the image, since it may hold secrets")
        layer = archive.of_files(project.root, content.taken, CODE, any_user=any_user)
        yield layer, ConfigChange(workdir=CODE, history=f"the project's files in {CODE}")

    key = digest.key("image", {**parts, "project": engine_api.component(project.name)})
    return ImageRecipe(key, project.name, make)


def find(engine: Engine, home: Home, recipe: ImageRecipe, base: Image) -> DerivedImage | None:
    """Return the image that a recipe has made, where the engine still has it."""
    record = read(home, recipe.key)
    if record is not None and record.id and engine.image(record.id) is not None:
        return DerivedImage(recipe.key, record.id, record.reference, True)
    found = engine.image(recipe.reference)
    if found is None or not _is_made_of(found, recipe, base):
        return None
    return DerivedImage(recipe.key, found.id, recipe.reference, True)


def layer_image(
    engine: Engine,
    home: Home,
    base: Image,
    recipe: ImageRecipe,
    *,
    refresh: bool,
    console: Console,
) -> DerivedImage:
    """Return the base with one more layer, made if it is not there; raises BuildrunError."""

    def build(_: Lock) -> DerivedImage:
        # Written before there is an image, so that what a killed build leaves is found by its key.
        write(home, ImageRecord(recipe.key, "", recipe.reference, base.id, recipe.project))
        record = _make(engine, base, recipe, console)
        write(home, record)
        return DerivedImage(record.key, record.id, record.reference, False)

    note = f"waiting for another build of {recipe.reference}"
    image = locks.once(
        lambda: None if refresh else find(engine, home, recipe, base),
        build,
        lambda: lock(home, recipe.key, waiting=lambda: console.note(note)),
    )
    if image.reused:
        use(home, image.key)
    return image


def _make(engine: Engine, base: Image, recipe: ImageRecipe, console: Console) -> ImageRecord:
    try:
        with recipe.make() as (layer, plain):
            console.progress(f"making {recipe.reference}")
            change = _labelled(recipe, plain)
            made = _loaded(engine, base, change, layer) or _built(engine, base, change, layer)
            engine.tag(made, recipe.reference)
    finally:
        console.done()
    size, now = layer.size, time.time()
    return ImageRecord(recipe.key, made, recipe.reference, base.id, recipe.project, size, now)


def _loaded(engine: Engine, base: Image, change: ConfigChange, source: Layer) -> str | None:
    """Return the id of the image, or None where the engine wants all of its layers."""
    if not engine.keeps_layers():
        return None
    image = Archive(base, change, source)
    try:
        engine.load(image.chunks())
    except EngineError as error:
        if error.full:
            raise
        return None
    return image.id if engine.image(image.id) is not None else None


def _built(engine: Engine, base: Image, change: ConfigChange, source: Layer) -> str:
    labels = json.dumps(dict(change.labels))
    return engine.build(build_context(base, change, source), {"labels": labels})


def _labelled(recipe: ImageRecipe, change: ConfigChange) -> ConfigChange:
    labels = {
        engine.LABEL: _FORMAT,
        engine.KEY: recipe.key,
        engine.PROJECT: engine_api.component(recipe.project),
    }
    return change._replace(labels={**change.labels, **labels})


def _is_made_of(image: Image, recipe: ImageRecipe, base: Image) -> bool:
    """Return whether an image of the right name is what the recipe makes."""
    return image.labels.get(engine.KEY) == recipe.key and image.layers[:-1] == base.layers


_NAME = re.compile(r"([0-9a-f]{64})\.json")


class ImageRecord(NamedTuple):
    """What a key has made.

    id: empty while it is being made, and after a build that was killed. base: the id of the base.
    bytes: of its own layer. created: seconds since the epoch.
    """

    key: str
    id: str
    reference: str
    base: str
    project: str
    bytes: int = 0
    created: float = 0.0


def read(home: Home, key: str) -> ImageRecord | None:
    """Return the record of a key; None where there is none, or it is damaged."""
    try:
        with open(path(home, key), "rb") as file:
            value: Any = json.loads(file.read())
        if value.pop("version") != 1:
            return None
        record = ImageRecord(**value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    kinds = [type(item) for item in record]
    if kinds != [str, str, str, str, str, int, float] or record.key[7:] != key[7:]:
        return None
    record = record._replace(key=key)  # older versions had keys with another prefix
    return record if record.id == "" or engine_api.is_id(record.id) else None


def write(home: Home, record: ImageRecord) -> None:
    """Write a record down; raises StoreError."""
    try:
        content = json.dumps({"version": 1, **record._asdict()})
        files.publish(path(home, record.key), content.encode())
    except OSError as error:
        raise unwritable(home.images, error) from error


def lock(home: Home, key: str, *, waiting: Callable[[], None]) -> Lock:
    """Return the only right to make what a key stands for; raises StoreError.

    waiting: is called once where somebody else has it.
    """
    try:
        os.makedirs(home.images, exist_ok=True)
        return locks.exclusive(f"{path(home, key)}.lock", waiting=waiting)
    except OSError as error:
        raise unwritable(home.images, error) from error


def use(home: Home, key: str) -> None:
    """Note that an image was used, which keeps it from being collected."""
    try:
        os.utime(path(home, key))
    except OSError:
        pass  # it was made with another store, or this one may only be read


def keys(home: Home) -> Iterator[str]:
    """Yield the keys of which there is a record, sound or not."""
    for name in files.names_in(home.images):
        match = _NAME.fullmatch(name)
        if match is not None:
            yield digest.PREFIX + match.group(1)


def path(home: Home, key: str) -> str:
    """Return where the record of a key is."""
    return os.path.join(home.images, f"{key[7:]}.json")
