"""Rules of docker_env and of backend configs."""

from __future__ import annotations

import json
import os

from buildrun.project.diagnostics import Diagnostic, Findings, Path
from buildrun.project.model import DockerEnv
from buildrun.project.rules.entry_points import LONGEST, seconds
from buildrun.project.rules.values import check_scalar, items
from buildrun.project.schemas import check_schema, load
from buildrun.project.yaml_loader import Document, parse, read_text
from buildrun.store.memo import DependencyTracker


def read_docker_env(findings: Findings) -> DockerEnv | None:
    """Return the docker environment without what the schema refuses, or None without an image."""
    value = findings.document.value["docker_env"]
    image = value.get("image") if isinstance(value, dict) else None
    if not isinstance(image, str) or not image:
        return None
    variables = items(("docker_env", "environment"), value.get("environment"))
    pairs = [_variable(findings, *variable) for variable in variables]
    volumes = [item for _, item in items((), value.get("volumes")) if isinstance(item, str)]
    return DockerEnv(image, tuple(volumes), tuple(pair for pair in pairs if pair is not None))


def _variable(findings: Findings, path: Path, item: object) -> str | tuple[str, str] | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str):
        return None
    check_scalar(findings, (*path, 1), item[1], "the variable is", exact=True)
    return item[0], str(item[1])


KEYS = ("kube-context", "repository-uri", "kube-job-template-path")
DATABRICKS_KEYS = ("new_cluster", "existing_cluster_id", "serverless", "spark_version")


def load_json(path: str, reader: DependencyTracker) -> Document | Diagnostic:
    """Read JSON as Python does, with places as in YAML; else return why it cannot be read."""
    text = read_text(path, reader)
    if isinstance(text, Diagnostic):
        return text
    document = parse(path, text.replace("\t", " "))
    if isinstance(document, Diagnostic) and document.code == "too-deep":
        return document
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        message = f"this is not JSON: {getattr(error, 'msg', error)}"
        hint = "check quotes, commas and brackets; JSON takes no comments"
        return Diagnostic("error", "json-syntax", message, path, line, column, hint=hint)
    if isinstance(document, Diagnostic):
        return Document(path, text, value, None, (), ())
    document.value = value
    return document


def check_kubernetes(findings: Findings, cwd: str, reader: DependencyTracker) -> None:
    """Check a backend configuration; its paths are relative to ``cwd``, as in MLflow."""
    check_schema("kubernetes_config", findings)
    value = findings.document.value
    name = value.get("kube-job-template-path") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return
    folders = (cwd, os.path.dirname(findings.document.path))
    if not any(reader.exists(os.path.join(folder, name)) for folder in folders):
        message = f"there is no Job template `{name[:200]}`"
        hint = "the path is relative to the directory that buildrun is called in, or to this file"
        findings.warning("missing-job-template", message, ("kube-job-template-path",), hint=hint)


def check_databricks_config(findings: Findings) -> None:
    """Check a backend configuration for Databricks."""
    check_schema("databricks_config", findings)
    value = findings.document.value
    if not isinstance(value, dict):
        return
    for key in ("timeout", "poll"):
        given = value.get(key)
        number = seconds(given) if isinstance(given, str) else None
        if number is not None and not 0 < number <= LONGEST:
            message = f"`{key}` is no time above 0 seconds and up to 366 days: `{given}`"
            findings.error("bad-timeout", message, (key,), hint="write a time such as `5s` or `2h`")
    if value.keys().isdisjoint(DATABRICKS_KEYS[:3]):
        return
    for key in cluster_keys().intersection(value):
        message = f"`{key}` stands beside what says where commands run, and has no effect"
        hint = "move it into `new_cluster`, or take it out"
        findings.warning("unknown-key", message, (key,), key=True, hint=hint)


def cluster_keys() -> frozenset[str]:
    """Return the keys of a new cluster that are known, which MLflow has at the top as well."""
    return frozenset(load("databricks_config")["definitions"]["new_cluster"]["properties"])
