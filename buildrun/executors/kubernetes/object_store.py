"""The remote cache, as the object store through which files reach pods and come back."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from buildrun.errors import BuildrunError, ExecutionError
from buildrun.executors.kubernetes import archive
from buildrun.executors.kubernetes.pod_runner import HttpClient, MultipartReader
from buildrun.store.remote import fs
from buildrun.store.remote.errors import explain, hide, is_absent, is_denied, shown
from buildrun.store.remote.transfer import (
    Changed,
    NoProgress,
    Refused,
    Stopped,
    Task,
    TransferPool,
)

Result = TypeVar("Result")
Work = Callable[[Task[Any]], Result]

# What the signatures of S3, Google and Azure allow at most, in seconds.
LONGEST = 7 * 24 * 3600

_S3 = frozenset({"s3", "s3a"})
_GOOGLE = frozenset({"gs", "gcs"})
_AZURE = frozenset({"az", "abfs", "abfss"})
_HTTP = frozenset({"http", "https"})

# Returns the URL of an object by its name and a method, GET or PUT.
Signer = Callable[[str, str], str]

_TRIES = 3
_BROKEN = frozenset(
    {"ServerDisconnectedError", "ClientPayloadError", "ClientOSError", "ConnectionClosedError"}
)


class ObjectStore:
    """Objects by name; it is connected to when it is first needed, by whatever thread.

    What breaks on the way is done again, a few times; what makes no progress for ``patience``
    seconds is given up. All methods raise ExecutionError.

    shown: for people, without credentials. is_plain: whether it is an HTTP server without
    signatures.
    """

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str],
        endpoint: str | None,
        seconds: int,
        patience: float,
    ) -> None:
        """Connect to nothing yet; raises for a place that pods cannot use by presigned URLs.

        environ: whose credentials no message may show. endpoint: the service's address for pods,
        where that is another one. seconds: how long URLs are good for.
        """
        _refuse_unreachable(url)
        self.shown = f"the remote cache `{hide(shown(url), url, environ)}`"
        self.is_plain = fs.scheme_of(url) in ("http", "https")
        self._url, self._environ, self._endpoint = url, environ, endpoint
        self._seconds, self._patience = seconds, patience
        self._lock = threading.Lock()
        self._pool = self._new_pool()
        self._store: fs.RemoteStore | None = None
        self._signers: dict[str | None, Signer] = {}
        self._present: set[str] = set()
        self._http = HttpClient()

    def upload(self, parts: Mapping[str, archive.Part]) -> None:
        """Write the objects that are not there yet."""

        def write(name: str, part: archive.Part, task: Task[Any]) -> None:
            if not self._connected().has(name, part.size):
                self._connected().write(task, name, part.size, part.chunks)
            self._present.add(name)

        works = [
            lambda task, name=name, part=part: write(name, part, task)
            for name, part in parts.items()
            if name not in self._present
        ]
        self._run(works, "files cannot be sent there")

    def urls(self, names: Sequence[str], method: str, *, here: bool = False) -> tuple[str, ...]:
        """Return URLs of objects to GET or PUT, for pods, or for this machine (``here``)."""
        endpoint = None if here else self._endpoint

        def work(_: Task[Any]) -> tuple[str, ...]:
            with self._lock:
                if endpoint not in self._signers:
                    self._signers[endpoint] = _signer(self._url, endpoint, self._seconds)
            return tuple(self._signers[endpoint](name, method) for name in names)

        (urls,) = self._run([work], "no addresses for pods can be made")
        return urls

    def stream(self, names: Sequence[str], what: str) -> MultipartReader:
        """Return the bytes of objects, one behind the other; ``what`` names them in messages."""
        return MultipartReader(self._http, self.urls(names, "GET", here=True), what)

    def read(self, name: str, limit: int) -> bytes | None:
        """Return an object of so many bytes at most, None where there is none."""
        (data,) = self._run(
            [lambda task: self._read(task, name, limit)],
            "what a pod has delivered cannot be seen",
        )
        return data

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects that are there; those on a plain HTTP server only as it allows it."""
        if self.is_plain:
            for url in self.urls(names, "PUT", here=True):
                try:
                    self._http.open(url, method="DELETE").close()
                except (OSError, http.client.HTTPException):
                    pass  # it does not know the method, or does not allow it
            return

        def work(_: Task[Any]) -> None:
            filesystem, root = _open_filesystem(self._url)
            for name in names:
                try:
                    filesystem.rm_file(f"{root}/{name}")
                except FileNotFoundError:
                    pass

        self._run([work], "a delivery cannot be deleted")

    def _read(self, task: Task[Any], name: str, limit: int) -> bytes | None:
        try:
            return self._connected().read_bytes(task, name, limit)
        except Exception as error:
            # Denied is what S3 calls the absent too, to those who may not list.
            if is_absent(error) or is_denied(error):
                return None
            raise

    def _connected(self) -> fs.RemoteStore:
        with self._lock:
            if self._store is None:
                self._store = fs.connect(self._url, write=True)
            return self._store

    def _new_pool(self) -> TransferPool:
        # What writes to servers without signatures holds a part or two in memory.
        return TransferPool(4 if self.is_plain else fs.width(self._url), self._patience)

    def _run(self, works: Sequence[Work[Result]], outcome: str) -> list[Result]:
        """Return what each work returns; the outcome is what a failure means, for messages."""
        pool = self._pool
        tasks = [pool.start(_retrying(work)) for work in works]
        try:
            pool.wait(tasks)
        except BaseException as error:
            self._pool = self._new_pool()
            pool.stop()
            if isinstance(error, NoProgress):
                raise self._failure(error, outcome) from None
            raise
        for task in tasks:
            if task.error is not None:
                # The libraries' own texts may show addresses, so nothing of them is chained.
                raise self._failure(task.error, outcome) from None
        return [task.result for task in tasks]  # type: ignore[misc]

    def _failure(self, error: BaseException, outcome: str) -> BuildrunError:
        if isinstance(error, BuildrunError):
            return error
        if isinstance(error, Changed):
            return archive.changed(error)
        if isinstance(error, Refused):
            text = f"{self.shown} holds what {error}; {outcome}"
            return ExecutionError(text, hint=archive.UNTRUSTED)
        if isinstance(error, Stopped):  # since something else hung
            error = NoProgress()
        text, hint = explain(error, self._url, self._environ, outcome)
        return ExecutionError(text, hint=hint)


def _retrying(work: Work[Result]) -> Work[Result]:
    """Return the work, done again where a connection broke or a server was not well."""

    def run(task: Task[Any]) -> Result:
        for _ in range(_TRIES - 1):
            try:
                return work(task)
            except Exception as error:
                status = getattr(error, "status", None)
                is_broken = type(error).__name__ in _BROKEN or isinstance(error, ConnectionError)
                if isinstance(status, int):
                    is_broken = status == 429 or status >= 500
                if not is_broken:
                    raise
                task.heartbeat()
        return work(task)

    return run


# -- presigned URLs --------------------------------------------------------------------------------


def _refuse_unreachable(url: str) -> None:
    scheme = fs.scheme_of(url)
    if scheme not in _S3 | _GOOGLE | _AZURE | _HTTP:
        why = (
            "pods get and put them by HTTP, so an object store is needed "
            "(s3://, gs://, abfs://, or an http(s):// server that takes PUT)"
        )
    elif scheme in _HTTP and "@" in urlsplit(url).netloc:
        why = "its password would have to be known in the cluster"
    else:
        return
    raise ExecutionError(
        f"files cannot travel to pods and back through `{shown(url)}`: {why}",
        hint="give `--remote-cache` an object store that pods reach too, "
        "such as `s3://bucket/path`",
    )


def _open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of its own for a place, and the path there."""
    import fsspec

    # A cached one would keep another run's credentials, were there several runs in a process.
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return filesystem, root.rstrip("/")


def _signer(url: str, endpoint: str | None, seconds: int) -> Signer:
    """Return the signer of a remote cache; raises what fsspec and the library for it raise.

    s3fs and gcsfs sign; Azure's library and other endpoints are called here.

    endpoint: the address of the service in the URLs, where it is another one than ours.
    seconds: how long a URL is good for.
    """
    scheme = fs.scheme_of(url)
    if scheme in _HTTP:
        base, mark, query = url.partition("?")
        base = _at(endpoint, base.rstrip("/"))
        return lambda name, _: f"{base}/{name}{mark}{query}"
    filesystem, root = _open_filesystem(url)
    if scheme in _S3:
        return _amazon(filesystem, root, endpoint, seconds)
    if scheme in _GOOGLE:
        return _google(filesystem, root, endpoint, seconds)
    return _azure(filesystem, root, endpoint, seconds)


def _amazon(filesystem: Any, root: str, endpoint: str | None, seconds: int) -> Signer:
    options = dict(filesystem.storage_options)
    client = dict(options.get("client_kwargs") or {})
    if endpoint is not None:
        client.pop("endpoint_url", None)
        options["endpoint_url"] = endpoint
    # Version 2 of the signature, which still is the default, is refused by newer services.
    config = {**(options.get("config_kwargs") or {}), "signature_version": "s3v4"}
    options.update(config_kwargs=config, client_kwargs=client, skip_instance_cache=True)
    signing = type(filesystem)(**options)
    return lambda name, method: str(
        signing.url(f"{root}/{name}", expires=seconds, client_method=f"{method.lower()}_object")
    )


def _google(filesystem: Any, root: str, endpoint: str | None, seconds: int) -> Signer:
    signing = filesystem
    if endpoint is not None:
        options = {**filesystem.storage_options, "endpoint_url": endpoint}
        signing = type(filesystem)(**options, skip_instance_cache=True)

    def sign(name: str, method: str) -> str:
        try:
            return str(
                signing.sign(f"{root}/{name}", expiration=seconds, method=method, version="v4")
            )
        except AttributeError as error:  # "you need a private key to sign credentials"
            raise ExecutionError(
                "the credentials for Google Cloud Storage cannot sign addresses for pods",
                hint="let `GOOGLE_APPLICATION_CREDENTIALS` name the key of a service account",
            ) from error

    return sign


def _azure(filesystem: Any, root: str, endpoint: str | None, seconds: int) -> Signer:
    from datetime import datetime, timedelta, timezone

    from azure.storage.blob import (  # type: ignore[import-not-found, unused-ignore]
        BlobSasPermissions,
        generate_blob_sas,
    )
    from fsspec.asyn import sync

    service = filesystem.service_client
    now = datetime.now(tz=timezone.utc)
    ends = now + timedelta(seconds=seconds)
    account_key = filesystem.account_key or getattr(service.credential, "account_key", None)
    if account_key:
        key = {"account_key": account_key}
    elif filesystem.sas_token:
        raise ExecutionError(
            "a shared access signature for Azure cannot sign addresses for pods",
            hint="set `AZURE_STORAGE_CONNECTION_STRING`, or the account's name and key",
        )
    else:
        begins = now - timedelta(minutes=5)
        key = sync(filesystem.loop, service.get_user_delegation_key, begins, ends)
        key = {"user_delegation_key": key}

    def sign(name: str, method: str) -> str:
        container, _, blob = f"{root}/{name}".partition("/")
        rights = BlobSasPermissions(
            read=method == "GET", create=method == "PUT", write=method == "PUT"
        )
        token = generate_blob_sas(
            service.account_name, container, blob, permission=rights, expiry=ends, **key
        )
        address = service.get_blob_client(container, blob).url.partition("?")[0]
        return f"{_at(endpoint, address)}?{token}"

    return sign


def _at(endpoint: str | None, address: str) -> str:
    """Return an address at another scheme and host."""
    if endpoint is None:
        return address
    parts, there = urlsplit(address), urlsplit(endpoint)
    path = os.path.join(there.path.rstrip("/"), parts.path.lstrip("/"))
    return urlunsplit((there.scheme, there.netloc, path, parts.query, ""))
