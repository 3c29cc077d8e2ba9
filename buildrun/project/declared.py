"""What an entry point says of its steps, with the places where it says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from buildrun.project.compose import Path
from buildrun.project.spec import Dependency, Parameter, Pattern


class Declared(NamedTuple):
    """An entry point as it is checked against the others, with or without a command.

    path: its own. parameters: those that can be read. defaults: all with their default text, None
    where a value is required; None instead where the parameters cannot be read.
    """

    path: Path
    parameters: tuple[Parameter, ...]
    defaults: Mapping[str, str | None] | None
    depends_on: tuple[tuple[Path, Dependency], ...]
    inputs: tuple[tuple[Path, Pattern], ...]
    outputs: tuple[tuple[Path, str], ...]

    @property
    def name(self) -> str:
        """Return the entry point's name."""
        return str(self.path[-1])
