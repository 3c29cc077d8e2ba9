"""The parsers of commands: how they refuse, and what their `--help` looks like."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NoReturn

from buildrun.commands.examples import EXAMPLES
from buildrun.console import did_you_mean
from buildrun.errors import UsageError

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


class _Help(argparse.HelpFormatter):
    """Keeps lines as they were written where they fit, and names options once."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002
        filled = (
            textwrap.fill(line, width, subsequent_indent=re.findall("^ *", line)[0])
            for line in text.splitlines()
        )
        return "\n".join(filled)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:  # noqa: ARG002
        places = [
            self._format_args(action, action.dest)
            for action in actions
            if not action.option_strings
        ]
        options = ["[OPTIONS]"] if len(places) < len(actions) else []
        words = ("usage:" if prefix is None else prefix, self._prog, *places, *options)
        return textwrap.fill(" ".join(words), self._width, subsequent_indent="  ") + "\n\n"


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError with a remedy, where argparse prints and exits."""

    def __init__(self, **options: Any) -> None:
        """Take argparse's options."""
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> NoReturn:
        """Raise; an unknown option or choice comes with the one that it is like."""
        hint, more = "", ""
        if match := _UNKNOWN.match(message):
            hint = did_you_mean(match["word"], _options(self), _MEANT)
            if "-P" in self._option_string_actions and match["word"].startswith("--"):
                more = f"; parameters are given as `-P {match['word'][2:]}=VALUE`"
        elif match := _CHOICE.fullmatch(message):
            hint = did_you_mean(match["word"], re.findall(r"[\w-]+", match["choices"]), _MEANT)
        hint = hint or f"`{self.prog} --help` tells its options"
        raise UsageError(message, hint=hint + more)


def parser_of(verb: str, text: str) -> Parser:
    """Return the parser of a command; text: what it does."""
    shown = "".join(f"\n  {line}\n      {what}" for line, what in EXAMPLES.get(verb, ()))
    parser = Parser(
        prog=f"buildrun {verb}",
        description=text,
        epilog=f"examples:{shown}" if shown else None,
        allow_abbrev=False,
    )
    import_module(f"buildrun.commands.{verb}").add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback for an error")
    return parser


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser and of its subcommands."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _options(verb)


def group(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """Return the group of options with this title; without one it is made."""
    found = (each for each in parser._action_groups if each.title == title)
    return next(found, None) or parser.add_argument_group(title)
