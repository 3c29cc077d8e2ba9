"""Parsing a command's arguments, with errors like all others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import NoReturn

from buildrun.errors import UsageError
from buildrun.near import did_you_mean

_UNKNOWN = re.compile(r"unrecognized arguments: (?P<word>-[^\s=]*)")
_CHOICE = re.compile(
    r".*: invalid choice: '(?P<word>.*)' \(choose from (?P<choices>.*)\)", re.DOTALL
)

# What is meant by words that are unlike ours: MLflow's of earlier times, and short names.
_MEANT = {
    "--no-conda": "--env-manager local",
    "--use-conda": "--env-manager conda",
    "-p": "-P",
    "k8s": "kubernetes",
    "kube": "kubernetes",
    "venv": "virtualenv",
    "mamba": "conda",
}


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError with a remedy, where argparse prints and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise; an unknown option or choice comes with the one that it is like."""
        hint = ""
        if match := _UNKNOWN.match(message):
            hint = did_you_mean(match["word"], _options(self), _MEANT)
        elif match := _CHOICE.fullmatch(message):
            hint = did_you_mean(match["word"], re.findall(r"[\w-]+", match["choices"]), _MEANT)
        raise UsageError(message, hint=hint or f"`{self.prog} --help` tells its options")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of its subcommands."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _options(verb)
