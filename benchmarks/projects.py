"""The projects that are measured."""

from __future__ import annotations

from collections.abc import Mapping

# A small environment, and one of the kind that most projects have: they log to MLflow.
SMALL = ("scikit-learn>=1.4,<2", "pandas>=2,<3")
USUAL = ("mlflow>=3,<4", *SMALL)


def virtualenv_project(
    name: str, python: str, requirements: tuple[str, ...], command: str = "python -c pass"
) -> Mapping[str, str]:
    """Return the files of a project with a virtualenv of these requirements."""
    lines = "\n".join(f"  - {line}" for line in requirements)
    dependencies = f"dependencies:\n{lines}" if requirements else "dependencies: []"
    return {
        "MLproject": (
            f"name: {name}\npython_env: python_env.yaml\n"
            f'entry_points:\n  main:\n    command: "{command}"\n'
        ),
        "python_env.yaml": f'python: "{python}"\n{dependencies}\n',
    }


def uv_project(name: str, python: str) -> Mapping[str, str]:
    """Return the files of uv's own kind of project, without requirements."""
    return {
        "pyproject.toml": (
            f'[project]\nname = "{name}"\nversion = "0.1.0"\n'
            f'requires-python = "=={python}"\ndependencies = []\n'
        )
    }


def varied_projects(count: int) -> Mapping[str, Mapping[str, str]]:
    """Return so many valid projects of varied shape: the files of each by its directory."""
    return {f"project-{number:03}": _varied(number) for number in range(count)}


def _varied(number: int) -> Mapping[str, str]:
    kind, files = _environment(number)
    points = [_entry_point(number, index) for index in range(1 + number % 4)]
    text = f"name: project-{number}\n{kind}entry_points:\n{''.join(points)}"
    return {"MLproject": text, "train.py": "print('trained')\n", **files}


def _entry_point(number: int, index: int) -> str:
    name = "main" if index == 0 else f"step_{index}"
    count = (number // 4 + index) % 7
    declared = "".join(f"      {_parameter(number, place)}\n" for place in range(count))
    used = "".join(f" --p{place} {{p{place}}}" for place in range(count))
    parameters = f"    parameters:\n{declared}" if count else ""
    return f'  {name}:\n{parameters}    command: "python train.py{used}"\n'


def _parameter(number: int, place: int) -> str:
    forms = (
        f"{{type: float, default: 0.{number % 9 + 1}}}",
        f"{{type: string, default: value-{number}}}",
        "float",
        "path",
        "{type: path, default: data.csv}",
        "uri",
        f"{{type: float, default: {number}}}",
        "string",
    )
    return f"p{place}: {forms[(number + place) % len(forms)]}"


def _environment(number: int) -> tuple[str, Mapping[str, str]]:
    """Return the key in the MLproject, and the file that it names."""
    requirements = "".join(f"  - package-{item}>=1.{item}\n" for item in range(number % 12 + 1))
    python_env = f'python: "3.{10 + number % 3}"\ndependencies:\n{requirements}'
    kinds: tuple[tuple[str, Mapping[str, str]], ...] = (
        ("", {}),
        ("python_env: python_env.yaml\n", {"python_env.yaml": python_env}),
        ("conda_env: conda.yaml\n", {"conda.yaml": _conda(number)}),
        (f"docker_env:\n  image: example/train:{number}\n", {}),
        ("python_env: env/python.yaml\n", {"env/python.yaml": python_env}),
    )
    return kinds[number % len(kinds)]


def _conda(number: int) -> str:
    return (
        f"name: environment-{number}\nchannels:\n  - conda-forge\ndependencies:\n"
        f"  - python=3.11\n  - numpy>=1.{number % 20}\n  - pip\n  - pip:\n"
        f"      - package-{number}==1.0\n      - other-package>=2\n"
    )
