"""Steps that declare what their programs use run under watch without a word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from honest_programs import HONEST, SCIENCE
from watch_helpers import Step, Watched, a_watched, science

__all__ = ["a_watched", "science"]


def quiet(watched: Watched, step: Step) -> None:
    """Check that a step is watched without a word, that its result is kept, and restored."""
    directory = watched.put(step)
    done = watched.run(directory)
    assert done.code == 0, done
    assert "warning" not in done.err, done
    assert watched.state(directory) == "up-to-date"
    for output in step.outputs:
        os.rename(directory / output.rstrip("/"), watched.place / "moved")
        watched.place.joinpath("moved").rename(watched.place / f"old-{output.rstrip('/')}")
    again = watched.run(directory)
    assert (again.code, "warning" in again.err) == (0, False), again
    assert "restored from the cache" in again.err, again
    assert all((directory / output).exists() for output in step.outputs)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_step_is_watched_without_a_word(name: str, watched: Watched) -> None:
    quiet(watched, HONEST[name])


@pytest.mark.parametrize("name", SCIENCE)
def test_a_library_is_watched_without_a_word(name: str, watched: Watched, science: Path) -> None:
    watched.environ["PATH"] = f"{science}/bin:{os.environ['PATH']}"
    quiet(watched, Step("python prog.py", {"prog.py": SCIENCE[name]}))
