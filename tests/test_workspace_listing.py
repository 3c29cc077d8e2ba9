"""Listings: one text for one tree, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildrun.store.listing import KINDS, Entry, decode, encode

DIGEST = "blake3:" + "0f" * 32


def test_entries_are_sorted_by_the_bytes_of_their_paths() -> None:
    paths = ["\U0001f600", "\udcff", "a/b", "a-b", "Z", "\ue000"]
    entries = [Entry(path, "directory", "", 0) for path in paths]
    listed = [entry.path for entry in decode(encode(entries))]
    assert listed == sorted(paths, key=os.fsencode)
    assert listed[:3] == ["Z", "a-b", "a/b"]


def test_the_text_is_ascii_with_a_line_for_each_entry() -> None:
    entries = (
        Entry('a\n"é\udcff', "file", DIGEST, 3),
        Entry("b", "executable", "blake3:" + "a" * 64, 0),
        Entry("c", "symlink", "../\udcfe", 0),
    )
    data = encode(entries)
    assert data.isascii()
    assert data.count(b"\n") == 3
    assert [json.loads(line)[0] for line in data.splitlines()] == [entry.path for entry in entries]
    assert decode(data) == entries


def test_no_entries_are_no_text() -> None:
    assert encode(()) == b""
    assert decode(b"") == ()


def test_what_a_link_leads_to_comes_after_its_link() -> None:
    entries = (
        Entry("a", "symlink", "b", 0),
        Entry("a-", "file", DIGEST, 1),
        Entry("a/", "file", DIGEST, 1),
    )
    assert decode(encode(entries)) == entries
    with pytest.raises(ValueError, match="slash"):
        decode(encode(entries[1:]))


def row(path: Any = "a", kind: Any = "file", content: Any = DIGEST, size: Any = 1) -> bytes:
    return json.dumps([path, kind, content, size], separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    "data",
    [
        row("/a"), row("../a"), row("a/../b"), row("."), row("a//b"), row(""), row("a\0b"),
        row("a/"), row("/"), row("\ud800"), row(1), row(kind="device"), row(kind=None),
        row(content="blake3:0"), row(content="sha256:" + "a" * 64),
        row(content="md5:" + "0" * 32), row(content=DIGEST.upper()),
        row(content=None), row(content=DIGEST + "\n"), row(size=-1), row(size=True),
        row(size=1.0), row(size="1"), row(kind="directory", content="x", size=0),
        row(kind="directory", content="", size=1), row(kind="symlink", content="", size=0),
        row(kind="symlink", content="x", size=1), row(kind="symlink", content="a\0", size=0),
        row(kind="symlink", content="\ud800", size=0), row("b") + row("a"), row() + row(),
        row()[:-1], row() + b"\n", b"\n" + row(), row().replace(b",", b", "), b"{}\n", b"[]\n",
        b"[1\n", b"null\n", b"\xff\n", row()[:-2] + b",1]\n", row().replace(b"\n", b"\r\n"),
        row().replace(b'"a"', b'"\\u0061"'), row().replace(b'"a"', '"é"'.encode()),
        b"[" * 100_000 + b"\n", row().replace(b",1]", b"," + b"1" * 5000 + b"]"),
    ],
)  # fmt: skip
def test_what_was_not_encoded_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON has its own texts
        decode(data)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        entries = decode(data)
    except ValueError:
        return
    assert encode(entries) == data


names = st.binary(min_size=1, max_size=8).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@given(
    st.dictionaries(
        st.lists(names, min_size=1, max_size=3).map(b"/".join), st.sampled_from(sorted(KINDS))
    )
)
def test_whatever_is_encoded_is_decoded(tree: dict[bytes, str]) -> None:
    contents = {"file": DIGEST, "executable": DIGEST, "symlink": "x", "directory": ""}
    entries = {
        Entry(os.fsdecode(path), kind, contents[kind], 5 if contents[kind] == DIGEST else 0)
        for path, kind in tree.items()
    }
    assert set(decode(encode(entries))) == entries
