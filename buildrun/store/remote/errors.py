"""What went wrong with a remote cache, in words that show no credentials."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from buildrun.console import is_named, redact
from buildrun.store.remote.fs import is_directory, scheme_of
from buildrun.store.remote.transfer import NoProgress, Unwritable


class RemoteProblem(NamedTuple):
    """A warning: what happened with what it means, and a remedy."""

    text: str
    hint: str


def explain(
    error: BaseException,
    url: str,
    environ: Mapping[str, str],
    outcome: str = "going on without it",
) -> RemoteProblem:
    """Return the warning for an error that any library below fsspec may have raised.

    outcome: what it means for the run.
    """
    fact, hint = _classified(error, url)
    text = f"the remote cache `{shown(url)}` {fact}; {outcome}"
    return RemoteProblem(hide(text, url, environ), hide(hint, url, environ))


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
        code = _code(error)
        return not code or code in ("403", "AccessDenied", "Forbidden", "AllAccessDisabled")
    return _status(error) == 403


def is_absent(error: BaseException) -> bool:
    """Return whether the error says that there is no such object, but a place for it."""
    return isinstance(error, FileNotFoundError) and not _no_bucket(error)


_QUERY = re.compile(r"(://[^\s?\"'`<>]+)\?[^\s\"'`<>]+")
_NO_BUCKET = re.compile(r"\b(bucket|container) does not exist", re.IGNORECASE)
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
        "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
        "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError",
        "PasswordRequiredException", "AuthenticationException",
    }
)  # fmt: skip
_UNREACHABLE = frozenset(
    {
        "EndpointConnectionError", "ClientConnectorError", "ClientConnectorDNSError",
        "ServerDisconnectedError", "ConnectionClosedError", "ServiceRequestError",
        "ClientOSError", "ClientConnectionError", "gaierror", "NoValidConnectionsError",
        "ConnectionError", "HTTPClientError", "ProxyConnectionError", "SSLError",
        "ClientPayloadError", "ClientConnectorCertificateError", "SSHException",
        "ResponseStreamingError", "IncompleteReadError",
    }
)  # fmt: skip
_SILENT = frozenset(
    {"ReadTimeoutError", "ConnectTimeoutError", "FSTimeoutError", "TimeoutError",
     "ServerTimeoutError", "ConnectionTimeoutError", "SocketTimeoutError"}
)  # fmt: skip
_EXTRAS = {
    "s3": "buildrun[s3]", "s3a": "buildrun[s3]", "gs": "buildrun[gcs]", "gcs": "buildrun[gcs]",
    "az": "buildrun[azure]", "abfs": "buildrun[azure]", "abfss": "buildrun[azure]",
    "sftp": "paramiko", "ssh": "paramiko",
}  # fmt: skip
_KINDS = {
    "s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az", "sftp": "ssh",
}  # fmt: skip
_WHO = {
    "s3": "set `AWS_PROFILE`, or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`",
    "gs": "run `gcloud auth application-default login`, or set `GOOGLE_APPLICATION_CREDENTIALS`",
    "az": "set `AZURE_STORAGE_CONNECTION_STRING`, or `AZURE_STORAGE_ACCOUNT_NAME` and a key",
    "ssh": "check the user, and the key that ssh-agent or `~/.ssh` offers",
}
_RIGHTS = {
    "s3": "allow `s3:GetObject`, and `s3:PutObject` where results are written",
    "gs": "grant `storage.objects.get`, and `storage.objects.create` where results are written",
    "az": "grant `Storage Blob Data Reader`, or `Contributor` where results are written",
}


def _classified(error: BaseException, url: str) -> tuple[str, str]:
    """Return what the remote cache does, for a sentence, and the remedy: the first that fits."""
    scheme = scheme_of(url)
    kind = _KINDS.get(scheme, scheme)
    here = is_directory(url)
    names = {name for link in _chain(error) for name in _names(link)}
    reason = _reason(error)
    who = _WHO.get(kind, "check your credentials")
    needed = _EXTRAS.get(scheme)
    unknown = isinstance(error, ValueError) and "rotocol" in str(error)
    refused = isinstance(error, PermissionError) and not here
    anonymous = names & _NO_CREDENTIALS or _status(error) == 401 or _no_account(error)
    unreached = names & _UNREACHABLE or isinstance(error, ConnectionError)
    rules: tuple[tuple[object, str, str], ...] = (
        (
            isinstance(error, Unwritable),
            f"sends what cannot be written here: {reason}",
            "make room, or see who may write there",
        ),
        (
            isinstance(error, NoProgress) or names & _SILENT,
            "does not answer",
            "check the address and the network",
        ),
        (
            isinstance(error, ImportError),
            f"needs a library that is not installed: {reason}",
            f"pip install '{needed}'" if needed else "install the library that it names",
        ),
        (
            unknown,
            "is at no address that fsspec knows",
            "give a directory, or an address such as s3://bucket/path",
        ),
        (
            _no_bucket(error) or (isinstance(error, FileNotFoundError) and kind in _RIGHTS),
            "does not exist: there is no such bucket",
            "create it, or check the address",
        ),
        (anonymous, f"gets no valid credentials: {reason}", who),
        (
            is_denied(error) and not here,
            f"denies access: {reason}",
            _RIGHTS.get(kind, "check your credentials and rights"),
        ),
        (refused, f"does not accept the credentials: {reason}", who),
        (unreached, f"cannot be reached: {reason}", "check the address and the network"),
        (True, f"failed: {reason}", _last_hint(error, url)),
    )
    return next((fact, hint) for holds, fact, hint in rules if holds)


def _last_hint(error: BaseException, url: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room, or remove old results there"
    if is_directory(url):
        return "check that the directory is there and that you may use it"
    return "check the address, your credentials and the network"


def _no_bucket(error: BaseException) -> bool:
    if _code(error) in ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName"):
        return True
    return _NO_BUCKET.search(str(error)) is not None


def _no_account(error: BaseException) -> bool:
    return isinstance(error, ValueError) and "account_name" in str(error)


def _code(error: BaseException) -> str:
    """Return the service's own name of the error, if it can be found."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping) and isinstance(response.get("Error"), Mapping):
            return str(response["Error"].get("Code", ""))
        if isinstance(code := getattr(link, "error_code", None), str):
            return code
    return ""


def _status(error: BaseException) -> int:
    for link in _chain(error):
        for name in ("status", "status_code", "code"):
            if isinstance(status := getattr(link, name, None), int):
                return status
    return 0


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.strerror:
        return error.strerror.splitlines()[0] if error.strerror.strip() else type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        lines[0].removeprefix("[Errno None] ").rstrip(".")[:300] if lines else type(error).__name__
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(8):  # a chain may be a ring
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _names(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__:
        yield kind.__name__


def _secrets(url: str, environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if len(value) >= 6 and is_named(name) and not os.path.exists(value):
            yield value
    if "://" not in url:
        return
    rest = url.partition("://")[2]
    user, at, _ = rest.partition("/")[0].rpartition("@")
    password = user.partition(":")[2]
    query = urlsplit(url).query
    token = user if at and scheme_of(url) in ("http", "https") else ""
    for text in (password, token, query, *(value for _, value in parse_qsl(query))):
        for form in (text, unquote(text)):
            if len(form) >= 3:
                yield form
