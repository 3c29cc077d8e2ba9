"""What went wrong with a remote cache, in words that show no credentials."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from buildrun.console import is_named, redact
from buildrun.store.remote.fs import is_directory, scheme_of
from buildrun.store.remote.transfer import NoProgress, Unwritable


class _Service(NamedTuple):
    """Remedies for one kind of remote: what to install, how to log in, what to be granted."""

    library: str = ""
    login: str = "check your credentials"
    rights: str = ""


_S3 = _Service(
    "buildrun[s3]",
    "set `AWS_PROFILE`, or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`",
    "allow `s3:GetObject`, and `s3:PutObject` where results are written",
)
_GOOGLE = _Service(
    "buildrun[gcs]",
    "run `gcloud auth application-default login`, or set `GOOGLE_APPLICATION_CREDENTIALS`",
    "grant `storage.objects.get`, and `storage.objects.create` where results are written",
)
_AZURE = _Service(
    "buildrun[azure]",
    "set `AZURE_STORAGE_CONNECTION_STRING`, or `AZURE_STORAGE_ACCOUNT_NAME` and a key",
    "grant `Storage Blob Data Reader`, or `Contributor` where results are written",
)
_SSH = _Service("paramiko", "check the user, and the key that ssh-agent or `~/.ssh` offers")
_SERVICES = {
    "s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE, "az": _AZURE, "abfs": _AZURE,
    "abfss": _AZURE, "adl": _AZURE, "sftp": _SSH, "ssh": _SSH,
}  # fmt: skip

# Exceptions, or classes of them, by name, since their libraries may not be installed.
_NO_CREDENTIALS = frozenset(
    {"AuthenticationException", "ClientAuthenticationError", "CredentialRetrievalError",
     "DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "RefreshError",
     "SSOError", "TokenRetrievalError"}
)  # fmt: skip
_UNREACHABLE = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError",
     "IncompleteReadError", "NoValidConnectionsError", "SSHException", "SSLError",
     "ServiceRequestError", "gaierror"}
)  # fmt: skip
_SILENT = frozenset({"ConnectTimeoutError", "ReadTimeoutError", "TimeoutError"})
_NO_BUCKET = re.compile(r"\b(bucket|container) does not exist", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s?\"'`<>]+)\?[^\s\"'`<>]+")


def explain(
    error: BaseException, url: str, environ: Mapping[str, str], outcome: str = "going on without it"
) -> tuple[str, str]:
    """Return a warning and a remedy for any error below fsspec; outcome: what it means."""
    fact, hint = _classified(error, url)
    text = f"the remote cache `{shown(url)}` {fact}; {outcome}"
    return hide(text, url, environ), hide(hint, url, environ)


def shown(url: str) -> str:
    """Return the address without user, password and query."""
    head, separator, rest = url.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{head}://{host.rpartition('@')[2]}{slash}{path}" if separator else url


def hide(text: str, url: str, environ: Mapping[str, str]) -> str:
    """Return the text without credentials of the address or the environment, nor queries."""
    for secret in sorted(_secrets(url, environ), key=len, reverse=True):
        text = text.replace(secret, "…")
    return _QUERY.sub(r"\1?…", redact(text))


def is_denied(error: BaseException) -> bool:
    """Return whether the error says that whoever we are may not do this.

    S3 and the like also say so of an object that does not exist, to those who may not list.
    """
    if isinstance(error, PermissionError):
        return _code(error) in ("", "403", "AccessDenied", "Forbidden", "AllAccessDisabled")
    return _status(error) == 403


def is_absent(error: BaseException) -> bool:
    """Return whether the error says that there is no such object, but a place for it."""
    return isinstance(error, FileNotFoundError) and not _says_no_bucket(error)


def _classified(error: BaseException, url: str) -> tuple[str, str]:
    """Return what the remote cache does, for a sentence, and the remedy: the first that fits."""
    service = _SERVICES.get(scheme_of(url), _Service())
    here = is_directory(url)
    names = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    reason = _reason(error)
    library = f"pip install '{service.library}'" if service.library else ""
    absent = isinstance(error, FileNotFoundError) and service.rights
    is_value = isinstance(error, ValueError)
    anonymous = names & _NO_CREDENTIALS or _status(error) == 401
    network = "check the address and the network"
    rules: tuple[tuple[object, str, str], ...] = (
        (isinstance(error, Unwritable), f"sends what cannot be written here: {reason}",
         "make room, or see who may write there"),
        (isinstance(error, NoProgress) or names & _SILENT, "does not answer", network),
        (isinstance(error, ImportError), f"needs a library that is not installed: {reason}",
         library or "install the library that it names"),
        (is_value and "rotocol" in str(error), "is at no address that fsspec knows",
         "give a directory, or an address such as s3://bucket/path"),
        (absent or _says_no_bucket(error), "does not exist: there is no such bucket",
         "create it, or check the address"),
        (anonymous or (is_value and "account_name" in str(error)),
         f"gets no valid credentials: {reason}", service.login),
        (is_denied(error) and not here, f"denies access: {reason}",
         service.rights or "check your credentials and rights"),
        (isinstance(error, PermissionError) and not here,
         f"does not accept the credentials: {reason}", service.login),
        (names & _UNREACHABLE, f"cannot be reached: {reason}", network),
        (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT),
         f"failed: {reason}", "make room, or remove old results there"),
        (here, f"failed: {reason}", "check that the directory is there and that you may use it"),
        (True, f"failed: {reason}", "check the address, your credentials and the network"),
    )  # fmt: skip
    return next((fact, hint) for holds, fact, hint in rules if holds)


def _says_no_bucket(error: BaseException) -> bool:
    if _code(error) in ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName"):
        return True
    return _NO_BUCKET.search(str(error)) is not None


def _code(error: BaseException) -> str:
    """Return the service's own name of the error, if it can be found."""
    response = _attribute(error, Mapping, "response")
    if response is not None and isinstance(response.get("Error"), Mapping):
        return str(response["Error"].get("Code", ""))
    return _attribute(error, str, "error_code") or ""


def _status(error: BaseException) -> int:
    """Return the status of an HTTP answer, if it can be found."""
    return _attribute(error, int, "status", "status_code", "code") or 0


def _attribute(error: BaseException, kind: type[Any], *names: str) -> Any:
    """Return the first attribute of that type and a name of those, down the chain of errors."""
    values = (getattr(link, name, None) for link in _chain(error) for name in names)
    return next((value for value in values if isinstance(value, kind)), None)


def _reason(error: BaseException) -> str:
    """Return the first line of what the error says."""
    known = isinstance(error, OSError) and error.errno and error.strerror
    lines = str(known or error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().removeprefix("[Errno None] ").rstrip(".")[:300]


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(8):  # a chain may be a ring
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _secrets(url: str, environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if len(value) >= 6 and is_named(name) and not os.path.exists(value):
            yield value
    if "://" not in url:
        return
    user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    query = urlsplit(url).query
    token = user if at and scheme_of(url) in ("http", "https") else ""
    for text in (user.partition(":")[2], token, query, *dict(parse_qsl(query)).values()):
        yield from (form for form in (text, unquote(text)) if len(form) >= 3)
