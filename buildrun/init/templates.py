"""Starter projects: files beside the package, copied with the user's Python and image."""

from __future__ import annotations

import os

import yaml

from buildrun.init.draft import Draft, scalar
from buildrun.init.python_env import minor_version
from buildrun.store.files import names_in, shipped

NAMES = ("sklearn", "docker", "pipeline")

# What stands in the files for what is filled in.
_PYTHON, _IMAGE = '"3.11"', "python:3.12-slim"


def load(name: str, image: str | None) -> Draft:
    """Return a template's files; image: in place of the one that a docker template names.

    Raises FileNotFoundError where the templates are lost.
    """
    directory = os.path.dirname(shipped(f"templates/{name}/MLproject"))
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
