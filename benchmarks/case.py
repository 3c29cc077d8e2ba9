"""What a case is, and what it hands over to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from benchmarks.summary import Summary, ratio

if TYPE_CHECKING:
    from benchmarks.workbench import Workbench

Unit = Literal["times", "ms", "MB", "builds", "requests"]


class Claim(NamedTuple):
    """A number that is to be at most ``limit``; without a limit it is only shown.

    value: from medians. best: the same from minima, which other load on the machine raises less.
    None stands for what noise hides.
    """

    text: str
    value: float | None
    best: float | None
    limit: float | None = None
    unit: Unit = "times"

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without one, and where noise hides it."""
        return None if self.limit is None or self.value is None else self.value <= self.limit


class Outcome(NamedTuple):
    """What a case measured: a summary for each subject, in order, claims, and remarks."""

    rows: Mapping[str, Summary]
    claims: Sequence[Claim]
    notes: Sequence[str] = ()


class Case(Protocol):
    """A module of ``benchmarks.cases``."""

    @property
    def TITLE(self) -> str:
        """Say in one line what is measured."""
        ...

    @property
    def ROUNDS(self) -> int:
        """Return how many rounds a median rests on, unless the caller says otherwise."""
        ...

    @property
    def NEEDS(self) -> tuple[str, ...]:
        """Return the installations that it compares; see `benchmarks.subjects`."""
        ...

    def measure(self, bench: Workbench) -> Outcome:
        """Measure; raises Failed where a subject does."""
        ...


def compare(
    rows: Mapping[str, Summary], subject: str, reference: str, limit: float | None = None
) -> Claim:
    """Return the claim that one subject takes at most ``limit`` times as long as another."""
    one, other = rows[subject], rows[reference]
    return Claim(
        f"{subject} against {reference}",
        ratio(one.median, other.median),
        ratio(one.minimum, other.minimum),
        limit,
    )
