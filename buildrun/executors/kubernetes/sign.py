"""Presigned URLs: s3fs and gcsfs sign; Azure's library and other endpoints are called here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
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

# Returns the URL of an object by its name and a method, GET or PUT.
Signer = Callable[[str, str], str]


def refuse_unreachable(url: str) -> None:
    """Raise ExecutionError for a remote cache that pods cannot use by presigned URLs."""
    scheme = scheme_of(url)
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


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of its own for a place, and the path there."""
    import fsspec

    # A cached one would keep another run's credentials, were there several runs in a process.
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return filesystem, root.rstrip("/")


def connect(url: str, endpoint: str | None, seconds: int) -> Signer:
    """Return the signer of a remote cache; raises what fsspec and the library for it raise.

    endpoint: the address of the service in the URLs, where it is another one than ours.
    seconds: how long a URL is good for.
    """
    scheme = scheme_of(url)
    if scheme in _HTTP:
        base, mark, query = url.partition("?")
        base = _at(endpoint, base.rstrip("/"))
        return lambda name, _: f"{base}/{name}{mark}{query}"
    filesystem, root = open_filesystem(url)
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
