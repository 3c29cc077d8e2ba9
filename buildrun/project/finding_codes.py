"""What each code of a finding means, as docs/mlproject.md lists them."""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS: Mapping[str, str] = {
    "bad-character": "a character that YAML does not allow",
    "bad-databricks-job": "a Databricks job as MLflow refuses it",
    "bad-dependency": "a conda dependency that is neither a text nor a `pip:` list",
    "bad-input": "no pattern listed, an empty pattern, or one that nothing can match",
    "bad-name": (
        "the project's name has a line break (error), or `docker_env` beside a name that "
        "fits no image or Job (warning)"
    ),
    "bad-output": (
        "an output that is a pattern, the project itself, or belongs to git, buildrun or "
        "the project's definition"
    ),
    "bad-retries": "`retries` is no integer from 0 to 100",
    "bad-sandbox": (
        "`sandbox` is none of `true`, `false`, `auto` and a mapping, or allows a path that is "
        "neither absolute nor begins with `~/`"
    ),
    "bad-template": "a command or a value that is no format string",
    "bad-timeout": "`timeout` is no time, or none between 0 seconds and 366 days",
    "bad-value": "a value that the schema does not allow",
    "bad-variable": (
        "a variable's name or value that cannot be one, a name under two of `env`, `pass_env` and "
        "`key_env`, or one under `key_env` that buildrun or the conda environment sets"
    ),
    "bad-version": "a Python version that nobody can read",
    "bad-yaml-value": "a value that is not what its form promises, such as the date `2020-13-45`",
    "cut-command": "a line break cuts the command in two",
    "default-mismatch": "a default that does not fit its type",
    "dependency-cycle": "entry points that wait for each other",
    "duplicate-key": "a key stands twice; the last one counts",
    "empty-file": "nothing in the file",
    "empty-value": "a key without a value, which has no effect",
    "input-outside": "an input that is not in the project: absolute, `..`, `~` or a URI",
    "invalid-requirement": "a line that pip cannot read",
    "ignored-option": "an option behind a requirement, where pip takes it and ignores it",
    "json-syntax": "the file is no JSON",
    "lost-space": "`{type:int}`: a space is missing after the colon",
    "misnamed-file": "`MLproject.yaml` or the like, which is ignored",
    "missing-command": "an entry point without `command`, unless an alias repeats what it holds",
    "missing-environment-file": "the environment file is not there",
    "missing-file": "the file is not there",
    "missing-image": "`docker_env` without an image",
    "missing-job-template": "the Kubernetes job template is not there",
    "missing-key": "a key that must be there",
    "missing-name": "a docker project without `name`",
    "missing-parameter": "a required parameter that is not handed down",
    "missing-requirements-file": "a file that a requirement names is not there",
    "multiple-clusters": (
        "a Databricks configuration that says more than once where commands run, or not at all"
    ),
    "multiple-documents": "more than one YAML document",
    "multiple-environments": "more than one of `python_env`, `conda_env` and `docker_env`",
    "multiple-places": "`volume` beside `workspace` in a Databricks configuration",
    "nested-pip": "a `pip:` section in a python_env file",
    "no-effect": "`inputs` without `outputs` or `sandbox`, and nothing depends on the entry point",
    "no-project": "a directory without an MLproject, an environment file or a script",
    "not-a-file": "a directory, device or pipe in place of a file",
    "not-filled-in": "`{name}` or `$NAME` in a path, which stays as it is",
    "not-utf-8": "the file is not UTF-8",
    "output-outside": "an output that is not in the project",
    "overlapping-outputs": "two outputs that are the same, or one within the other",
    "own-output": "an input that is an output of the same entry point",
    "parameter-mismatch": (
        "what is handed down does not fit: an error for a `float`, a warning for `int`, "
        "`bool` and the like"
    ),
    "quoted-placeholder": "quotes around a placeholder, to which `mlflow run` adds its own",
    "recursive-alias": "a YAML alias within what it repeats",
    "repeated-dependency": "the same dependency twice",
    "secret-value": "a variable's value that looks like a secret",
    "symlink-loop": "a symbolic link that leads back to itself",
    "too-deep": "nesting that no such file needs",
    "too-large": "a file of more than a megabyte or 50,000 values",
    "too-many-aliases": "YAML aliases or merges (`<<`) that repeat too much",
    "undeclared-dependency": "an input that another entry point makes, without depending on it",
    "undeclared-parameter": "a parameter handed down that is not declared",
    "unknown-dependency": "an entry point in `depends_on` that there is not",
    "unknown-file": "neither an MLproject nor an environment file",
    "unknown-key": (
        "a key that has no meaning and holds nothing that an alias repeats; an error under "
        "`sandbox`, in a Databricks configuration, and in a python_env file, which MLflow refuses"
    ),
    "unknown-placeholder": "`{name}` that no parameter fills",
    "unknown-type": (
        "a type that is none of MLflow's; for `int`, `bool` and other plain words once for the file"
    ),
    "unmatched-input": "an input pattern that matches nothing",
    "unquoted-version": "`python: 3.10` without quotes",
    "unreachable-entry-point": "an entry point whose name is no text to YAML",
    "unreadable-file": "the file cannot be read",
    "unsafe-placeholder": (
        "a placeholder where the shell would read a value as its own text; an error if "
        "its default is such a value"
    ),
    "unused-parameter": "a parameter that neither the command nor a dependency uses",
    "wrong-type": "a list in place of a text, and so on; a warning where it has no effect",
    "yaml-syntax": "the file is no YAML",
    "yaml-value": "a value that YAML reads otherwise than it looks",
}
