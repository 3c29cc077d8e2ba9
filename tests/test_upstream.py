"""Which steps a step may take something from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from buildrun.planning.model import EnvironmentState, Step
from buildrun.planning.upstream import Upstream


def step(name: str, depends_on: Sequence[str], outputs: Sequence[str]) -> Step:
    return Step(
        id=name,
        entry_point=name,
        parameters=(),
        command="true",
        depends_on=tuple(depends_on),
        backend="local",
        environment=EnvironmentState("local", None, ready=True),
        image=None,
        key_text="true",
        paths=(),
        outputs=tuple(outputs),
    )


STEPS = (
    step("raw", (), ("raw/",)),
    step("one", ("raw",), ("out/a.csv", "out/deep/b.csv")),
    step("apart", (), ("out0.csv", "out/z[1].csv")),
    step("two", ("one",), ("model",)),
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("unknown.csv", ["one"]),
        ("raw", ["one", "raw"]),
        ("raw/x/y.csv", ["one", "raw"]),
        ("./raw//x", ["one", "raw"]),
        ("raw/*.csv", ["one", "raw"]),
        ("rawer", ["one"]),
        ("out", ["one"]),
        (".", ["one", "raw"]),
        ("**", ["one", "raw"]),
        ("**/*.csv", ["one", "raw"]),
        ("out0.csv", ["one"]),  # made by a step that does not come before it
        ("model", ["one"]),  # its own
    ],
)
def test_steps_before_are_found_by_what_they_make(pattern: str, found: Sequence[str]) -> None:
    assert Upstream(STEPS).of(STEPS[-1], [pattern]) == found


@pytest.mark.parametrize(
    ("path", "maker"),
    [
        ("raw", "raw"),
        ("raw/x/y", "raw"),
        ("out", None),
        ("out/deep/b.csv", "one"),
        ("out/z[1].csv", "apart"),
        ("out/z1.csv", None),
    ],
)
def test_maker_of_a_path(path: str, maker: str | None) -> None:
    assert Upstream(STEPS).maker(path) == maker


def test_what_comes_before_is_known_along_a_long_chain() -> None:
    chain = [step("s0", (), ("o0",))]
    chain += [step(f"s{at}", (f"s{at - 1}",), (f"o{at}",)) for at in range(1, 2000)]
    upstream = Upstream(chain)
    assert upstream.of(chain[1999], ["o0", "o1999"]) == ["s1998", "s0"]
    assert upstream.of(chain[5], ["o1000"]) == ["s4"]
