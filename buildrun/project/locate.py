"""Where a project's files lie. Imported by every run, so it imports nothing heavy."""

from __future__ import annotations

import os

from buildrun.errors import ProjectError

PYTHON_ENV = "python_env.yaml"
CONDA_ENV = "conda.yaml"


def find_mlproject(root: str) -> str | None:
    """Return the path of the MLproject file in ``root``, or None.

    Any letter case counts, as in MLflow; of several, ``MLproject`` comes first. The path may be
    a directory, which is for the reader to refuse. Raises ProjectError where ``root`` cannot be
    listed.
    """
    try:
        names = os.listdir(root)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ProjectError(
            f"the directory cannot be read: {reason}", place=root, hint="check the path"
        ) from error
    matches = [name for name in names if name.lower() == "mlproject"]
    if not matches:
        return None
    return os.path.join(root, min(matches, key=lambda name: (name != "MLproject", name)))
