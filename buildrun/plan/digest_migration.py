"""Results of steps under digests of the other kind, from before a remote cache was set or unset.

They were made from the very same parts, so nothing has to run again. What is taken over stays on
this machine: a shared cache must not rest on digests whose collisions can be made at will.
"""

from typing import TYPE_CHECKING

from buildrun.plan.model import Plan, Reason, Step
from buildrun.plan.uptodate import StalenessCheck, StepStatus
from buildrun.store.action_cache import TAKEN_OVER, ActionCache
from buildrun.store.home import Home
from buildrun.workspace.fingerprints import Fingerprints

if TYPE_CHECKING:
    from buildrun.store.manifest import Manifest

_LOST = (Reason("result-lost", "the stored result is incomplete"),)


class Former:
    """What was known of a plan's steps under digests of the other kind.

    judge: one that knows these digests. write: False leaves the disk alone.
    """

    def __init__(
        self,
        plan: Plan,
        home: Home,
        judge: StalenessCheck,
        fingerprints: Fingerprints,
        results: ActionCache,
        *,
        write: bool,
    ) -> None:
        """Take the places; nothing is looked at yet."""
        self._steps = {step.id: step for step in plan.steps}
        self._home = home
        self._judge = judge
        self._fingerprints = fingerprints
        self._results = results
        self._write = write

    def look(self, step: Step, known: StepStatus) -> "tuple[Manifest | None, tuple[Reason, ...]]":
        """Return the step's result under today's key, and why it is not simply up to date.

        known: today's key with its parts and inputs. The steps before it have to be done.
        """
        self._fingerprints.forget()  # a command may have run since the last look
        self._settle(step)
        before = self._judge.check(step)
        if before.key is None or before.state == "miss":
            return None, before.reasons
        made = before.manifest or self._results.find(before.key)
        found = self._take_over(made, known) if made is not None else None
        if made is None or found is None:
            return None, _LOST
        self._judge.record_outputs(step.id, made.outputs)
        return found, before.reasons

    def _take_over(self, made: "Manifest", known: StepStatus) -> "Manifest | None":
        from buildrun.store.translate import translate

        if known.key is None or known.parts is None or known.inputs is None:
            return None
        details = {**known.parts.details, TAKEN_OVER: True}
        wanted = made._replace(key=known.key, parts=known.parts.key_parts, details=details)
        return translate(self._home, made, wanted, known.inputs, write=self._write)

    def _settle(self, step: Step) -> None:
        """Learn what the steps before this one have made."""
        for name in self._judge.missing(step):
            earlier = self._steps[name]
            if earlier.outputs:
                self._judge.record_outputs(name, self._fingerprints.outputs(earlier.outputs).digest)
            else:
                self._settle(earlier)
                self._judge.record_outputs(name, self._judge.identity(earlier))
