"""How a step ended."""

from typing import Literal, NamedTuple

from buildrun.planning import Reason, Step
from buildrun.printable import printable

State = Literal["ok", "cached", "up-to-date", "failed", "skipped", "cancelled", "submitted"]

# Those whose outputs are there for the steps that follow.
GOOD: tuple[State, ...] = ("ok", "cached", "up-to-date")


class Outcome(NamedTuple):
    """How a step ended.

    exit_code: None where no command ran. seconds: that it took now; saved: that its command would
    have taken. log: the path of what it wrote.
    """

    step: Step
    state: State
    reasons: tuple[Reason, ...]
    exit_code: int | None = None
    seconds: float = 0.0
    saved: float = 0.0
    log: str | None = None


def head(step: Step) -> str:
    """Return what a message about a step begins with."""
    return f"[{printable(step.id)}]"
