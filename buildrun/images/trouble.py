"""What goes wrong between us and a docker engine, in words that say what can be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from buildrun.errors import BuildrunError, EnvironmentFailure, ExecutionError
from buildrun.secrets import redact

if TYPE_CHECKING:
    from buildrun.images.host import Host

_FULL = "no space left on device"
_CREDENTIALS = ("unauthorized", "authentication required", "denied", "no basic auth credentials")


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


class Refused(EnvironmentFailure):
    """An engine, or a registry behind it, does not do what it was asked."""

    @property
    def full(self) -> bool:
        """Return whether that is for want of room on its disk."""
        return _FULL in self.message.lower()


@contextmanager
def told(host: Host, doing: str) -> Iterator[None]:
    """Turn what the SDK raises into errors for the user.

    doing: what was being done, such as ``pull `python:3.12` ``.
    """
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except APIError as error:
        raise refused(doing, error.explanation or str(error), error.status_code or 0) from error
    except DockerException as error:
        if _cause(error, OSError) is not None:
            raise unreachable(host, error) from error
        raise ExecutionError(f"docker cannot {doing}: {redact(str(error))}") from error
    except (RequestException, OSError) as error:
        raise unreachable(host, error) from error


def refused(doing: str, explanation: object, status: int = 0) -> Refused:
    """Return the error for what an engine, or a registry behind it, answers.

    explanation: its own words. status: of HTTP, 0 where it is not known.
    """
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    said = redact(str(explanation).strip())
    text = f"docker cannot {doing}: {said}"
    low = said.lower()
    if _FULL in low:
        return Refused(text, hint="make room on the engine's disk, as with `buildrun cache gc`")
    if status in (401, 403) or any(word in low for word in _CREDENTIALS):
        return Refused(text, hint="check the name; `docker login` for a private registry")
    if "manifest unknown" in low or "not found" in low or "no such image" in low:
        return Refused(text, hint="check the image's name and tag")
    if "no such host" in low or "dial tcp" in low or "timeout" in low:
        return Refused(text, hint="check the network and the registry's name")
    if "gave http response to https client" in low:
        return Refused(text, hint="list the registry under `insecure-registries` of the engine")
    return Refused(text)


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
