"""Files copied into a container before it runs and out of it after."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence

from buildrun.errors import ExecutionError

_CHUNK = 1 << 16
_NULL = subprocess.DEVNULL


def copy_in(
    name: str,
    workdir: str,
    root: str,
    paths: Sequence[str],
    alone: Sequence[str],
    environ: Mapping[str, str],
) -> None:
    """Copy files and directories of the project into a container that is not yet started.

    workdir: where they go, an absolute path. paths: relative to the root; absent ones are passed
    over. alone: paths of which directories go without what is in them; anybody may read these.
    Raises ExecutionError.
    """
    wanted = [*((path, True) for path in paths), *((path, False) for path in alone)]
    there = [
        (path.rstrip("/"), whole)
        for path, whole in wanted
        if os.path.lexists(os.path.join(root, path))
    ]
    if not there:
        return
    child = _docker_cp(("--archive=false", "-", f"{name}:/"), environ, stdin=subprocess.PIPE)
    if child.stdin is None or child.stderr is None:
        raise AssertionError(child.args)
    try:
        with child.stdin, tarfile.open(fileobj=child.stdin, mode="w|") as archive:
            for path, whole in there:
                archive.add(
                    os.path.join(root, path),
                    arcname=f"{workdir.strip('/')}/{path}".lstrip("/"),
                    recursive=whole,
                    filter=_as_root if whole else _readable,
                )
    except BrokenPipeError:
        pass  # what it says on its standard error is the reason
    except OSError as error:
        child.kill()
        raise ExecutionError(
            f"it cannot be copied into the container: {error.strerror}",
            place=os.fsdecode(error.filename or root),
        ) from None
    finally:
        message = child.stderr.read()
        child.wait()
    if child.returncode:
        raise ExecutionError(
            "files cannot be copied into the container: " + message.decode(errors="replace").strip()
        )


def copy_out(
    name: str, workdir: str, root: str, paths: Sequence[str], environ: Mapping[str, str]
) -> None:
    """Copy outputs from a container that has ended into the project; absent ones are passed over.

    They belong to the caller. The outputs in the project have been moved away before.
    Raises ExecutionError where the engine fails, or an archive holds what it should not.
    """
    for path in paths:
        output = path.rstrip("/")
        source = f"{name}:{workdir.rstrip('/')}/{output}"
        child = _docker_cp((source, "-"), environ, stdout=subprocess.PIPE)
        if child.stdout is None or child.stderr is None:
            raise AssertionError(child.args)
        try:
            _extract(child.stdout, root, output)
        finally:
            child.stdout.close()
            message = child.stderr.read().decode(errors="replace").strip()
            child.wait()
        if child.returncode and not _is_absence(message):
            raise ExecutionError(f"output `{path}` cannot be copied out: {message}")


def _docker_cp(
    words: Sequence[str], environ: Mapping[str, str], *, stdin: int = _NULL, stdout: int = _NULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ("docker", "cp", *words),
        env=dict(environ),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Give a member the rights that it has in an image with the project's code."""
    if not member.issym():
        member.mode = 0o755 if member.isdir() or member.mode & stat.S_IXUSR else 0o644
    return _as_root(member)


def _is_absence(message: str) -> bool:
    return (
        "could not find the file" in message.lower() or "no such container:path" in message.lower()
    )


def _extract(stream: object, root: str, output: str) -> None:
    """Write an archive whose top is the last part of the output's path."""
    above = os.path.normpath(os.path.join(root, os.path.dirname(output)))
    os.makedirs(above, exist_ok=True)
    top = os.path.basename(output)
    made = {above}
    for archive in _open_tar(stream):
        for member in archive:
            name = member.name.rstrip("/")
            parts = name.split("/")
            if parts[0] != top or any(part in ("", ".", "..") for part in parts):
                raise ExecutionError(f"the container's archive holds `{member.name}`")
            path = os.path.join(above, name)
            if os.path.dirname(path) not in made:
                raise ExecutionError(f"the container's archive holds `{name}` in no directory")
            if member.isdir():
                os.mkdir(path)
                made.add(path)
            elif member.issym():
                os.symlink(member.linkname, path)
            elif member.isreg():
                _write(archive, member, path)
            else:
                raise ExecutionError(f"output `{name}` is neither a file nor a directory")


def _open_tar(stream: object) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
            yield archive
    except tarfile.ReadError:
        return  # nothing came: the output is not there


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    content = archive.extractfile(member)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    mode = 0o777 if member.mode & stat.S_IXUSR else 0o666
    with open(os.open(path, flags, mode), "wb") as target:
        while content is not None and (chunk := content.read(_CHUNK)):
            target.write(chunk)
