"""The docker engine: images found, pulled, built, loaded, pushed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from buildrun.console import redact, size
from buildrun.environments.failures import EngineError, of_engine
from buildrun.environments.images import engine_api
from buildrun.environments.images.engine_api import Image
from buildrun.errors import BuildrunError, EnvironmentFailure, ExecutionError

if TYPE_CHECKING:
    from docker import APIClient

    from buildrun.environments.images.engine_api import Host

__all__ = ["LABEL", "Engine", "EngineError", "Image"]

# On every image that buildrun makes, and the key that it was made for.
LABEL = "buildrun"
KEY = "buildrun.key"
PROJECT = "buildrun.project"
# Names of images that buildrun makes begin so.
REPOSITORY = "buildrun/"

Progress = Callable[[str], None]

# Seconds to wait for an answer. What streams may be silent for as long as an engine's disk needs.
_SECONDS = 60


class Engine:
    """A docker engine, which is connected to at first use.

    environ: DOCKER_HOST, DOCKER_CONTEXT, DOCKER_CONFIG and the TLS variables count.
    Every method raises BuildrunError where there is no engine, or it refuses.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Remember where to look."""
        self._environ = environ
        self._host: engine_api.Host | None = None
        self._connection: APIClient | None = None

    @property
    def host(self) -> engine_api.Host:
        """Return which engine it is."""
        if self._host is None:
            self._host = engine_api.find(self._environ)
        return self._host

    def image(self, name: str) -> Image | None:
        """Return an image by name, digest or id; None where the engine does not have it."""
        if not engine_api.is_id(name):
            engine_api.parse(name)
        if self.host.socket is None:
            return self._image(name)
        try:
            return engine_api.over_socket(self.host.socket, name)
        except OSError as error:
            raise unreachable(self.host, error) from error

    def obtain(self, name: str, progress: Progress) -> Image:
        """Return an image, pulled with the user's credentials where the engine does not have it.

        progress: is told what happens, in short texts.
        """
        found = self.image(name)
        if found is not None:
            return found
        if engine_api.is_id(name):
            raise EnvironmentFailure(
                f"the docker engine has no image `{name}`", hint="build it, or give a name to pull"
            )
        parts = engine_api.parse(name)
        tag = parts.digest or parts.tag or "latest"
        with self._explained(f"pull `{name}`"):
            answers = self._api.pull(parts.repository, tag=tag, stream=True, decode=True)
            _follow(f"pull `{name}`", answers, lambda text: progress(f"pulling {name}: {text}"))
        found = self.image(name)
        if found is None:
            raise EnvironmentFailure(f"`{name}` was pulled, and the docker engine does not have it")
        return found

    def keeps_layers(self) -> bool:
        """Return whether its store knows layers by themselves, as the classic one does.

        That of containerd knows whole images.
        """
        with self._explained("tell of itself"):
            told = self._api.info().get("DriverStatus") or ()
        return ["driver-type", "io.containerd.snapshotter.v1"] not in told

    def load(self, chunks: Iterable[bytes]) -> None:
        """Take an image archive, as `docker load` does, piece by piece."""
        self._send("load an image", "/images/load", chunks, {"quiet": "1"})

    def build(self, chunks: Iterable[bytes], options: Mapping[str, str]) -> str:
        """Take a build context, as `docker build` does, and return the id of what was made.

        options: parameters of ``POST /build``.
        """
        parameters = {"rm": "1", "forcerm": "1", **options}
        made = self._send("build an image", "/build", chunks, parameters)
        if not made:
            raise EnvironmentFailure("docker built an image, and does not say which")
        return made

    def tag(self, image: str, name: str) -> None:
        """Give an image a further name, taken from whichever had it."""
        parts = engine_api.parse(name)
        with self._explained(f"name an image `{name}`"):
            self._api.tag(image, parts.repository, parts.tag or "latest", force=True)

    def push(self, image: str, repository: str, progress: Progress) -> str:
        """Put an image into a registry, with the user's credentials; return its name there.

        repository: such as ``registry:5000/team/project``; without a tag, that is the image's key.
        Returns ``repository@sha256:…``. Nothing is sent when that is there already.
        """
        found = self.image(image)
        if found is None:
            raise EnvironmentFailure(f"the docker engine has no image `{image}`")
        parts = engine_api.parse(repository)
        tag = parts.tag or found.labels.get(KEY, found.id)[7:23]
        name = f"{parts.repository}:{tag}"
        there = self._there(name)
        if there is not None and f"{parts.repository}@{there}" in found.digests:
            return f"{parts.repository}@{there}"
        self.tag(found.id, name)
        with self._explained(f"push `{name}`"):
            answers = self._api.push(parts.repository, tag=tag, stream=True, decode=True)
            digest = _follow(
                f"push `{name}`", answers, lambda text: progress(f"pushing {name}: {text}")
            )
        if not digest:
            raise EnvironmentFailure(f"docker pushed `{name}`, and does not say as which digest")
        return f"{parts.repository}@{digest}"

    def remove(self, image: str) -> bool:
        """Remove an image of buildrun's; False where a container uses it.

        Names that others gave it stay, and the image with them.
        """
        from docker.errors import APIError, ImageNotFound

        found = self.image(image)
        if found is None:
            return True
        key = found.labels.get(KEY, "")[7:23]
        own = [name for name in found.names if _is_own(name, key)]
        with self._explained(f"remove the image `{image}`"):
            # A container keeps the image, but would not keep its names.
            if self._api.containers(all=True, quiet=True, filters={"ancestor": found.id}):
                return False
            for name in own or ([] if found.names else [found.id]):
                try:
                    self._api.remove_image(name)
                except ImageNotFound:
                    continue  # somebody else has removed it
                except APIError as error:
                    if error.status_code != 409:
                        raise
                    return False
        return True

    def made(self) -> dict[str, list[str]]:
        """Return the ids of the images that buildrun made, by their keys."""
        found: dict[str, list[str]] = {}
        with self._explained("list images"):
            for row in self._api.images(filters={"label": LABEL}):
                key = (row.get("Labels") or {}).get(KEY, "")
                found.setdefault(key, []).append(str(row["Id"]))
        return found

    def close(self) -> None:
        """Let go of the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _api(self) -> APIClient:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> APIClient:
        from docker import APIClient
        from docker.tls import TLSConfig

        where, tls = self.host, None
        if where.certificates is not None:
            names = ("cert.pem", "key.pem", "ca.pem")
            paths = [os.path.join(where.certificates, name) for name in names]
            cert, key, authority = [path if os.path.exists(path) else None for path in paths]
            pair = (cert, key) if cert is not None and key is not None else None
            tls = TLSConfig(client_cert=pair, ca_cert=authority, verify=where.verify)
        url = where.url
        if tls is not None and url.startswith("tcp://"):
            url = "https://" + url[len("tcp://") :]
        api = APIClient(
            base_url=url,
            version="auto",
            timeout=_SECONDS,
            tls=tls or False,
            credstore_env=dict(self._environ),
            use_ssh_client=True,
        )
        if self._environ.get("DOCKER_CONFIG"):
            path = os.path.join(self._environ["DOCKER_CONFIG"], "config.json")
            api.reload_config(path if os.path.exists(path) else None)
        return api

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn what the SDK raises into errors for the user; doing: as in ``of_engine``."""
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException

        try:
            yield
        except APIError as error:
            said = error.explanation or str(error)
            raise of_engine(doing, said, error.status_code or 0) from error
        except DockerException as error:
            if _cause(error, OSError) is not None:
                raise unreachable(self.host, error) from error
            raise ExecutionError(f"docker cannot {doing}: {redact(str(error))}") from error
        except (RequestException, OSError) as error:
            raise unreachable(self.host, error) from error

    def _image(self, name: str) -> Image | None:
        from docker.errors import ImageNotFound

        with self._explained(f"look at `{name}`"):
            try:
                api: Any = self._api
                return engine_api.read(api.inspect_image(name))
            except ImageNotFound:
                return None

    def _there(self, name: str) -> str | None:
        """Return the digest that a registry has for a name, or None where it has none."""
        if self.host.socket is not None:
            known = engine_api.header(name, self._environ)
            if known is not None:
                try:
                    return engine_api.digest_in_registry(self.host.socket, name, known)
                except OSError:
                    return None
        from docker.errors import APIError

        with self._explained(f"look for `{name}`"):
            try:
                api: Any = self._api
                return str(api.inspect_distribution(name)["Descriptor"]["digest"])
            except APIError:
                return None  # whatever is wrong, pushing will tell of it better

    def _send(
        self, doing: str, path: str, chunks: Iterable[bytes], options: Mapping[str, str]
    ) -> str:
        """Send an archive piece by piece; see ``_follow`` for what is returned."""
        with self._explained(doing):
            api: Any = self._api
            # As the SDK's own methods send it, but for the time they would wait.
            response = api._post(
                api._url(path),
                # requests sends an iterator piece by piece, and never asks for its length.
                data=(chunk for chunk in chunks if chunk),
                params=dict(options),
                headers={"Content-Type": "application/x-tar"},
                stream=True,
                timeout=(_SECONDS, None),
            )
            api._raise_for_status(response)
            return _follow(doing, api._stream_helper(response, decode=True), lambda _: None)


def _is_own(name: str, key: str) -> bool:
    """Return whether buildrun gave the name: its own, or one that was pushed under the key."""
    return name.startswith(REPOSITORY) or (key != "" and name.endswith(":" + key))


_DONE = frozenset(
    {"Pull complete", "Already exists", "Download complete", "Pushed", "Layer already exists"}
)
_MOVING = frozenset({"Downloading", "Pushing"})


def _follow(doing: str, answers: Iterable[Mapping[str, Any]], tell: Progress) -> str:
    """Return the id or digest that an engine tells of what it made, once all is done.

    tell: is told how much of all layers was transferred. Raises EngineError.
    """
    told, layers = "", dict[str, tuple[int, int]]()
    for answer in answers:
        if "error" in answer or "errorDetail" in answer:
            detail = answer.get("errorDetail") or {}
            said = detail.get("message") or answer.get("error")
            raise of_engine(doing, said, int(detail.get("code") or 0))
        made = answer.get("aux") or {}
        told = made.get("Digest") or made.get("ID") or told
        layer, status = answer.get("id"), answer.get("status")
        if not isinstance(layer, str) or not isinstance(status, str):
            continue
        current, total = layers.setdefault(layer, (0, 0))
        if status in _DONE:
            current = total
        elif status in _MOVING:
            detail = answer.get("progressDetail") or {}
            current = int(detail.get("current") or 0)
            total = max(current, int(detail.get("total") or 0))
        else:
            continue
        layers[layer] = (current, total)
        done, whole = map(sum, zip(*layers.values(), strict=True))
        tell(f"{size(done)} of {size(whole)}")
    return str(told)


def unreachable(host: Host, error: BaseException) -> BuildrunError:
    """Return the error for an engine that cannot be spoken to."""
    if _cause(error, PermissionError) is not None:
        return ExecutionError(
            f"there is no permission to speak to the docker engine at {redact(host.url)}",
            hint="add yourself to the group `docker`, or set DOCKER_HOST to an engine of yours",
        )
    return ExecutionError(
        f"no docker engine answers at {redact(host.url)} (from {host.origin})",
        hint="start one, or set DOCKER_HOST or `docker context use`",
    )


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return the first of a kind among an error, its arguments and what caused it."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        if isinstance(each, kind):
            return each
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__, *each.args]
    return None
