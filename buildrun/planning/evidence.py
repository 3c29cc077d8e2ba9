"""How sure it is that a result was made from what its step declares, and from nothing else."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

# declared: nobody looked. checked: the command was watched, and read what it declares. sandboxed:
# it could read nothing else.
Assurance = Literal["declared", "checked", "sandboxed"]


class Evidence(NamedTuple):
    """What is known of what a command read.

    conditions: on files that the step does not declare and the command looked for, with what was
    there, see ``workspace.conditions``; the result stands for its key while they hold. obstacle:
    why the result must not be kept, "" where it may.
    """

    assurance: Assurance = "declared"
    conditions: Mapping[str, str] = {}
    obstacle: str = ""


DECLARED = Evidence()
