"""Files of every kind end in a document or in one finding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from buildrun.project.diagnostics import Diagnostic
from buildrun.project.yaml_loader import SIZE_LIMIT, Document, load, parse
from buildrun.store.memo import DependencyTracker


def document(text: str) -> Document:
    found = parse("MLproject", text)
    assert isinstance(found, Document), found
    return found


def refusal(path: Path, content: bytes | None = None) -> Diagnostic:
    if content is not None:
        path.write_bytes(content)
    found = load(str(path), DependencyTracker({}))
    assert isinstance(found, Diagnostic)
    assert found.severity == "error"
    assert found.message
    assert found.path == str(path)
    return found


def test_merged_keys_are_no_duplicates() -> None:
    found = document("a: &x {t: 1}\nb: {<<: *x, t: 2}\n")
    assert found.value["b"] == {"t": 2}
    assert not found.duplicates
    assert found.place(("b", "t")) == (2, 16)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_text_is_read_as_in_text_mode(tmp_path: Path, mark: str, newline: str) -> None:
    path = tmp_path / "MLproject"
    path.write_bytes(f"{mark}a: 1{newline}b: |{newline}  x{newline}  y{newline}".encode())
    found = load(str(path), DependencyTracker({}))
    assert isinstance(found, Document)
    assert found.value == {"a": 1, "b": "x\ny\n"}
    assert (found.place(("a",)), found.place(("b",), key=True)) == ((1, 4), (2, 1))


LIMITS = {
    "too-deep": "a: " + "[" * 100_000,
    "too-many-aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "recursive-alias": "a: &a {b: [*a]}\n",
    "multiple-documents": "a: 1\n---\nb: 2\n",
    "bad-yaml-value": "a: [1, 2020-13-45]\n",
    "yaml-syntax": "a: 'never closed\n",
}


@pytest.mark.parametrize("code", LIMITS)
def test_hostile_yaml_is_one_finding(tmp_path: Path, code: str) -> None:
    assert refusal(tmp_path / "MLproject", LIMITS[code].encode()).code == code


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("a: 1" + ":1" * 500_000, "bad-yaml-value", (1, 4)),
        ("a: 1" + ":1" * 500_000 + ".5", "bad-yaml-value", (1, 4)),
        ("a: !!int '1" + ":1" * 500_000 + "'", "bad-yaml-value", (1, 4)),
        ("0x" + "f" * 1_000_000 + ": 1", "bad-yaml-value", (1, 1)),
        ("a:\n" + "  <<: {}\n" * 100_000, "too-many-aliases", (1002, 3)),
        ("a: {" + "<<: {}," * 100_000 + "}", "too-many-aliases", (1, 7005)),
        ("a: [" + "[]," * 300_000 + "]", "too-large", (1, 149_997)),
        ("\n".join(" " * level + "a:" for level in range(900)), "too-deep", (65, 65)),
        ("name: x\nrows: " + "1" * 5000, "bad-yaml-value", (2, 7)),
    ],
    ids=[
        "base 60", "base 60 fraction", "tagged", "key", "merges", "flow merges", "values", "depth",
        "digits",
    ],
)  # fmt: skip
def test_costly_yaml_is_refused_at_its_place(
    tmp_path: Path, text: str, code: str, place: tuple[int, int]
) -> None:
    found = refusal(tmp_path / "MLproject", text.encode())
    assert (found.code, (found.line, found.column)) == (code, place)


@pytest.mark.parametrize("number", ["0x" + "f" * 4000, "0b" + "1" * 15_000, "9" * 5000])
def test_number_that_cannot_be_shown_is_one_finding(number: str) -> None:
    found = parse("MLproject", f"name: x\nother: [1, {number}]\n")
    assert isinstance(found, Diagnostic)
    assert (found.code, found.line, found.column) == ("bad-yaml-value", 2, 12)
    assert document(f"name: x\nother: '{number}'\n").value["other"] == number


def test_what_is_no_file_is_refused_and_never_opened(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent").code == "missing-file"
    assert refusal(tmp_path / "nul\0byte").code == "missing-file"
    for name, target in (("astray", "nowhere"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    found = refusal(tmp_path / "astray")
    assert (found.code, found.hint) == ("missing-file", "its symbolic link leads nowhere")
    assert refusal(tmp_path / "loop").code == "symlink-loop"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        assert refusal(path).code == "not-a-file"


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "MLproject"
    if os.geteuid() == 0:  # root may read anything but what the kernel itself refuses
        path.symlink_to("/proc/self/mem")
    else:
        path.write_text("name: x\n")
        path.chmod(0)
    assert refusal(path).code == "unreadable-file"


def test_huge_file_is_refused_by_its_size_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "MLproject"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    reader = DependencyTracker({})
    found = load(str(path), reader)
    assert isinstance(found, Diagnostic)
    assert (found.code, str(SIZE_LIMIT) in found.message) == ("too-large", True)
    path.write_text("name: x\n")
    assert not DependencyTracker({}).is_current(reader.files, reader.variables)


@pytest.mark.parametrize(
    ("content", "code", "place"),
    [
        (b"name: x\ntitle: caf\xe9\n", "not-utf-8", (2, 11)),
        ("name: x\n".encode("utf-16"), "not-utf-8", (1, 1)),
        ("é: ü\r\nb: \0".encode(), "bad-character", (2, 4)),
        (b"a: \x1b[31m\n", "bad-character", (1, 4)),
    ],
)
def test_bytes_that_are_no_yaml_have_a_place(
    tmp_path: Path, content: bytes, code: str, place: tuple[int, int]
) -> None:
    found = refusal(tmp_path / "MLproject", content)
    assert (found.code, (found.line, found.column)) == (code, place)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("name: {{ cookiecutter.name }}\n", "template"),
        ("a:\n{% for x in y %}\n", "template"),
        ("a:\n\tb: 1\n", "tabs"),
        ("a:\n  - b\n  -c\n  - d\n", "space after its `-`"),
        ("a: b: c: d\n", "quotes"),
    ],
)
def test_syntax_hint_tells_what_was_meant(text: str, hint: str) -> None:
    found = parse("MLproject", text)
    assert isinstance(found, Diagnostic)
    assert hint in found.hint


PIECES = (
    "a", "b: ", "- ", "\n", "\n  ", "\n    ", " ", '"', "'", "{", "}", "[", "]", ", ", ":", "#",
    "&x ", "*x", "|\n", ">-\n", "!!str ", "! ", "!!int ", "---\n", "é", "🎉", "<<: ", "010",
    "12:30", "yes", "~", "1.5", "\\", "`", "=", "key: ", "?", "%", "\t", "2001-01-01", "!!set ",
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_verdict_is_that_of_the_pure_loader(text: str) -> None:
    found = parse("MLproject", text)
    try:
        expected = repr(yaml.load(text, yaml.SafeLoader))
    except Exception:
        assert isinstance(found, Diagnostic)
    else:
        if isinstance(found, Diagnostic):
            assert found.code == "recursive-alias"
        else:
            assert repr(found.value) == expected
