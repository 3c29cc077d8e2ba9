"""The JSON Schemas that editors and `buildrun validate` share."""

from __future__ import annotations

import json
import os
from typing import Any

NAMES = ("MLproject", "conda", "kubernetes_config", "python_env")


def path(name: str) -> str:
    """Return the absolute path of a schema.

    A wheel has the schemas inside the package, a checkout beside it. Raises KeyError for a name
    not in ``NAMES``, FileNotFoundError where the installation has lost its schemas.
    """
    if name not in NAMES:
        raise KeyError(name)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in (package, os.path.dirname(package)):
        candidate = os.path.join(directory, "schemas", f"{name}.schema.json")
        if os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError(f"the schema {name} is missing from this installation of buildrun")


def load(name: str) -> dict[str, Any]:
    """Return a schema as Python data; raises as ``path`` does."""
    with open(path(name), encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    return schema
