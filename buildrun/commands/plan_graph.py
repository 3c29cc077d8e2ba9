"""Plans as graphs, for Mermaid and for Graphviz."""

from __future__ import annotations

from collections.abc import Sequence

from buildrun.judge import Verdict
from buildrun.planning import Plan
from buildrun.printable import printable

# What Mermaid may take for markup, also between quotes.
_MARKUP = frozenset('"#&;<>\\`{}|')


def mermaid(made: Plan, verdicts: Sequence[Verdict]) -> str:
    """Return the plan as a Mermaid flowchart."""
    number = {step.id: f"s{index}" for index, step in enumerate(made.steps)}
    lines = ["flowchart TD"]
    for step, verdict in zip(made.steps, verdicts, strict=True):
        label = "".join(
            f"#{ord(char)};" if char in _MARKUP else char for char in printable(step.id)
        )
        lines.append(f'    {number[step.id]}["{label}: {verdict.state}"]')
        lines += [f"    {number[name]} --> {number[step.id]}" for name in step.depends_on]
    return "\n".join(lines) + "\n"


def dot(made: Plan, verdicts: Sequence[Verdict]) -> str:
    """Return the plan in the language of Graphviz."""
    lines = ["digraph plan {"]
    for step, verdict in zip(made.steps, verdicts, strict=True):
        label = _quoted(f"{step.id}: {verdict.state}")
        lines.append(f"    {_quoted(step.id)} [label={label}];")
        lines += [f"    {_quoted(name)} -> {_quoted(step.id)};" for name in step.depends_on]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'
