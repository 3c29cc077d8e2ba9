"""Files of a run at Databricks: below a directory of a volume, or of the workspace."""

from __future__ import annotations

import base64
import io
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from buildrun.console import size
from buildrun.errors import ExecutionError
from buildrun.executors.databricks.errors import ApiError
from buildrun.executors.kubernetes import archive
from buildrun.executors.kubernetes.pod_runner import HttpClient, MultipartReader, TransferError
from buildrun.store.remote.transfer import Changed

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from buildrun.executors.databricks.api import Api

_MIB = 1 << 20
# Files of a volume have 5 GiB at most, and the workspace takes 10 MiB of Base64 in a request.
_VOLUME, _WORKSPACE = archive.PartLimit(4 << 30, 64), archive.PartLimit(7 * _MIB, 64)
_LARGER = (
    'name a volume in the backend config: `"volume": "/Volumes/CATALOG/SCHEMA/VOLUME/DIRECTORY"`'
)
_EXISTS = ("ALREADY_EXISTS", "RESOURCE_ALREADY_EXISTS")


class Place:
    """A directory at Databricks, as a store of files on their way, see ``transfer.Store``.

    Names are paths below it. All methods raise ExecutionError; used by several threads.
    """

    def __init__(self, api: Api, path: str) -> None:
        """Take the directory: `/Volumes/…` or `/Workspace/…`; it is made when files come."""
        self.path = path.rstrip("/")
        self.shown = f"`{self.path}`"
        self._api = api
        self.is_volume = path.startswith("/Volumes/")
        self.limit = _VOLUME if self.is_volume else _WORKSPACE
        self._mutex = threading.Lock()
        self._present: set[str] = set()

    def at(self, name: str) -> str:
        """Return the path of a file, which is the same on drivers."""
        return f"{self.path}/{name}"

    # -- as a store of parts -------------------------------------------------------------------

    def upload(self, parts: Mapping[str, archive.Part]) -> None:
        """Write the parts that are not there yet; ExecutionError for more than the place takes."""
        if any(part.size > self.limit.bytes for part in parts.values()):
            total = size(sum(part.size for part in parts.values()))
            most = size(self.limit.bytes * self.limit.parts)
            raise ExecutionError(
                f"{total} of files are more than {self.shown} takes, {most}",
                hint="leave out what no step needs by `.gitignore` or `.dockerignore`, or "
                + ("keep large data at Databricks" if self.is_volume else _LARGER),
            )
        for name, part in parts.items():
            with self._mutex:  # steps that begin at once mostly need the same
                if not self.has(name):
                    self._send_part(name, part)

    def urls(self, names: Sequence[str], method: str) -> tuple[str, ...]:
        """Return the paths of files on a driver."""
        del method
        return tuple(self.at(name) for name in names)

    def stream(self, names: Sequence[str], what: str) -> MultipartReader:
        """Return the bytes of files, one behind the other; ``what`` names them in messages."""
        return _Reader(self, names, what, self._api.deadline(self.path))

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file, None where there is none; of a larger one its first bytes."""
        try:
            if self.is_volume:
                return self._api.read(self._file(name), limit)
            return self._exported(name)[:limit]
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def delete(self, names: Sequence[str]) -> None:
        """Delete files, as far as they are there."""
        for name in names:
            self._present.discard(name)
            try:
                if self.is_volume:
                    self._api.call("DELETE", self._file(name))
                else:
                    body = {"path": self._object(name)}
                    self._api.call("POST", "/api/2.0/workspace/delete", body=body)
            except ApiError as error:
                if error.status != 404:
                    raise

    # -- one file ------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Return whether a file is there; what was seen or written before stays."""
        if name not in self._present and self._exists(name):
            self._present.add(name)
        return name in self._present

    def _exists(self, name: str) -> bool:
        if self.is_volume:
            return self._api.exists(self._file(name))
        try:
            query = {"path": self._object(name)}
            self._api.call("GET", "/api/2.0/workspace/get-status", query=query)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def open(self, name: str) -> HTTPResponse | BinaryIO:
        """Return a file's content as it comes, see ``Api.download``."""
        if self.is_volume:
            return self._api.download(self._file(name))
        return io.BytesIO(self._exported(name))

    def _exported(self, name: str) -> bytes:
        query = {"path": self._object(name), "format": "AUTO"}
        found = self._api.call("GET", "/api/2.0/workspace/export", query=query)
        try:
            return base64.b64decode(found["content"], validate=True)
        except (KeyError, TypeError, ValueError):
            raise ExecutionError(f"{self.shown} holds no sound `{name}`") from None

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file; False where there is one that is not to be replaced."""
        try:
            self._send(name, io.BytesIO(data), len(data), replace=replace)
        except ApiError as error:
            if replace or error.code not in _EXISTS:
                raise
            return False
        self._present.add(name)
        return True

    def _send_part(self, name: str, part: archive.Part) -> None:
        # A file that changes while it is sent is told before anything is there by that name.
        with tempfile.TemporaryFile() as file:
            try:
                for chunk in part.chunks():
                    file.write(chunk)
            except Changed as error:
                raise archive.changed(error) from None
            file.seek(0)
            self._send(name, file, part.size, replace=True)
        self._present.add(name)

    def _send(self, name: str, file: BinaryIO, count: int, *, replace: bool) -> None:
        try:
            try:
                self._put(name, file, count, replace=replace)
            except ApiError as error:
                if error.status != 404:
                    raise
                self._make_directory(name.rpartition("/")[0])
                file.seek(0)
                self._put(name, file, count, replace=replace)
        except ApiError as error:
            if error.status == 413 or "SIZE_EXCEEDED" in error.code:
                error.hint = _LARGER if not self.is_volume else error.hint
            raise

    def _put(self, name: str, file: BinaryIO, count: int, *, replace: bool) -> None:
        if self.is_volume:
            query = {"overwrite": str(replace).lower()}
            self._api.upload(self._file(name), file, count, query=query)
            return
        content = base64.b64encode(file.read()).decode()
        body = {"path": self._object(name), "format": "AUTO", "content": content}
        self._api.call("POST", "/api/2.0/workspace/import", body={**body, "overwrite": replace})

    def _make_directory(self, name: str) -> None:
        if self.is_volume:
            self._api.call("PUT", f"/api/2.0/fs/directories{self.at(name)}")
        else:
            body = {"path": self._object(name)}
            self._api.call("POST", "/api/2.0/workspace/mkdirs", body=body)

    def _file(self, name: str) -> str:
        return f"/api/2.0/fs/files{self.at(name)}"

    def _object(self, name: str) -> str:
        """Return the path that the workspace's own API has for a file."""
        return self.at(name).removeprefix("/Workspace")


class _Client(HttpClient):
    """Gives files at a place to a reader of parts."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def open(self, url: str, **_: object) -> Any:
        return self._place.open(url)

    def wait_to_retry(self, error: Exception, failures: int, what: str) -> int:
        if isinstance(error, ApiError) and error.status == 404:
            raise TransferError(f"{what} is gone") from None
        if isinstance(error, ExecutionError):  # the API has tried again
            raise error
        return super().wait_to_retry(error, failures, what)


class _Reader(MultipartReader):
    """Reads until a Ctrl-C does not wait for more."""

    def __init__(
        self, place: Place, names: Sequence[str], what: str, check: Callable[[], None]
    ) -> None:
        super().__init__(_Client(place), names, what)
        self._check = check

    def read(self, _size: int = -1) -> bytes:
        self._check()
        return super().read()


def load(data: bytes | None) -> dict[str, Any]:
    """Return what a JSON file of ours holds, {} for anything else."""
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def default(api: Api) -> str:
    """Return the directory that files go to where the config names none."""
    found = api.call("GET", "/api/2.0/preview/scim/v2/Me")
    name = found.get("userName") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name or "/" in name:
        raise ExecutionError(
            "Databricks does not tell whose credentials these are",
            hint='name a place in the backend config, such as `"workspace": "/Workspace/…"`',
        )
    return f"/Workspace/Users/{name}/.buildrun"
