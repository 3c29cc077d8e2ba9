"""Presigned URLs of object stores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from buildrun.errors import ExecutionError
from buildrun.store.remote.errors import shown
from buildrun.store.remote.fs import scheme_of

# What the signatures of S3, Google and Azure allow at most, in seconds.
LONGEST = 7 * 24 * 3600

_S3 = frozenset({"s3", "s3a"})
_GOOGLE = frozenset({"gs", "gcs"})
_AZURE = frozenset({"az", "abfs", "abfss"})
_HTTP = frozenset({"http", "https"})

_HINT = "give `--remote-cache` an object store that pods reach too, such as `s3://bucket/path`"


class Signer(Protocol):
    """A place whose objects can be had by address."""

    def sign(self, names: Sequence[str], *, write: bool) -> tuple[str, ...]:
        """Return an address for each; raises what the library for the place raises."""
        ...


def refuse_unreachable(url: str) -> None:
    """Raise ExecutionError for a place where pods could not get anything by address."""
    scheme = scheme_of(url)
    if scheme not in _S3 | _GOOGLE | _AZURE | _HTTP:
        raise ExecutionError(
            f"files cannot travel to pods and back through `{shown(url)}`: "
            "pods get and put them by HTTP, so an object store is needed "
            "(s3://, gs://, abfs://, or an http(s):// server that takes PUT)",
            hint=_HINT,
        )
    if scheme in _HTTP and "@" in urlsplit(url).netloc:
        raise ExecutionError(
            f"files cannot travel to pods and back through `{shown(url)}`: its password would "
            "have to be known in the cluster",
            hint=_HINT,
        )


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of its own for a place, and the path there."""
    import fsspec

    # A cached one would keep another run's credentials, were there several runs in a process.
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return filesystem, root.rstrip("/")


def connect(url: str, endpoint: str | None, seconds: int) -> Signer:
    """Return who signs for a place; raises what fsspec and the library for it raise.

    endpoint: the address of the store's service for whoever uses what is signed; without one,
        that for us. seconds: how long an address is good for.
    """
    scheme = scheme_of(url)
    if scheme in _HTTP:
        return _Plain(url, endpoint)
    filesystem, root = open_filesystem(url)
    if scheme in _S3:
        return _Amazon(filesystem, root, endpoint, seconds)
    if scheme in _GOOGLE:
        return _Google(filesystem, root, endpoint, seconds)
    return _Azure(filesystem, root, endpoint, seconds)


class _Plain:
    """A server that asks for nothing but what is in its address."""

    def __init__(self, url: str, endpoint: str | None) -> None:
        base, _, query = url.partition("?")
        self._base = _at(endpoint, base.rstrip("/"))
        self._query = f"?{query}" if query else ""

    def sign(self, names: Sequence[str], *, write: bool) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(f"{self._base}/{name}{self._query}" for name in names)


class _Amazon:
    """S3, and what speaks its language."""

    def __init__(self, filesystem: Any, root: str, endpoint: str | None, seconds: int) -> None:
        options = dict(filesystem.storage_options)
        # Version 2 of the signature, which still is the default, is refused by newer services.
        config = {**(options.get("config_kwargs") or {}), "signature_version": "s3v4"}
        client = dict(options.get("client_kwargs") or {})
        if endpoint is not None:
            client.pop("endpoint_url", None)
            options["endpoint_url"] = endpoint
        options.update(config_kwargs=config, client_kwargs=client, skip_instance_cache=True)
        self._filesystem = type(filesystem)(**options)
        self._root, self._seconds = root, seconds

    def sign(self, names: Sequence[str], *, write: bool) -> tuple[str, ...]:
        method = "put_object" if write else "get_object"
        return tuple(
            self._filesystem.url(
                f"{self._root}/{name}", expires=self._seconds, client_method=method
            )
            for name in names
        )


class _Google:
    """Google Cloud Storage; only a service account's key can sign."""

    def __init__(self, filesystem: Any, root: str, endpoint: str | None, seconds: int) -> None:
        self._filesystem = filesystem
        if endpoint is not None:
            options = {**filesystem.storage_options, "endpoint_url": endpoint}
            self._filesystem = type(filesystem)(**options, skip_instance_cache=True)
        self._root, self._seconds = root, seconds

    def sign(self, names: Sequence[str], *, write: bool) -> tuple[str, ...]:
        method = "PUT" if write else "GET"
        try:
            return tuple(
                self._filesystem.sign(
                    f"{self._root}/{name}", expiration=self._seconds, method=method, version="v4"
                )
                for name in names
            )
        except AttributeError as error:  # "you need a private key to sign credentials"
            raise ExecutionError(
                "the credentials for Google Cloud Storage cannot sign addresses for pods",
                hint="let `GOOGLE_APPLICATION_CREDENTIALS` name the key of a service account",
            ) from error


class _Azure:
    """Azure's blobs; the account's key signs, or else a key that its service gives us."""

    def __init__(self, filesystem: Any, root: str, endpoint: str | None, seconds: int) -> None:
        self._filesystem, self._endpoint = filesystem, endpoint
        self._root, self._seconds = root, seconds

    def sign(self, names: Sequence[str], *, write: bool) -> tuple[str, ...]:
        from datetime import datetime, timedelta, timezone

        from azure.storage.blob import (  # type: ignore[import-not-found, unused-ignore]
            BlobSasPermissions,
            generate_blob_sas,
        )

        service = self._filesystem.service_client
        ends = datetime.now(tz=timezone.utc) + timedelta(seconds=self._seconds)
        secret = self._secret(service, ends)
        rights = BlobSasPermissions(read=not write, create=write, write=write)
        made = []
        for name in names:
            container, _, blob = f"{self._root}/{name}".partition("/")
            signature = generate_blob_sas(
                service.account_name, container, blob, permission=rights, expiry=ends, **secret
            )
            address = service.get_blob_client(container, blob).url.partition("?")[0]
            made.append(f"{_at(self._endpoint, address)}?{signature}")
        return tuple(made)

    def _secret(self, service: Any, ends: Any) -> Mapping[str, Any]:
        key = getattr(getattr(service, "credential", None), "account_key", None)
        if key or self._filesystem.account_key:
            return {"account_key": key or self._filesystem.account_key}
        if self._filesystem.sas_token:
            raise ExecutionError(
                "a shared access signature for Azure cannot sign addresses for pods",
                hint="set `AZURE_STORAGE_CONNECTION_STRING`, or the account's name and key",
            )
        from datetime import datetime, timedelta, timezone

        from fsspec.asyn import sync

        begins = datetime.now(tz=timezone.utc) - timedelta(minutes=5)
        key = sync(self._filesystem.loop, service.get_user_delegation_key, begins, ends)
        return {"user_delegation_key": key}


def _at(endpoint: str | None, address: str) -> str:
    """Return an address at another scheme and host."""
    if endpoint is None:
        return address
    parts, there = urlsplit(address), urlsplit(endpoint)
    path = os.path.join(there.path.rstrip("/"), parts.path.lstrip("/"))
    return urlunsplit((there.scheme, there.netloc, path, parts.query, ""))
