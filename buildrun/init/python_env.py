"""The environment of a project to be: the file that is there, or one from what is imported."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata

from buildrun.init.draft import Environment, comments, scalar
from buildrun.project.locate import CONDA_ENV, PYTHON_ENV

_REQUIREMENTS = "requirements.txt"
_THERE = {
    PYTHON_ENV: "python_env", CONDA_ENV: "conda_env", "environment.yml": "conda_env",
    "environment.yaml": "conda_env",
}  # fmt: skip

# Distributions that everybody means by an import; those of another name first.
_KNOWN = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "cv2": "opencv-python", "dateutil": "python-dateutil",
    "dotenv": "python-dotenv", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "yaml": "PyYAML",
} | {
    name: name
    for name in (
        "boto3", "click", "duckdb", "httpx", "joblib", "keras", "lightgbm", "matplotlib", "mlflow",
        "networkx", "numba", "numpy", "optuna", "pandas", "plotly", "polars", "pyarrow", "pydantic",
        "requests", "rich", "scipy", "seaborn", "statsmodels", "tensorflow", "torch", "torchvision",
        "tqdm", "transformers", "typer", "xgboost",
    )
}  # fmt: skip


def minor_version() -> str:
    """Return the running Python's version, such as ``3.12``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def environment(root: str, python_files: Callable[[], Mapping[str, ast.Module]]) -> Environment:
    """Return the environment for a project; python_files: by relative path, read where needed."""
    for file, key in _THERE.items():
        if os.path.isfile(os.path.join(root, file)):
            return Environment(key, file)
    if os.path.isfile(os.path.join(root, _REQUIREMENTS)):
        return Environment("python_env", PYTHON_ENV, _text([f"-r {_REQUIREMENTS}"], ()))
    trees = python_files()
    if not trees:
        return Environment()
    packages: set[str] = set()
    unknown = []
    known = _KNOWN | {
        name: of[0] for name, of in metadata.packages_distributions().items() if len(set(of)) == 1
    }
    for name, place in sorted(_third_party(trees).items()):
        if name in known:
            packages.add(known[name])
        else:
            unknown.append(f"`import {name}` ({place}): name the package that it comes from")
    text = _text(sorted(packages, key=str.lower), unknown)
    return Environment("python_env", PYTHON_ENV, text, unknown)


def _text(lines: list[str], notes: list[str] | tuple[()]) -> str:
    listed = "".join(f"\n  - {scalar(line)}" for line in lines) or " []"
    head = ["`buildrun lock` pins every package to a version"] if lines else []
    return f'{comments([*head, *notes])}python: "{minor_version()}"\ndependencies:{listed}\n'


def _third_party(trees: Mapping[str, ast.Module]) -> dict[str, str]:
    """Return the modules that neither Python nor the project has, each with a place."""
    own = {os.path.splitext(part)[0] for path in trees for part in path.split("/")}
    found: dict[str, str] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            for name in _roots(node):
                if name not in own and name not in sys.stdlib_module_names:
                    found.setdefault(name, f"{path}:{getattr(node, 'lineno', 1)}")
    return found


def _roots(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (each.name.split(".")[0] for each in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield (node.module or "").split(".")[0]
