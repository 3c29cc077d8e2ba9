"""Downloads for `path` parameters, kept in a local directory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from buildrun.console import redact
from buildrun.errors import ParameterError
from buildrun.store import locks
from buildrun.store.files import publish

# Schemes that only MLflow can resolve: they name what a tracking server holds.
_MLFLOW_SCHEMES = ("runs:", "models:", "mlflow-artifacts:")

Progress = Callable[[str, int, int | None], None]


def fetch(name: str, uri: str, directory: str, progress: Progress) -> str:
    """Return the path of a local copy of ``uri``, a file or a directory.

    name: the parameter's, for messages. directory: the copy lies below it, under a name that
        depends on the URI alone; a copy that is still current is used again.
    progress: is told (uri, bytes so far, bytes in all or None) as data arrives.
    Raises ParameterError; then nothing of the copy is left.
    """
    if uri.startswith(_MLFLOW_SCHEMES):
        return _from_mlflow(name, uri, directory)
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise ParameterError(
            f"cannot write into the storage directory: {error.strerror}",
            place=directory,
            hint="choose another one with `--storage-dir`",
        ) from None
    try:
        return download_file(uri, directory, progress)
    except ParameterError:
        raise
    except Exception as error:  # fsspec's file systems raise errors of every library below them
        raise _failure(name, uri, error) from error


def download_file(uri: str, directory: str, progress: Progress) -> str:
    """Return the path of a copy below ``directory``, see ``fetch``.

    Raises errors of every library below fsspec.
    """
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    info = filesystem.info(path)
    slot, base = _slot(uri, directory), _safe_name(path)
    target = os.path.join(slot, base)
    version = _version(info)
    if version is not None and os.path.exists(target) and _recorded(slot) == version:
        return target
    os.makedirs(slot, exist_ok=True)
    staging = tempfile.mkdtemp(prefix=".partial-", dir=slot)
    try:
        arriving = os.path.join(staging, base)
        _copy(filesystem, path, info, arriving, uri, progress)
        with locks.exclusive(os.path.join(slot, ".lock")):
            _swap(arriving, target, staging)
            publish(os.path.join(slot, ".version"), (version or "").encode())
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def cached_copy(uri: str, directory: str) -> str | None:
    """Return the path of a copy that was once made, current or not, or None."""
    slot = _slot(uri, directory)
    if _recorded(slot) is None:
        return None
    return next(
        (os.path.join(slot, name) for name in os.listdir(slot) if not name.startswith(".")), None
    )


def download_tree(uri: str, target: str, progress: Progress) -> bool:
    """Copy the directory at ``uri`` to a new one; False where it is a file.

    Raises errors of every library below fsspec.
    """
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    info = filesystem.info(path)
    if info.get("type") != "directory":
        return False
    _copy(filesystem, path, info, target, uri, progress)
    return True


def _slot(uri: str, directory: str) -> str:
    return os.path.join(directory, sha256(uri.encode()).hexdigest()[:16])


def _copy(
    filesystem: Any, path: str, info: dict[str, Any], target: str, uri: str, progress: Progress
) -> None:
    if info.get("type") != "directory":
        _copy_file(filesystem, path, target, info.get("size"), uri, progress)
        return
    root = path.rstrip("/")
    found = filesystem.find(root, detail=True)
    os.makedirs(target)
    for remote, detail in sorted(found.items()):
        relative = os.path.normpath(remote[len(root) :].lstrip("/"))
        if relative.startswith("..") or os.path.isabs(relative):
            raise ParameterError(f"`{uri}` holds `{remote}`, which lies outside of it")
        local = os.path.join(target, relative)
        os.makedirs(os.path.dirname(local), exist_ok=True)
        _copy_file(filesystem, remote, local, detail.get("size"), f"{uri} {relative}", progress)


def _copy_file(
    filesystem: Any, path: str, target: str, size: int | None, label: str, progress: Progress
) -> None:
    done = 0
    with filesystem.open(path, "rb") as source, open(target, "xb") as sink:
        while chunk := source.read(1 << 20):
            sink.write(chunk)
            done += len(chunk)
            progress(label, done, size)
    if size is not None and done != size:
        raise OSError(f"the connection ended after {done} of {size} bytes")


def _swap(arriving: str, target: str, staging: str) -> None:
    if os.path.isdir(target):
        os.rename(target, os.path.join(staging, ".old"))
    os.replace(arriving, target)


def _version(info: dict[str, Any]) -> str | None:
    """Return what tells this content from a later one, or None where nothing does."""
    if info.get("type") == "directory":
        return None
    marks = {
        key: str(info[key])
        for key in ("ETag", "etag", "md5Hash", "md5", "mtime", "LastModified", "last_modified")
        if info.get(key)
    }
    return json.dumps({"size": info.get("size"), **marks}, sort_keys=True) if marks else None


def _recorded(slot: str) -> str | None:
    try:
        with open(os.path.join(slot, ".version"), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def _safe_name(path: str) -> str:
    name = os.path.basename(path.split("?", maxsplit=1)[0].rstrip("/"))
    return "data" if name in ("", ".", "..") or name.startswith(".") else name


def _from_mlflow(name: str, uri: str, directory: str) -> str:
    try:
        from mlflow.artifacts import download_artifacts  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ParameterError(
            f"parameter `{name}`: `{uri}` names data of a tracking server, which needs mlflow",
            hint="install `mlflow` beside buildrun, or give the data's own URI",
        ) from None
    os.makedirs(directory, exist_ok=True)
    target = tempfile.mkdtemp(prefix="mlflow-", dir=directory)
    try:
        return str(download_artifacts(artifact_uri=uri, dst_path=target))
    except Exception as error:
        shutil.rmtree(target, ignore_errors=True)
        raise _failure(name, uri, error) from error


def _failure(name: str, uri: str, error: Exception) -> ParameterError:
    lines = str(error).splitlines()
    reason = lines[0] if lines else type(error).__name__
    if isinstance(error, FileNotFoundError):
        reason = "there is nothing at this address"
    return ParameterError(
        f"parameter `{name}`: could not download `{redact(uri)}`: {reason}",
        hint=remedy(uri, error),
    )


def remedy(uri: str, error: BaseException) -> str:
    """Return what the user can do about an error of a file system."""
    scheme = uri.partition(":")[0].lower()
    extras = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "az": "azure"}
    if isinstance(error, ImportError):
        extra = extras.get(scheme)
        return f"pip install 'buildrun[{extra}]'" if extra else "install the library it names"
    if isinstance(error, ValueError) and "Protocol" in str(error):
        return "give a local path, or a URI that fsspec knows, such as s3://, gs:// or https://"
    return "check the address, your credentials and the network, then run again"
