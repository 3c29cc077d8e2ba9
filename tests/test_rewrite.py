"""Inputs and outputs written into an MLproject, and nothing else of it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from buildrun.errors import ProjectError
from buildrun.project import rewrite

INPUTS = {"inputs": ("a.py", "data/**")}
BOTH = {**INPUTS, "outputs": ("out/",)}


def declared(directory: Path, text: str, lists: Mapping[str, Sequence[str]]) -> str:
    """Return what the entry point `main` of a file becomes; the file itself stays."""
    for name in ("a.py", "b.py", "data/x"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).touch()
    path = directory / "MLproject"
    path.write_bytes(text.encode())
    mended = rewrite.declare(str(path), "main", lists, str(directory))
    assert path.read_bytes() == mended.before == text.encode()
    return mended.after.decode()


HEAD = "# of the project\nname: 'x'   # x\nentry_points:\n"
OTHER = '  other: {command: "b"}\n# the end\n'
LONG = tuple(f"data/with-a-long-name-{number}.csv" for number in range(6))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  main:\n    command: a\n",
         "  main:\n    inputs: [a.py, data/**]\n    outputs: [out/]\n    command: a\n"),
        ("  main:\n    # says a\n    command: |\n      a\n\n",
         "  main:\n    inputs: [a.py, data/**]\n    outputs: [out/]\n    # says a\n"
         "    command: |\n      a\n\n"),
        ("  main:  # here\n    outputs: [b]  # made\n    command: a\n",
         "  main:  # here\n    inputs: [a.py, data/**]\n    outputs: [out/]  # made\n"
         "    command: a\n"),
        ("  main:\n    command: a\n    inputs: [b.py]\n    outputs:\n      [b,\n       c]\n",
         "  main:\n    command: a\n    inputs: [a.py, data/**]\n    outputs:\n      [out/]\n"),
        ("  main:\n    inputs:\n    # first\n    - a.py  # kept\n    # second\n    - b.py  # gone\n"
         "    command: a\n    outputs:\n      -   'out/'\n",
         "  main:\n    inputs:\n    # first\n    - a.py  # kept\n    # second\n    - data/**\n"
         "    command: a\n    outputs:\n      -   'out/'\n"),
        ("  main: {command: a}\n",
         "  main: {inputs: [a.py, data/**], outputs: [out/], command: a}\n"),
        ("  main: {outputs: ['b'], command: a}\n",
         "  main: {outputs: [out/], inputs: [a.py, data/**], command: a}\n"),
        ('  "main":\n    "inputs": [ "b.py" ]\n    "command": a\n',
         '  "main":\n    "inputs": [a.py, data/**]\n    outputs: [out/]\n    "command": a\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_are_written_and_all_else_stays(
    tmp_path: Path, before: str, after: str, end: str
) -> None:
    if "outputs: ['b']" in before:
        after = after.replace("outputs: [out/], inputs: [a.py, data/**]",
                              "inputs: [a.py, data/**], outputs: [out/]")  # fmt: skip
    text, wanted = ((HEAD + part + OTHER).replace("\n", end) for part in (before, after))
    assert declared(tmp_path, text, BOTH) == wanted


def test_a_file_may_lack_its_last_line_end(tmp_path: Path) -> None:
    block = "entry_points:\n  main:\n    command: a\n    inputs:\n      - b.py"
    assert declared(tmp_path, block, INPUTS) == block.replace("b.py", "a.py\n      - data/**")
    flow = "entry_points:\n  main:\n    inputs: [b.py]\n    command: a"
    assert declared(tmp_path, flow, INPUTS) == flow.replace("b.py", "a.py, data/**")


def test_a_long_list_has_a_line_for_each(tmp_path: Path) -> None:
    for name in LONG:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / name).touch()
    items = "".join(f"      - {name}\n" for name in LONG)
    for before in ("", "    inputs: [b.py]\n"):
        text = f"entry_points:\n  main:\n{before}    command: a\n"
        wanted = f"entry_points:\n  main:\n    inputs:\n{items}    command: a\n"
        assert declared(tmp_path, text, {"inputs": LONG}) == wanted


def test_names_that_yaml_would_take_for_something_else_are_quoted(tmp_path: Path) -> None:
    names = ("- a", "*.py", "null", "1", "a: b", "a #b", "{c}", "it's", 'a"b', "line\nend", "é")
    for name in names:
        (tmp_path / name).touch()
    text = "entry_points:\n  main:\n    inputs: [b.py]\n    outputs: [o]\n    command: a\n"
    assert '"*.py"' in declared(tmp_path, text, {"inputs": names})


def test_mixed_line_ends_and_a_byte_order_mark_stay(tmp_path: Path) -> None:
    text = "\ufeffname: x\r\nentry_points:\n  main:\r    inputs: [b.py]\n    command: a\r\n"
    assert declared(tmp_path, text, INPUTS) == text.replace("b.py", "a.py, data/**")


@pytest.mark.parametrize(
    "text",
    [
        "entry_points:\n  main: &m\n    command: a\n  other: *m\n",
        "entry_points:\n  main:\n    inputs: &i [b.py]\n    command: a\n"
        "  other:\n    inputs: *i\n    command: b\n",
        "entry_points:\n  other:\n    inputs: &i\n      - b.py\n    command: a\n"
        "  main:\n    inputs: *i\n    command: b\n",
        "entry_points:\n  main:\n    inputs: [b.py, # one\n      c.py]\n    command: a\n",
        "entry_points:\n  main:\n    inputs:\n      - |\n        b.py\n    command: a\n",
        "entry_points:\n  main:\n    inputs:\n      -\n        b.py\n    command: a\n",
    ],
)
def test_what_cannot_be_proved_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProjectError, match="is not edited here") as caught:
        declared(tmp_path, text, INPUTS)
    assert caught.value.hint is not None


def test_what_would_be_an_error_is_refused(tmp_path: Path) -> None:
    text = "entry_points:\n  main:\n    outputs: [b]\n    command: a\n"
    with pytest.raises(ProjectError, match=r"not written: .*\[own-output\]"):
        declared(tmp_path, text, {"inputs": ("b",)})


def test_inherited_lists_are_overridden(tmp_path: Path) -> None:
    text = (
        "entry_points:\n  other: &base\n    inputs: [b.py]\n    command: a\n"
        "  main:\n    <<: *base\n    command: b\n"
    )
    added = "    inputs: [a.py, data/**]\n    command: b\n"
    assert declared(tmp_path, text, INPUTS) == text.replace("    command: b\n", added)
