"""Projects in archives and in directories elsewhere."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Buildrun
from source_helpers import LOCAL, MLPROJECT, files, silent, working_directories

FILES = {"MLproject": MLPROJECT, "data.txt": "one\n", "tool.sh": "#!/bin/sh\necho tool\n"}


def zip_of(path: Path, content: Mapping[str, str] = FILES, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in content.items():
            info = zipfile.ZipInfo(below + name)
            info.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            file.writestr(info, text)
    return path


def tar_of(path: Path, content: Mapping[str, str] = FILES, below: str = "") -> Path:
    form = path.suffix[1:].replace("tgz", "gz").replace("tar", "")
    with tarfile.open(path, f"w:{form}") as file:  # type: ignore[call-overload]
        for name, text in content.items():
            info = tarfile.TarInfo(below + name)
            info.size, info.mode = len(text), 0o755 if name.endswith(".sh") else 0o644
            file.addfile(info, io.BytesIO(text.encode()))
    return path


def tar_with(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            file.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz", "p.tgz", "p.tar.xz", "p.tar.bz2"])
def test_archive_on_this_machine_is_a_project(
    tmp_path: Path, buildrun: Buildrun, store: Path, name: str
) -> None:
    path = (zip_of if name.endswith(".zip") else tar_of)(tmp_path / name)
    for uri in (str(path), f"file://{path}"):
        outcome = buildrun(uri, LOCAL)
        assert outcome.code == 0, outcome.err
        where, data = outcome.out.splitlines()
        assert (Path(where).name, data) == ("p", "one")
        assert not Path(where).exists()
    assert working_directories(store) == []


@pytest.mark.parametrize("name", ["p.zip", "p.tar.gz"])
def test_archive_is_fetched_once_while_it_is_the_same(
    tmp_path: Path, buildrun: Buildrun, name: str
) -> None:
    make = zip_of if name.endswith(".zip") else tar_of
    os.utime(make(tmp_path / name), (1e9, 1e9))
    with files(tmp_path) as server:
        uri = f"{server.url}/{name}"
        for _ in range(2):
            assert buildrun(uri, LOCAL).out.endswith("one\n")
        # The second time the server is asked for a newer one, and has none.
        asked = [headers.get("If-Modified-Since") for _, headers in server.seen]
        assert len(asked) == 2
        assert [asked[0], asked[1] is None] == [None, False]
        make(tmp_path / name, {**FILES, "data.txt": "another\n"})
        assert buildrun(uri, LOCAL).out.endswith("another\n")
    offline = buildrun(uri, LOCAL, "--offline")
    assert offline.out.endswith("another\n"), offline.err
    assert "was never fetched" in buildrun(f"{uri}x.zip", LOCAL, "--offline").err


def test_archive_at_an_address_of_fsspec(tmp_path: Path, buildrun: Buildrun) -> None:
    zip_of(tmp_path / "p.zip")
    assert buildrun(f"local://{tmp_path / 'p.zip'}", LOCAL).printed().endswith("one\n")


def test_fetched_archive_that_is_in_use_is_not_collected(
    tmp_path: Path, buildrun: Buildrun, store: Path
) -> None:
    for name in ("used", "unused"):
        zip_of(tmp_path / f"{name}.zip")
        assert buildrun(f"local://{tmp_path}/{name}.zip", LOCAL).code == 0
    for path in (store / "sources" / "archives").iterdir():
        os.utime(path, (1e9, 1e9))
    assert buildrun(f"local://{tmp_path}/used.zip", LOCAL).code == 0
    assert buildrun("cache", "gc").code == 0
    assert buildrun(f"local://{tmp_path}/used.zip", LOCAL, "--offline").code == 0
    assert buildrun(f"local://{tmp_path}/unused.zip", LOCAL, "--offline").code == 1


def test_directory_at_an_address_of_fsspec(tmp_path: Path, buildrun: Buildrun, store: Path) -> None:
    directory = tmp_path / "bucket" / "churn"
    (directory / "sub").mkdir(parents=True)
    for name, text in FILES.items():
        (directory / name).write_text(text)
        (directory / "sub" / name).write_text(text)
    for uri in (f"local://{directory}", f"local://{directory}/#sub"):
        outcome = buildrun(uri, LOCAL)
        assert outcome.out.endswith("one\n"), outcome.err
        assert str(directory) not in outcome.out
    assert working_directories(store) == []
    buildrun(f"local://{directory}/nowhere", LOCAL).refused("there is nothing at this address")
    buildrun(f"local://{directory}/data.txt", LOCAL).refused("is a file")


@pytest.mark.parametrize("name", ["p.zip", "p.tgz"])
def test_directory_around_the_files_is_left_out(
    tmp_path: Path, buildrun: Buildrun, name: str
) -> None:
    make = zip_of if name.endswith(".zip") else tar_of
    content = {**FILES, **{f"sub/{name}": text for name, text in FILES.items()}}
    path = make(tmp_path / name, content, "churn-1.0/")
    for uri, end in (
        (path, "churn-1.0"),
        (f"{path}#sub", "sub"),
        (f"{path}#churn-1.0", "churn-1.0"),
    ):
        assert buildrun(uri, LOCAL).printed().splitlines()[0].endswith(f"/{end}")


@pytest.mark.parametrize("name", ["p.zip", "p.tar"])
def test_files_stay_executable_and_links_stay_links(
    tmp_path: Path, buildrun: Buildrun, name: str
) -> None:
    content = {
        **FILES,
        "MLproject": "name: p\nentry_points: {main: {command: ./tool.sh && cat link}}",
    }
    if name == "p.zip":
        path = zip_of(tmp_path / name, content)
        with zipfile.ZipFile(path, "a") as file:
            info = zipfile.ZipInfo("link")
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, "data.txt")
    else:
        path = tar_of(tmp_path / name, content)
        with tarfile.open(path, "a") as tar:
            tar.addfile(member("link", tarfile.SYMTYPE, "data.txt"))
            tar.addfile(member("same", tarfile.LNKTYPE, "data.txt"))
    assert buildrun(path, LOCAL).out == "tool\none\n"


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "a/..", "a\0b/../x"])
def test_member_that_leaves_the_directory_is_refused(
    tmp_path: Path, buildrun: Buildrun, store: Path, name: str
) -> None:
    paths = [
        zip_of(tmp_path / "p.zip", {**FILES, name: "x"}),
        tar_with(tmp_path / "p.tar.gz", member("MLproject"), member(name, size=1)),
    ]
    for path in paths[1:] if "\0" in name else paths:  # zipfile ends names at a NUL
        outcome = buildrun(path, LOCAL)
        assert outcome.code == 1
        assert "is refused" in outcome.err or "\0" in name
        assert working_directories(store) == []
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    "members",
    [
        [member("link", tarfile.SYMTYPE, "/etc")],
        [member("link", tarfile.SYMTYPE, "..")],
        [member("a/link", tarfile.SYMTYPE, "../../..")],
        [member("one", tarfile.SYMTYPE, "two/.."), member("two", tarfile.SYMTYPE, "..")],
        [member("link", tarfile.SYMTYPE, ".."), member("link/out.txt", size=1)],
        [member("same", tarfile.LNKTYPE, "/etc/passwd")],
        [member("same", tarfile.LNKTYPE, "../../x")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("device", tarfile.CHRTYPE)],
    ],
)
def test_link_or_device_that_leads_out_is_refused(
    tmp_path: Path, buildrun: Buildrun, store: Path, members: list[tarfile.TarInfo]
) -> None:
    outcome = buildrun(tar_with(tmp_path / "p.tgz", *members), LOCAL)
    assert outcome.code == 1
    assert "`" in outcome.err
    assert "Traceback" not in outcome.err
    assert working_directories(store) == []
    assert not list(store.rglob("out.txt"))


def test_zip_link_that_leads_out_is_refused(tmp_path: Path, buildrun: Buildrun) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc")
    buildrun(path, LOCAL).refused("the link `link` leads out of it")


def test_zip_bomb_is_refused_before_anything_is_written(
    tmp_path: Path, buildrun: Buildrun, store: Path
) -> None:
    path = zip_of(tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("large", b"")
        file.getinfo("large").file_size = 1 << 40
        file._didModify = True  # type: ignore[attr-defined]
    buildrun(path, LOCAL).refused("would unpack to more than")
    assert working_directories(store) == []


def test_tar_bomb_is_refused(tmp_path: Path, buildrun: Buildrun, store: Path) -> None:
    head = member("large", size=1 << 40).tobuf()
    (tmp_path / "p.tar.gz").write_bytes(gzip.compress(head) + gzip.compress(bytes(1 << 20)) * 8)
    buildrun(tmp_path / "p.tar.gz", LOCAL).refused("would unpack to more than")
    assert working_directories(store) == []


@pytest.mark.parametrize("name", ["p.zip", "p.tar.gz", "p.tgz", "p.tar.xz", "p.tar.bz2", "p.tar"])
@pytest.mark.parametrize("how", ["text", "empty", "cut"])
def test_broken_archive_is_told(
    tmp_path: Path, buildrun: Buildrun, store: Path, name: str, how: str
) -> None:
    path = (zip_of if name.endswith(".zip") else tar_of)(tmp_path / name)
    whole = path.read_bytes()
    # What a tar without compression has lost at its end are its last files.
    content = {"text": b"<html>no</html>" * 99, "empty": b"", "cut": whole[: len(whole) // 3]}
    path.write_bytes(content[how] if name != "p.tar" or how != "cut" else whole[:600])
    buildrun(path, LOCAL).refused(f"the archive `{path}` is broken")
    assert working_directories(store) == []


def test_archive_with_a_password_is_refused(tmp_path: Path, buildrun: Buildrun) -> None:
    path = zip_of(tmp_path / "p.zip", {"MLproject": MLPROJECT})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    buildrun(path, LOCAL).refused("encrypted")


def test_archive_that_is_not_there_is_told(tmp_path: Path, buildrun: Buildrun) -> None:
    with files(tmp_path) as server:
        outcome = buildrun(f"{server.url}/p.zip?token=secret", LOCAL)
    assert outcome.code == 1
    assert f"could not fetch `{server.url}/p.zip`" in outcome.err
    assert "secret" not in outcome.err


def test_archive_of_a_server_that_hangs_is_given_up(buildrun: Buildrun) -> None:
    with silent() as port:
        uri = f"http://127.0.0.1:{port}/p.zip"
        buildrun(uri, LOCAL, environ={"BUILDRUN_SOURCE_TIMEOUT": "1"}).refused(
            f"could not fetch `{uri}`: it does not answer"
        )


def test_version_of_an_archive_is_refused(tmp_path: Path, buildrun: Buildrun) -> None:
    buildrun(zip_of(tmp_path / "p.zip"), LOCAL, "-v", "main").refused(
        "setting a version is only supported for git project URIs"
    )


def test_results_of_an_archive_are_cached(tmp_path: Path, buildrun: Buildrun) -> None:
    content = {
        "MLproject": "name: p\nentry_points:\n  main:\n    inputs: [data.txt]\n"
        "    outputs: [out.txt]\n    command: 'cp data.txt out.txt'\n",
        "data.txt": "one\n",
    }
    path = zip_of(tmp_path / "p.zip", content)
    assert buildrun(path, LOCAL).code == 0
    assert "1 from the cache" in buildrun(path, LOCAL).err


def test_kept_directory_of_an_archive_is_told(tmp_path: Path, buildrun: Buildrun) -> None:
    outcome = buildrun(
        zip_of(tmp_path / "p.zip"), LOCAL, "--keep-workdir", environ={"TMPDIR": str(tmp_path)}
    )
    where = Path(outcome.out.splitlines()[0])
    assert (where / "data.txt").read_text() == "one\n"
    assert f"the working directory is kept: {where}" in outcome.err
