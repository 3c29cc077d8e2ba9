"""Parsing a command's arguments, with errors like all others."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import NoReturn

from buildrun.errors import UsageError

_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError with a remedy, where argparse prints and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise; an unknown option comes with the one that it is like."""
        hint = f"`{self.prog} --help` tells its options"
        if message.startswith(_UNKNOWN):
            word = message.removeprefix(_UNKNOWN).split()[0].partition("=")[0]
            close = get_close_matches(word, self._option_string_actions, n=1)
            if word.startswith("-") and close:
                hint = f"did you mean `{close[0]}`?"
        raise UsageError(message, hint=hint)
