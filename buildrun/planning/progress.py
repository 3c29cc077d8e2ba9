"""How far a plan has come."""

from buildrun.planning.model import GOOD, Outcome, Plan, Reason, Step


class Progress:
    """How far a plan has come; complete at any moment, so that an interruption can be reported.

    interrupted: the number of the signal that ended it, else None.
    """

    def __init__(self, plan: Plan) -> None:
        """Start with nothing done."""
        self.plan = plan
        self.outcomes: dict[str, Outcome] = {}
        self.interrupted: int | None = None
        self.defect: BaseException | None = None

    def settled(self, step: Step) -> bool:
        """Return whether all that the step depends on has ended well."""
        return all(
            name in self.outcomes and self.outcomes[name].state in GOOD for name in step.depends_on
        )

    def remaining(self) -> list[Step]:
        """Return the steps that have not ended."""
        return [step for step in self.plan.steps if step.id not in self.outcomes]

    def failures(self) -> list[Outcome]:
        """Return the steps that failed, in the order in which they did."""
        return [outcome for outcome in self.outcomes.values() if outcome.state == "failed"]

    def exit_code(self) -> int:
        """Return the code of the run: the first failed command's own."""
        if self.interrupted is not None:
            return 128 + self.interrupted
        for outcome in self.failures():
            return outcome.exit_code or 1
        return 0

    def close(self) -> None:
        """Account for the steps that never started."""
        for step in self.remaining():
            self.outcomes[step.id] = self._not_started(step)

    def _not_started(self, step: Step) -> Outcome:
        if self.interrupted is not None:
            return Outcome(step, "cancelled", (Reason("interrupted", "the run was interrupted"),))
        for name in step.depends_on:
            before = self.outcomes.get(name)
            if before is not None and before.state not in GOOD:
                if before.state == "submitted":
                    return Outcome(step, "skipped", (Reason("upstream-running", f"`{name}` runs"),))
                word = "failed" if before.state == "failed" else "was skipped"
                return Outcome(step, "skipped", (Reason("upstream-failed", f"`{name}` {word}"),))
        reason = Reason("stopped", "another step failed; `--keep-going` goes on with the rest")
        return Outcome(step, "skipped", (reason,))
