"""Errors as a child process has told them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buildrun import errors
from buildrun.errors import BuildrunError


def error_of(told: Mapping[str, Any]) -> BuildrunError:
    """Return the error; one of a kind that is raised otherwise becomes the base's."""
    kind = getattr(errors, told["kind"], BuildrunError)
    parts = {"place": told["place"], "hint": told["hint"]}
    if not (isinstance(kind, type) and issubclass(kind, BuildrunError)):
        kind = BuildrunError
    try:
        error: BuildrunError = kind(told["message"], **parts)
    except TypeError:
        error = BuildrunError(told["message"], **parts)
    error.exit_code = told["exit_code"]
    return error
