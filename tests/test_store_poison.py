"""Manifests and listings that somebody else made up are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_helpers import (  # noqa: F401
    a_home,
    a_manifest,
    a_root,
    manifest_of,
    take,
    write_outputs,
)

from buildrun.store import cas, digest, listing
from buildrun.store.action_cache import outputs_of
from buildrun.store.cas import MissingBlob
from buildrun.store.home import Home
from buildrun.store.listing import Entry
from buildrun.store.manifest import Manifest, decode, encode, validate_outputs
from buildrun.workspace.restore import restore

CONTENT = digest.content(b"text")


def file(path: str) -> Entry:
    return Entry(path, "file", CONTENT, 4)


def link(path: str, target: str) -> Entry:
    return Entry(path, "symlink", target, 0)


def directory(path: str) -> Entry:
    return Entry(path, "directory", "", 0)


OUT = directory("out")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([directory("out"), file("other")], "`other` is not one of the declared outputs"),
        ([directory("out"), file("output")], "`output` is not one of the declared outputs"),
        ([directory("out"), file("train.py")], "`train.py` is not one"),
        ([], "`out` is missing"),
        ([file("out")], "`out/` is not a directory"),
        ([link("out", "elsewhere")], "`out/` is not a directory"),
        ([OUT, link("out/a", "b"), file("out/a/file")], "`out/a/file` lies in something"),
        ([OUT, file("out/a"), file("out/a/b/c")], "`out/a/b/c` lies in something"),
        ([OUT, link("out/a", "b"), file("out/a/")], "`out/a/` lies in something"),
        ([OUT, file("out/a/b")], "`out/a/b` lies in something"),
        ([OUT, file("out/" + 3000 * "d/" + "f")], "`out/d/d"),
        ([OUT, link("out/a", "/etc/passwd")], "`out/a` leads out"),
        ([OUT, link("out/a", "../../x")], "`out/a` leads out"),
        ([OUT, link("out/a", "../..")], "`out/a` leads out"),
        ([OUT, link("out/here", "."), link("out/x", "here/here/../../..")], "`out/x` leads out"),
    ],
)
def test_listing_that_leads_outside_is_refused(
    home: Home, root: Path, manifest: Manifest, entries: list[Entry], reason: str
) -> None:
    found = validate_outputs(entries, ("out/",))
    assert found is not None
    assert found.startswith(reason)
    cas.put_bytes(home, b"text")
    outputs = cas.put_bytes(home, listing.encode(entries))
    poisoned = manifest._replace(outputs=outputs, declared=("out/",))
    assert outputs_of(home, poisoned) is None
    with pytest.raises(MissingBlob):
        restore(home, str(root), poisoned)
    assert not (root / "out").exists()


@pytest.mark.parametrize(
    "target", ["b", "./b", "deep/b", "../out/b", "../train.py", "...", "..b/c"]
)
def test_link_that_stays_in_the_project_is_accepted(target: str) -> None:
    assert validate_outputs([OUT, link("out/a", target)], ("out/",)) is None


@pytest.mark.parametrize(
    "declared",
    [
        ("/etc/",), ("../out/",), ("out/../../x",), ("",), (".",), ("./out",), ("out//",),
        ("out", "out/"), ("out/", "out/deep/file"), ("a\0b",),
    ],
)  # fmt: skip
def test_outputs_outside_or_within_each_other_are_refused(declared: tuple[str, ...]) -> None:
    entries = [directory("out"), directory("out/deep"), file("out/deep/file")]
    assert validate_outputs(entries, declared) is not None


@pytest.mark.parametrize(
    "lines",
    [
        b'["/etc/passwd","file","%s",4]\n',
        b'["out/../../x","file","%s",4]\n',
        b'["out/device","device","%s",4]\n',
        b'["out/fifo","fifo","",0]\n',
        b'["out/a","file","%s","4"]\n',
        b'["out/a","file","../../x",4]\n',
        b'["out/a","file","%s",4,"setuid"]\n',
        b'["out/b","file","%s",4]\n["out/a","file","%s",4]\n',
        b'["out/a","file","%s",4]\n["out/a","file","%s",4]\n',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_listing_of_a_wrong_shape_is_refused(home: Home, manifest: Manifest, lines: bytes) -> None:
    data = lines.replace(b"%s", CONTENT.encode())
    outputs = cas.put_bytes(home, data)
    assert outputs_of(home, manifest._replace(outputs=outputs, declared=("out/",))) is None


def test_listing_that_is_not_what_its_digest_says_is_removed(
    home: Home, manifest: Manifest
) -> None:
    path = Path(cas.path_of(home, manifest.outputs))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"metrics/plot", b"metrics/plop"))
    assert outputs_of(home, manifest) is None
    assert not path.exists()


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.pop(name) and None


def having(name: str, wrong: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.update({name: wrong})


WRONG = [
    *(without(name) for name in ("version", *Manifest._fields)),
    having("more", 1),
    having("version", 2),
    having("key", digest.key("result", {"command": "another"})),
    having("key", "blake3:" + "g" * 64),
    having("parts", {"command": "another"}),
    having("parts", []),
    having("details", None),
    having("project", None),
    having("outputs", "blake3:../../../../../../etc/pass"),
    having("outputs", "sha256:" + "0" * 64),
    having("log", None),
    having("declared", "out"),
    having("declared", ["../out"]),
    having("declared", ["/out"]),
    having("declared", [1]),
    having("streams", [[3, 1]]),
    having("streams", [[1, 0]]),
    having("streams", [[1, -5]]),
    having("streams", [[True, 5]]),
    having("streams", [[1, 2, 3]]),
    having("streams", [1]),
    having("seconds", -1),
    having("seconds", "1"),
    having("created", True),
]


@pytest.mark.parametrize("change", WRONG)
def test_manifest_with_anything_odd_is_refused(
    root: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    write_outputs(root, "new")
    value = json.loads(encode(manifest_of(take(root))))
    assert decode(json.dumps(value).encode()) == manifest_of(take(root))
    change(value)
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"version": 1}', b'{"version": NaN}'],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(data)


@pytest.mark.parametrize("number", [b"1e999", b"-Infinity", b"NaN", b"1" * 400])
def test_times_that_are_no_numbers_are_refused(root: Path, number: bytes) -> None:
    write_outputs(root, "new")
    data = encode(manifest_of(take(root)))
    assert data.count(b'"seconds":1.5') == 1
    with pytest.raises(ValueError, match=r"."):
        decode(data.replace(b'"seconds":1.5', b'"seconds":' + number))
