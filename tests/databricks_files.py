"""The files of a Databricks stand-in: volumes, the workspace, DBFS."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_http import Answer, Refused, Request

if TYPE_CHECKING:
    from databricks_workspace import Workspace

_NOTEBOOK = b"# Databricks notebook source"


def put_file(workspace: Workspace, request: Request) -> Answer:
    path, place = _volume_place(workspace, request, "files")
    if len(request.body) > workspace.file_limit:
        raise Refused(413, "BAD_REQUEST", f"The file {path} exceeds the limit")
    if not place.parent.is_dir():
        raise _no_directory(str(place.parent.relative_to(workspace.root)))
    if place.is_dir():
        raise Refused(409, "ALREADY_EXISTS", f"{path} is a directory")
    if place.exists() and request.query.get("overwrite", "true") == "false":
        raise Refused(409, "ALREADY_EXISTS", f"The file {path} already exists")
    place.write_bytes(request.body)
    return Answer(204)


def get_file(workspace: Workspace, request: Request) -> Answer:
    path, place = _volume_place(workspace, request, "files")
    if not place.is_file():
        raise Refused(404, "NOT_FOUND", f"The file {path} is not found")
    data = place.read_bytes()
    headers = {"Last-Modified": formatdate(place.stat().st_mtime, usegmt=True)}
    headers["Content-Type"] = "application/octet-stream"
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if asked is None:
        return Answer(200, data, headers)
    start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if start >= len(data):
        raise Refused(416, "INVALID_RANGE", f"The range is not in the file {path}")
    headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
    return Answer(206, data[start : end + 1], headers)


def delete_file(workspace: Workspace, request: Request) -> Answer:
    path, place = _volume_place(workspace, request, "files")
    if not place.is_file():
        raise Refused(404, "NOT_FOUND", f"The file {path} is not found")
    place.unlink()
    return Answer(204)


def put_directory(workspace: Workspace, request: Request) -> Answer:
    path, place = _volume_place(workspace, request, "directories")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Refused(409, "ALREADY_EXISTS", f"{path} is a file") from None
    return Answer(204)


def get_directory(workspace: Workspace, request: Request) -> Answer:
    path, place = _volume_place(workspace, request, "directories")
    if not place.is_dir():
        raise _no_directory(path)
    contents = [_entry(workspace, each) for each in sorted(place.iterdir())]
    return Answer(body={"contents": contents})


def delete_directory(workspace: Workspace, request: Request) -> Answer:
    path, place = _volume_place(workspace, request, "directories")
    if not place.is_dir():
        raise _no_directory(path)
    if any(place.iterdir()):
        raise Refused(400, "DIRECTORY_NOT_EMPTY", f"The directory {path} is not empty")
    place.rmdir()
    return Answer(204)


def _volume_place(workspace: Workspace, request: Request, kind: str) -> tuple[str, Path]:
    path = request.path.removeprefix(f"/api/2.0/fs/{kind}").rstrip("/")
    parts = path.split("/")
    if parts[1:2] != ["Volumes"] or len(parts) < 5 or ".." in parts:
        raise Refused(400, "INVALID_PARAMETER_VALUE", f"Invalid path: {path}")
    if not workspace.local("/".join(parts[:5])).is_dir():
        name = ".".join(parts[2:5])
        raise Refused(404, "NOT_FOUND", f"Volume '{name}' does not exist.")
    return path, workspace.local(path)


def _no_directory(path: str) -> Refused:
    return Refused(404, "NOT_FOUND", f"The directory being accessed is not found: {path}")


def _entry(workspace: Workspace, place: Path) -> dict[str, Any]:
    entry = {
        "path": f"/{place.relative_to(workspace.root)}",
        "name": place.name,
        "is_directory": place.is_dir(),
    }
    return entry if place.is_dir() else {**entry, "file_size": place.stat().st_size}


def get_status(workspace: Workspace, request: Request) -> Answer:
    path, place = _object_place(workspace, request.asked())
    if not place.exists():
        raise _no_object(path)
    return Answer(body=_object(path, place))


def mkdirs(workspace: Workspace, request: Request) -> Answer:
    path, place = _object_place(workspace, request.asked())
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Refused(400, "RESOURCE_ALREADY_EXISTS", f"{path} is no directory") from None
    return Answer(body={})


def import_(workspace: Workspace, request: Request) -> Answer:
    asked = request.asked()
    path, place = _object_place(workspace, asked)
    if len(asked.get("content", "")) > workspace.import_limit:
        raise Refused(400, "MAX_NOTEBOOK_SIZE_EXCEEDED", f"{path} exceeds the limit")
    if asked.get("format", "SOURCE") != "AUTO":
        raise Refused(400, "INVALID_PARAMETER_VALUE", "This stand-in imports format AUTO")
    data = base64.b64decode(asked.get("content", ""), validate=True)
    if data.startswith(_NOTEBOOK):
        place = place.with_suffix("")
    if not place.parent.is_dir():
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"The parent folder of {path} does not exist")
    if place.exists() and not asked.get("overwrite", False):
        raise Refused(400, "RESOURCE_ALREADY_EXISTS", f"{path} already exists")
    place.write_bytes(data)
    return Answer(body={"object_id": _object(path, place)["object_id"]})


def export(workspace: Workspace, request: Request) -> Answer:
    asked = request.asked()
    path, place = _object_place(workspace, asked)
    if not place.is_file():
        raise _no_object(path)
    data = place.read_bytes()
    if len(data) > workspace.export_limit:
        raise Refused(400, "MAX_NOTEBOOK_SIZE_EXCEEDED", f"{path} exceeds the limit")
    if asked.get("direct_download") == "true":
        return Answer(200, data)
    return Answer(body={"content": base64.b64encode(data).decode(), "file_type": place.suffix[1:]})


def delete(workspace: Workspace, request: Request) -> Answer:
    path, place = _object_place(workspace, request.asked())
    if not place.exists():
        raise _no_object(path)
    if place.is_file():
        place.unlink()
    elif any(place.iterdir()) and not request.asked().get("recursive"):
        raise Refused(400, "DIRECTORY_NOT_EMPTY", f"The folder {path} is not empty")
    else:
        shutil.rmtree(place)
    return Answer(body={})


def list_(workspace: Workspace, request: Request) -> Answer:
    path, place = _object_place(workspace, request.asked())
    if not place.exists():
        raise _no_object(path)
    found = sorted(place.iterdir()) if place.is_dir() else [place]
    objects = [_object(f"/{each.relative_to(workspace.root)}", each) for each in found]
    return Answer(body={"objects": objects} if objects else {})


def _object_place(workspace: Workspace, asked: Mapping[str, Any]) -> tuple[str, Path]:
    path = str(asked.get("path", ""))
    if not path.startswith("/") or ".." in path.split("/"):
        raise Refused(400, "INVALID_PARAMETER_VALUE", f"Path ({path}) doesn't start with '/'")
    below = path.removeprefix("/Workspace")
    return path, workspace.local(f"/Workspace{below}")


def _no_object(path: str) -> Refused:
    return Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Path ({path}) doesn't exist.")


def _object(path: str, place: Path) -> dict[str, Any]:
    number = int(hashlib.sha256(path.encode()).hexdigest()[:12], 16)
    told = {"path": path, "object_id": number, "resource_id": str(number)}
    if place.is_dir():
        return {**told, "object_type": "DIRECTORY"}
    with place.open("rb") as file:
        if file.read(len(_NOTEBOOK)) == _NOTEBOOK:
            return {**told, "object_type": "NOTEBOOK", "language": "PYTHON"}
    return {**told, "object_type": "FILE", "size": place.stat().st_size}


def dbfs_status(workspace: Workspace, request: Request) -> Answer:
    path, place = _dbfs_place(workspace, str(request.asked().get("path", "")))
    if not place.exists():
        raise Refused(
            404, "RESOURCE_DOES_NOT_EXIST", f"No file or directory exists on path {path}."
        )
    size = 0 if place.is_dir() else place.stat().st_size
    return Answer(body={"path": path, "is_dir": place.is_dir(), "file_size": size})


def dbfs_upload(workspace: Workspace, request: Request) -> Answer:
    """Take a file as MLflow sends it, to a path that is in no published API."""
    path, place = _dbfs_place(workspace, request.path.removeprefix("/dbfs"))
    if place.exists():
        raise Refused(409, "RESOURCE_ALREADY_EXISTS", f"File already exists: {path}")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(request.body)
    return Answer()


def _dbfs_place(workspace: Workspace, path: str) -> tuple[str, Path]:
    if not workspace.dbfs_root:
        what = f"Public DBFS root is disabled. Access is denied on path: {path}"
        raise Refused(403, "PERMISSION_DENIED", what)
    if ".." in path.split("/"):
        raise Refused(400, "INVALID_PARAMETER_VALUE", f"Invalid path: {path}")
    return path, workspace.local(f"/dbfs{path}")


_FILES, _DIRECTORIES = "/api/2.0/fs/files/.+", "/api/2.0/fs/directories/.+"
_OBJECTS = "/api/2.0/workspace"

ROUTES = (
    ("PUT", _FILES, put_file),
    ("GET", _FILES, get_file),
    ("HEAD", _FILES, get_file),
    ("DELETE", _FILES, delete_file),
    ("PUT", _DIRECTORIES, put_directory),
    ("GET", _DIRECTORIES, get_directory),
    ("HEAD", _DIRECTORIES, get_directory),
    ("DELETE", _DIRECTORIES, delete_directory),
    ("GET", f"{_OBJECTS}/get-status", get_status),
    ("POST", f"{_OBJECTS}/mkdirs", mkdirs),
    ("POST", f"{_OBJECTS}/import", import_),
    ("GET", f"{_OBJECTS}/export", export),
    ("POST", f"{_OBJECTS}/delete", delete),
    ("GET", f"{_OBJECTS}/list", list_),
    ("GET", "/api/2.0/dbfs/get-status", dbfs_status),
    ("POST", "/dbfs/.+", dbfs_upload),
)
