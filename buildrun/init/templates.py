"""Starter projects: files beside the package, copied with the user's Python and image."""

from __future__ import annotations

import os

import yaml

from buildrun.init.draft import Draft, scalar
from buildrun.init.python_env import minor_version
from buildrun.store.files import names_in

NAMES = ("sklearn", "docker", "pipeline")

# What stands in the files for what is filled in.
_PYTHON, _IMAGE = '"3.11"', "python:3.12-slim"


def load(name: str, image: str | None) -> Draft:
    """Return a template's files; image: in place of the one that a docker template names.

    Raises FileNotFoundError where the templates are lost.
    """
    directory = _directory(name)
    files = {}
    for file in sorted(names_in(directory), key=lambda file: (file == "MLproject", file)):
        path = os.path.join(directory, file)
        if os.path.isdir(path):
            continue  # pip compiles what it installs
        with open(path, encoding="utf-8") as opened:
            text = opened.read()
        text = text.replace(_PYTHON, f'"{minor_version()}"')
        files[file] = text.replace(_IMAGE, scalar(image)) if image else text
    return Draft(files, tuple(yaml.safe_load(files["MLproject"])["entry_points"]))


def _directory(name: str) -> str:
    """Return where a template lies: in a wheel inside the package, in a checkout beside it."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in (package, os.path.dirname(package)):
        candidate = os.path.join(directory, "templates", name)
        if os.path.isfile(os.path.join(candidate, "MLproject")):
            return candidate
    raise FileNotFoundError(f"the template {name} is missing from this installation of buildrun")
