"""What a docker environment declares."""

from __future__ import annotations

from typing import Any

from buildrun.project.check_scalar import check_scalar
from buildrun.project.compose import Path
from buildrun.project.findings import Findings
from buildrun.project.spec import DockerEnv


def read_docker_env(findings: Findings) -> DockerEnv | None:
    """Return the docker environment, or None where it names no image.

    Shapes that MLflow refuses are the schema's to report; they are left out here.
    """
    value = findings.document.value["docker_env"]
    image = value.get("image") if isinstance(value, dict) else None
    if not isinstance(image, str) or not image:
        return None
    variables = _list(value.get("environment"))
    pairs = [
        _variable(findings, ("docker_env", "environment", index), item)
        for index, item in enumerate(variables)
    ]
    volumes = tuple(item for item in _list(value.get("volumes")) if isinstance(item, str))
    return DockerEnv(image, volumes, tuple(pair for pair in pairs if pair is not None))


def _variable(findings: Findings, path: Path, item: object) -> str | tuple[str, str] | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
        return None
    check_scalar(findings, (*path, 1), item[1], "the variable is", exact=True)
    return item[0], str(item[1])


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
