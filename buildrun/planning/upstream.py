"""Which steps make what a step may read."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from buildrun.planning.model import Step
from buildrun.project.producers import Producers
from buildrun.store.files import and_above
from buildrun.workspace import glob


class Upstream:
    """The steps of a plan by what they make; safe for thousands of them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Take the steps, each after those it depends on."""
        self._steps = steps
        self._makers = {path.rstrip("/"): step.id for step in steps for path in step.outputs}
        self._sorted = sorted(self._makers)
        self._globs = Producers((step.id, path) for step in steps for path in step.outputs)
        self._numbers = {step.id: number for number, step in enumerate(steps)}
        self._before: list[int] | None = None

    def of(self, step: Step, wanted: Iterable[str]) -> list[str]:
        """Return the steps before this one whose outputs it may see, those it names first.

        wanted: the patterns of what it reads.
        """
        found = dict.fromkeys(step.depends_on)
        for pattern in wanted:
            for maker in self._makers_of(pattern):
                if maker not in found and maker != step.id and self._comes_before(maker, step.id):
                    found[maker] = None
        return list(found)

    def maker(self, path: str) -> str | None:
        """Return the step that makes the path, or something that it lies in."""
        return next((self._makers[each] for each in and_above(path) if each in self._makers), None)

    def _makers_of(self, pattern: str) -> Iterable[str]:
        if glob.is_glob(pattern):
            return self._globs.of(pattern, possibly=True)
        path = "/".join(glob.split(pattern) or ())
        maker = self.maker(path)
        if maker is not None:
            return (maker,)
        return [self._makers[name] for name in self._beneath(path)]

    def _beneath(self, path: str) -> Sequence[str]:
        if not path:  # the project itself
            return self._sorted
        # What is beneath begins with the path and a slash, and "0" comes after "/".
        start, end = (bisect_left(self._sorted, path + last) for last in "/0")
        return self._sorted[start:end]

    def _comes_before(self, name: str, step: str) -> bool:
        if self._before is None:
            self._before = self._all_before()
        return self._before[self._numbers[step]] >> self._numbers[name] & 1 == 1

    def _all_before(self) -> list[int]:
        """Return for each step all that comes before it, a bit for each step."""
        found: list[int] = []
        for step in self._steps:
            bits = 0
            for name in step.depends_on:
                number = self._numbers[name]
                bits |= found[number] | 1 << number
            found.append(bits)
        return found
