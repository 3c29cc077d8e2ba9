"""Lines of pip's requirements in uv's words: some of their options are arguments for uv."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from buildrun.environments.requirements import expanded, name_of
from buildrun.project.rules.environments import parse

_NAMED = re.compile(r"[A-Za-z0-9][\w.-]*\s*(\[[^]]*\])?\s*(@|[<>=!~;(]|$)")

# Options that change nothing of what is installed, or that uv does anyway.
_WITHOUT_EFFECT = ("--prefer-binary", "--use-feature")


def translate(lines: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return arguments for ``uv pip``, and the lines that it reads; variables are replaced."""
    arguments: list[str] = []
    texts: list[str] = []
    for line in lines:
        requirement, options, _ = parse(expanded(line, environ.get))
        for name, value in options:
            arguments += _argument(requirement, name, value, environ)
        if requirement:
            hashes = [f"--hash={value}" for name, value in options if name == "--hash"]
            texts.append(" ".join([requirement, *hashes]))
            continue
        texts += [
            f"{name} {value}".strip()
            for name, value in options
            if name not in _WITHOUT_EFFECT and name not in _ARGUMENTS
        ]
    return arguments, texts


_ARGUMENTS = {
    "--pre": ("--prerelease", "allow"),
    "--require-hashes": ("--require-hashes",),
    "--trusted-host": ("--allow-insecure-host", "{value}"),
}


def _argument(requirement: str, option: str, value: str, environ: Mapping[str, str]) -> list[str]:
    if option in _ARGUMENTS:
        return [word.format(value=value) for word in _ARGUMENTS[option]]
    if option == "--extra-index-url" and "UV_INDEX_STRATEGY" not in environ:
        # pip takes the best version of all indexes, uv by default that of the first.
        return ["--index-strategy", "unsafe-best-match"]
    if option in ("--global-option", "--install-option"):
        option, value = "--config-settings", f"{option}={value}"
    if option == "--config-settings":
        if _NAMED.match(requirement):
            return ["--config-settings-package", f"{name_of(requirement)}:{value}"]
        return ["--config-settings", value]  # of a path
    return []
