"""The program that runs in a pod: downloads inputs, runs the command, uploads outputs.

It runs in images of others, with Python 3.6 or newer and the standard library alone.
"""

import os
import sys

if __name__ == "__main__" and os.environ.get("PYTHONPATH"):
    # A module of the project must not be taken for one of the standard library.
    _project = {os.path.abspath(_place) for _place in os.environ["PYTHONPATH"].split(os.pathsep)}
    sys.path[:] = [_place for _place in sys.path if os.path.abspath(_place) not in _project]

import errno
import hashlib
import http.client
import json
import random
import re
import resource
import shutil
import signal
import ssl
import stat
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import IO, Any

# Exit codes: inputs could not be fetched, the command not started, outputs not delivered.
FETCH, START, NOT_FOUND, DELIVER = 121, 126, 127, 122
_KINDS = {FETCH: "fetch", START: "start", NOT_FOUND: "start", DELIVER: "deliver"}

_PIECE = 1 << 16
_TIMEOUT = 120  # seconds without a byte
# Failures in a row after which an object is given up, and the longest pauses between two, in
# seconds: our own, and one that a server asks for.
_TRIES, _LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 8, 20.0, 60.0
# Trying again helps after these (too slow, too early, too many) and 5xx, except where the server
# does not implement the method or the version of HTTP.
_TRANSIENT, _PERMANENT = (408, 425, 429), (501, 505)
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "RequestExpired")
# The name of an error in an object store's XML; the rest of it may show the signature.
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
# Certificate authorities; OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR by itself.
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")

_TIME = 315619200  # as in buildrun.workspace.archive
_ENCODING = ("utf-8", "surrogateescape")
_DIFFERS, _CUT, _DAMAGED = (
    "its digest differs", "the archive ends too early", "the archive is damaged",
)  # fmt: skip
DAMAGES = (_DIFFERS, _CUT, _DAMAGED)
# The kinds of members that buildrun writes, each with the most bytes of its content. A pax
# header holds a path and a link target, of 4 KiB at most each.
_SIZES = {
    tarfile.REGTYPE: 1 << 60,
    tarfile.SYMTYPE: 0,
    tarfile.DIRTYPE: 0,
    tarfile.XHDTYPE: 1 << 16,
}

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FORWARDED = (*_ENDING, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class TransferError(Exception):
    """A download or upload that failed; the text shows no credentials."""


class Failure(Exception):
    """Why the command did not run, or its outputs were not delivered: exit code and message."""


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Opens URLs of servers that may refuse a body before they have read all of it, and close.

    The answer says why; that the rest of the body could not be sent does not.
    """

    def do_open(self, http_class: "Any", req: "Any", **options: "Any") -> "Any":
        class Connection(http_class):  # type: ignore[misc]
            def request(self, *arguments: "Any", **keywords: "Any") -> None:
                try:
                    super().request(*arguments, **keywords)
                except (BrokenPipeError, ConnectionResetError):
                    if self.sock is None:
                        raise

        return super().do_open(Connection, req, **options)


class HttpClient:
    """Requests to presigned URLs, through the proxies of the environment.

    pause: seconds before the second try; each further pause is twice as long.
    """

    def __init__(self, pause: float = 0.5) -> None:
        """Connect to nothing yet."""
        self._pause = pause
        self._opener = None  # type: urllib.request.OpenerDirector | None

    def open(self, url: str, **request: "Any") -> "http.client.HTTPResponse":
        """Return the response to a ``urllib.request.Request``; raises what urllib raises.

        A path takes the place of a URL where the store is a directory there.
        """
        if url.startswith("/"):
            return open(_local(url), "rb")  # type: ignore[return-value]
        if not url.startswith(("http://", "https://")):
            raise ValueError("not an HTTP address")
        if self._opener is None:
            self._opener = urllib.request.build_opener(_Handler(context=_tls_context()))
        made = urllib.request.Request(url, **request)  # noqa: S310
        return self._opener.open(made, timeout=_TIMEOUT)  # type: ignore[no-any-return]

    def put(self, url: str, file: "IO[bytes]", what: str) -> None:
        """Upload a file; raises TransferError.

        what: the object's name in messages.
        """
        headers = {
            "Content-Length": str(file.seek(0, os.SEEK_END)),
            "Content-Type": "application/octet-stream",
        }
        if {"sig", "sv"} <= urllib.parse.parse_qs(urllib.parse.urlsplit(url).query).keys():
            headers["x-ms-blob-type"] = "BlockBlob"  # Azure wants to be told
        failures = redirects = 0
        while True:
            file.seek(0)
            try:
                if url.startswith("/"):
                    _copy(file, _local(url))
                    return
                with self.open(url, data=file, headers=headers, method="PUT") as response:
                    response.read(_PIECE)
                return
            except Exception as error:
                # urllib follows such redirects of downloads alone.
                is_moved = getattr(error, "code", 0) in (307, 308) and redirects < 3
                target = error.headers.get("Location") if is_moved else None  # type: ignore[attr-defined]
                if target:
                    url = urllib.parse.urljoin(url, target)
                    redirects += 1
                else:
                    failures = self.wait_to_retry(error, failures, what)

    def wait_to_retry(self, error: Exception, failures: int, what: str) -> int:
        """Wait before the next try, and count the failure; raises TransferError for the last one.

        failures: the tries in a row that failed before. what: the object's name in messages.
        """
        if isinstance(error, TransferError):
            raise error
        fact, is_transient = _classify(error)
        if not is_transient or failures + 1 >= _TRIES:
            raise TransferError(f"{what}: {fact}") from None
        asked = str((getattr(error, "headers", None) or {}).get("Retry-After"))
        pause = min(self._pause * 2**failures, _LONGEST_PAUSE)
        # The pods of a project meet the same trouble at once; they must not return at once.
        pause = random.uniform(pause / 2, pause)  # noqa: S311
        time.sleep(max(pause, min(int(asked), _LONGEST_RETRY_AFTER) if asked.isdigit() else 0))
        return failures + 1


def _local(path: str) -> bytes:
    """Return where a path of a store is that is a directory; tests have it below another one."""
    return os.fsencode(os.environ.get("BUILDRUN_DRIVER_ROOT", "") + path)


def _copy(file: "IO[bytes]", path: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # From the beginning to the end: volumes of Databricks take nothing else.
    with open(path, "wb") as target:
        shutil.copyfileobj(file, target, 1 << 20)


def _tls_context() -> "ssl.SSLContext":
    """Return a context with the variables' authorities, else the system's, else certifi's."""
    named = [path for path in map(os.environ.get, _CA_VARIABLES) if path and os.path.exists(path)]
    path = named[0] if named else None
    system = ssl.get_default_verify_paths()
    if not (path or system.cafile or system.capath):
        try:
            import certifi

            path = certifi.where()
        except ImportError:
            pass
    is_directory = path is not None and os.path.isdir(path)
    cafile, capath = (None, path) if is_directory else (path, None)
    return ssl.create_default_context(cafile=cafile, capath=capath)


def _classify(error: Exception) -> "tuple[str, bool]":
    """Return what happened, without the URL, and whether it may pass."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            found = _ERROR_CODE.search(error.read(1 << 14))
        except (OSError, http.client.HTTPException):
            found = None
        error.close()
        name = found.group(1).decode() if found else ""
        fact = f"the store answers {error.code}" + (f" ({name})" if name else "")
        if error.code in (401, 403) or name in _EXPIRED:
            fact += ", as it does when an address has expired"
        is_server = error.code >= 500 and error.code not in _PERMANENT
        return fact, is_server or error.code in _TRANSIENT
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, OSError):
        fact = (cause.strerror or str(cause) or type(cause).__name__).splitlines()[0]
        is_final = isinstance(cause, (FileNotFoundError, PermissionError))
        return fact, not is_final and "CERTIFICATE" not in str(getattr(cause, "reason", ""))
    if isinstance(cause, (str, ValueError, http.client.InvalidURL)):
        return "the address is not valid", False
    return f"the connection broke ({type(cause).__name__})", True


class MultipartReader:
    """The bytes of several objects, one behind the other; a broken download begins again.

    what: the objects' name in messages, such as ``the inputs``.
    """

    def __init__(self, client: "HttpClient", urls: "Sequence[str]", what: str) -> None:
        """Connect to nothing yet."""
        self._what = what
        self._pieces = _download(client, urls, what)
        self._hash = hashlib.sha256()
        self._size = 0

    def read(self, _size: int = -1) -> bytes:
        """Return some bytes, none at the end alone; raises TransferError."""
        piece = next(self._pieces, b"")
        self._hash.update(piece)
        self._size += len(piece)
        return piece

    def finish(self, sha256: "str | None", size: "int | None" = None) -> None:
        """Read to the end; raises TransferError for another size or digest."""
        while self.read():
            pass
        if size is not None and size != self._size:
            raise TransferError(f"{self._what}: {self._size} bytes instead of {size}")
        if sha256 is not None and sha256 != self._hash.hexdigest():
            raise TransferError(f"{self._what}: not what was sent, {_DIFFERS}")

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._pieces.close()


def _download(
    client: "HttpClient", urls: "Sequence[str]", what: str
) -> "Generator[bytes, None, None]":
    for number, url in enumerate(urls, 1):
        seen = failures = 0
        done = False
        while not done:
            try:
                with client.open(url, headers={"Accept-Encoding": "identity"}) as response:
                    position = 0
                    while not done:
                        piece = response.read(_PIECE)
                        position += len(piece)
                        # http.client ends a body that was cut without an error.
                        if not piece and getattr(response, "length", None):
                            reason = "the connection ended too early"
                            raise ConnectionAbortedError(errno.ECONNABORTED, reason)
                        if position > seen:
                            yield piece[seen - position :]
                            seen, failures = position, 0
                        done = not piece
            except Exception as error:
                failures = client.wait_to_retry(error, failures, f"object {number} of {what}")


class _ArchiveReader:
    """The members of an archive, of the kinds that buildrun writes.

    Not by `tarfile`, where nothing keeps what is not wanted from being read.
    """

    def __init__(self, stream: "IO[bytes] | MultipartReader") -> None:
        self._stream = stream
        self._piece = memoryview(b"")

    def members(self) -> "Iterator[tuple[bytes, bytes, int, int, bytes]]":
        """Yield the name, kind, mode, size and link target of each; then its content is next."""
        extra = {}  # type: dict[bytes, bytes]
        while True:
            block = self._read(tarfile.BLOCKSIZE)
            if not any(block):
                return
            kind, mode, size = block[156:157], _octal(block[100:108]), _octal(block[124:136])
            rest = block[:148] + b" " * 8 + block[156:]
            if _octal(block[148:156]) != sum(rest):
                raise TransferError(_DAMAGED)
            name = extra.get(b"path", _text(block[345:500]) + _text(block[:100]))
            if b"size" in extra:
                size = _number(extra[b"size"], 10)
            if not 0 <= size <= _SIZES.get(kind, -1):
                raise TransferError(f"the archive holds `{shown(name)}` of a kind that is not used")
            if kind == tarfile.XHDTYPE:
                extra = _pax_records(b"".join(self.content(size)))
                continue
            if kind == tarfile.DIRTYPE:
                name = name.rstrip(b"/")
            target = extra.get(b"linkpath", _text(block[157:257]))
            extra = {}
            yield name, kind, mode, size, target

    def content(self, size: int) -> "Iterator[bytes | memoryview]":
        """Yield as many bytes, and pass over what fills the last block."""
        left = size
        while left:
            piece = self._next(left)
            left -= len(piece)
            yield piece
        self._read(-size % tarfile.BLOCKSIZE)

    def _read(self, size: int) -> bytes:
        pieces = []  # type: list[memoryview]
        while size:
            pieces.append(self._next(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def _next(self, most: int) -> memoryview:
        if not self._piece:
            self._piece = memoryview(self._stream.read(_PIECE))
        if not self._piece:
            raise TransferError(_CUT)
        piece, self._piece = self._piece[:most], self._piece[most:]
        return piece


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int:
    return _number(_text(field).strip() or b"0", 8)


def _number(text: bytes, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise TransferError(_DAMAGED) from None


def _pax_records(content: bytes) -> "dict[bytes, bytes]":
    """Return what a pax header says of the member behind it: POSIX.1-2001, "pax"."""
    found = {}  # type: dict[bytes, bytes]
    while content:
        digits = content.partition(b" ")[0]
        length = _number(digits, 10)
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        known = key in (b"path", b"linkpath", b"size", b"hdrcharset")
        ends = length > len(digits) and content[length - 1 : length] == b"\n"
        if not (equals and known and ends):
            raise TransferError(_DAMAGED)
        found[key] = value
        content = content[length:]
    return found


class Unpacker:
    """Unpacks an archive into a directory; what it holds replaces what is there.

    Where it holds a directory, the old one goes with all that is in it. Nothing is made twice,
    nor through a link that leaves the directory.
    """

    def __init__(self, root: bytes, *, any_links: bool = False) -> None:
        """Take the directory; with ``any_links`` links of the archive may lead out of it."""
        self._root = os.path.realpath(root)
        self._any_links = any_links
        # Directories with their real paths, None for files and links.
        self._paths = {b"": self._root}  # type: dict[bytes, bytes | None]

    def unpack(
        self, stream: "IO[bytes] | MultipartReader", accept: "Callable[[bytes], None] | None" = None
    ) -> None:
        """Make what an archive holds; raises TransferError, and OSError where it cannot be made.

        accept: is called with each name before it is made, and may raise.
        """
        archive = _ArchiveReader(stream)
        for name, kind, mode, size, target in archive.members():
            if b"\0" in name or {b"", b".", b".."} & set(name.split(b"/")):
                raise TransferError(f"the archive holds `{shown(name)}`, which lies outside")
            if accept is not None:
                accept(name)
            if name in self._paths:
                raise TransferError(f"the archive holds `{shown(name)}` twice")
            path = self._path(name)
            self._paths[name] = None
            if kind == tarfile.SYMTYPE:
                self._link(name, path, target)
            elif kind == tarfile.DIRTYPE:
                _remove(path)
                try:
                    os.mkdir(path)
                except FileExistsError:
                    pass  # it is a mount, which has been emptied
                self._paths[name] = path
            else:
                _remove(path)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with open(os.open(path, flags, 0o777 if mode & 0o100 else 0o666), "wb") as file:
                    for piece in archive.content(size):
                        file.write(piece)

    def _link(self, name: bytes, path: bytes, target: bytes) -> None:
        if not target or b"\0" in target:
            raise TransferError(_DAMAGED)
        if not self._any_links and not stays(name, target):
            raise TransferError(f"`{shown(name)}` is a link that leads out")
        _remove(path)
        os.symlink(target, path)

    def _path(self, name: bytes) -> bytes:
        above, _, last = name.rpartition(b"/")
        return os.path.join(self._directory(above), last)

    def _directory(self, name: bytes) -> bytes:
        """Return the real path of a directory, which is made where it is not there."""
        if name not in self._paths:
            path = self._path(name)
            try:
                os.mkdir(path)
            except FileExistsError:
                path = os.path.realpath(path)
                if not path.startswith(self._root.rstrip(b"/") + b"/"):
                    raise TransferError(f"`{shown(name)}` is a link that leads out") from None
            self._paths[name] = path
        found = self._paths[name]
        if found is None:
            raise TransferError(f"the archive holds something in `{shown(name)}`, no directory")
        return found


def stays(name: bytes, target: bytes) -> bool:
    """Return whether a link leads to a place inside the tree, whatever else is a link.

    So `..` may stand at the beginning only: behind a name it climbs from wherever that leads.
    """
    parts = target.split(b"/")
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    return parts[0] != b"" and climbs <= name.count(b"/") and b".." not in parts[climbs:]


def _remove(path: bytes) -> None:
    """Remove what is there with all that is in it; a mount stays, empty."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
        for name in os.listdir(path):
            _remove(os.path.join(path, name))
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EACCES, errno.EPERM):
                raise


def packed(root: bytes, outputs: "Iterable[bytes]") -> "Iterator[bytes]":
    """Yield an archive of the outputs that are there, nothing where none is.

    Raises TransferError for what is no file, link or directory, or changes meanwhile.
    """
    waiting = [
        name for name in sorted(outputs, reverse=True) if os.path.lexists(os.path.join(root, name))
    ]
    if not waiting:
        return
    while waiting:
        name = waiting.pop()
        path = os.path.join(root, name)
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            yield _header(name, tarfile.DIRTYPE, 0o755)
            waiting += [name + b"/" + child for child in sorted(os.listdir(path), reverse=True)]
        elif stat.S_ISLNK(status.st_mode):
            yield _header(name, tarfile.SYMTYPE, 0o777, target=os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            yield from _packed_file(name, path)
        else:
            raise TransferError(f"output `{shown(name)}` is neither a file nor a directory")
    yield bytes(2 * tarfile.BLOCKSIZE)


def _packed_file(name: bytes, path: bytes) -> "Iterator[bytes]":
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        mode = 0o755 if before.st_mode & 0o100 else 0o644
        yield _header(name, tarfile.REGTYPE, mode, size=before.st_size)
        left = before.st_size
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                break
            left -= len(piece)
            yield piece
        after = os.fstat(descriptor)
    if left or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise TransferError(f"output `{shown(name)}` changes while it is read")
    yield bytes(-before.st_size % tarfile.BLOCKSIZE)


def _header(name: bytes, kind: bytes, mode: int, size: int = 0, target: bytes = b"") -> bytes:
    member = tarfile.TarInfo(name.decode(*_ENCODING))
    member.type, member.mode, member.size, member.mtime = kind, mode, size, _TIME
    member.linkname = target.decode(*_ENCODING)
    return member.tobuf(tarfile.PAX_FORMAT, *_ENCODING)


def upload(
    client: "HttpClient",
    urls: "Sequence[str]",
    part: int,
    pieces: "Iterable[bytes]",
    growth: int = 1,
) -> "dict[str, Any]":
    """Upload a stream in parts; return the number of parts, and the size and digest of all.

    part: the bytes of the first eight parts. Each further eight are larger by as much, times
    ``growth``, so that a few URLs are enough for much. Each part is kept in a temporary file until
    it is uploaded. Raises TransferError, and OSError where the file cannot be written.
    """
    sizes = [part * (1 + growth * (number // 8)) for number in range(len(urls))]
    digest, size, number = hashlib.sha256(), 0, 0
    with tempfile.TemporaryFile() as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            if size > sum(sizes):
                raise TransferError(f"the outputs are larger than {sum(sizes)} bytes")
            while piece:
                room = sizes[number] - file.tell()
                file.write(piece[:room])
                piece = piece[room:]  # noqa: PLW2901
                if file.tell() == sizes[number]:
                    client.put(urls[number], file, f"part {number + 1} of the outputs")
                    file.seek(0)
                    file.truncate()
                    number += 1
        if file.tell():
            client.put(urls[number], file, f"part {number + 1} of the outputs")
            number += 1
    return {"parts": number, "size": size, "sha256": digest.hexdigest()}


def run(argv: "Sequence[bytes]", workdir: bytes) -> int:
    """Run a command and return its exit code, 128 and the signal's number where one ended it.

    Signals are forwarded to it, and orphans are reaped. In the first process of a container
    the end of the command ends all others too. Raises Failure where it cannot be started.
    """
    waiting = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN}
    waiting.add(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or the system may reap the command
    # Blocked, they wait for `sigwait`, so that none is lost.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        child = _start(argv, workdir, mask)
        while child.returncode is None:
            number = signal.sigwait(waiting)
            if number == signal.SIGCHLD:
                _reap(child)
            else:
                os.kill(child.pid, number)  # not reaped yet, so no other process has its number
        if os.getpid() == 1:
            _end_others()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return child.returncode


def _start(argv: "Sequence[bytes]", workdir: bytes, mask: "set[Any]") -> "subprocess.Popen[bytes]":
    try:
        os.chdir(workdir)
    except OSError as error:
        text = f"the command cannot be run in `{shown(workdir)}`: {error.strerror}"
        raise Failure(START, text) from None
    try:
        return subprocess.Popen(
            argv,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),  # noqa: PLW1509
        )
    except OSError as error:
        code = NOT_FOUND if error.errno == errno.ENOENT else START
        # Python 3.6 adds the path to `strerror`.
        reason = os.strerror(error.errno or errno.EIO)
        raise Failure(code, f"`{shown(argv[0])}` cannot be run: {reason}") from None


def _reap(child: "subprocess.Popen[bytes]") -> None:
    """Reap all processes that have ended; the command gets its exit code."""
    while child.returncode is None:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not ended:
            break
        if ended == child.pid:
            ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            child.returncode = 128 + ended_by if ended_by else os.WEXITSTATUS(status)


def _end_others() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except OSError:
        pass  # there are none any more


def run_task(task: "Any") -> int:
    """Do what a task says and return the command's exit code; raises Failure."""
    client = HttpClient(task.get("pause", 0.5))
    workdir = _bytes(task["workdir"])
    mask = os.umask(0o002)  # the group may do what the owner may, as in the image
    if task.get("only") is not None:
        with _failing(START, "what is not declared cannot be removed", workdir):
            keep_only(workdir, *(map(_bytes, task["only"][k]) for k in ("keep", "directories")))
    with _failing(FETCH, "inputs cannot be written", workdir):
        _fetch(client, task["inputs"], workdir)
    os.umask(mask)
    began = time.monotonic()
    code = run([_bytes(word) for word in task["argv"]], workdir)
    seconds = time.monotonic() - began
    if code == 0 and task.get("done"):
        with _failing(DELIVER, "outputs cannot be delivered", os.fsencode(tempfile.gettempdir())):
            _deliver(client, task, workdir, seconds)
    return code


def keep_only(workdir: bytes, keep: "Iterable[bytes]", directories: "Iterable[bytes]") -> None:
    """Remove what is in a directory and not to be kept, and make some directories in it.

    The paths are relative to it. Volumes that are mounted there stay as they are; if it lies in
    one itself, all stays. Raises OSError.
    """
    top = os.path.realpath(workdir)
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = {_unescaped(line.split(b" ")[4]) for line in file}
    above = top
    while above not in mounts and above != b"/":
        above = os.path.dirname(above)
    if above == b"/" and os.path.isdir(top):
        _prune(top, {os.path.join(top, path) for path in keep} | mounts)
    for path in directories:
        os.makedirs(os.path.join(top, path), exist_ok=True)


def _unescaped(path: bytes) -> bytes:
    """Return a path of `proc_pid_mountinfo(5)`, which has some characters as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes((int(found.group(1), 8),)), path)


def _prune(directory: bytes, kept: "set[bytes]") -> bool:
    """Remove all that is not kept, and return whether nothing is left."""
    is_empty = True
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if path in kept:
            is_empty = False
        elif not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
        elif _prune(path, kept):
            os.rmdir(path)
        else:
            is_empty = False
    return is_empty


def _fetch(client: "HttpClient", inputs: "Any", workdir: bytes) -> None:
    os.makedirs(workdir, exist_ok=True)
    for number, item in enumerate(inputs):
        what = "the inputs" if len(inputs) == 1 else f"archive {number + 1} of the inputs"
        with closing(MultipartReader(client, item["urls"], what)) as stream:
            if item["urls"]:
                within = item["root"] == "workdir"
                top = workdir if within else _bytes(item["root"])
                os.makedirs(top, exist_ok=True)
                Unpacker(top, any_links=not within).unpack(stream)
            stream.finish(item["sha256"])


def _deliver(client: "HttpClient", task: "Any", workdir: bytes, seconds: float) -> None:
    outputs = [_bytes(path).rstrip(b"/") for path in task["outputs"]]
    pieces, growth = packed(workdir, outputs), task.get("growth", 1)
    delivery = upload(client, task["deliver"], task["part"], pieces, growth)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    delivery.update(version=1, exit_code=0, seconds=round(seconds, 3))
    delivery.update(
        cpu_seconds=round(used.ru_utime + used.ru_stime, 3), peak_memory=used.ru_maxrss * 1024
    )
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(delivery, sort_keys=True).encode())
        client.put(task["done"], file, "the end of the outputs")


@contextmanager
def _failing(code: int, what: str, default_path: bytes) -> "Iterator[None]":
    """Turn errors into Failure with an exit code."""
    try:
        yield
    except TransferError as error:
        raise Failure(code, str(error)) from None
    except OSError as error:
        path = shown(os.fsencode(error.filename) if error.filename else default_path)
        reason = error.strerror or type(error).__name__
        raise Failure(code, f"{what}: `{path}`: {reason}") from None


def _bytes(text: str) -> bytes:
    """Return a path or word as the system wants it, whatever the locale is."""
    return text.encode(*_ENCODING)


def shown(name: bytes) -> str:
    """Return a name on one line, with nothing that a terminal would act on."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _read(path: str) -> "Any":
    try:
        with open(path, "rb") as file:
            task = json.loads(file.read().decode())
    except OSError as error:
        raise Failure(START, f"the task cannot be read: {error.strerror}") from None
    except ValueError:
        raise Failure(START, "the task cannot be read: it is damaged") from None
    if not isinstance(task, dict) or task.get("version") != 1:
        raise Failure(START, "the task is of another version of buildrun")
    return task


def _report(kind: str, message: str, log: str) -> None:
    """Tell a failure on standard error and in the pod's status."""
    sys.stderr.write(f"buildrun: {message}\n")
    sys.stderr.flush()
    if os.path.exists(log):
        try:
            with open(log, "w") as file:
                json.dump({"buildrun": kind, "message": message[:1000]}, file)
        except OSError:
            pass  # standard error has it


def _stop(number: int, _frame: "object") -> None:
    os.write(2, f"buildrun: stopped by {signal.Signals(number).name}\n".encode())
    sys.exit(128 + number)


def main(argv: "Sequence[str]") -> int:
    """Do what the task in a file says and return the exit code."""
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "task.json")
    log = "/dev/termination-log"
    for number in _ENDING:
        # The first process of a container gets no signal that it does not handle.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        task = _read(argv[1] if len(argv) > 1 else beside)
        log = task.get("log", log)
        return run_task(task)
    except Failure as failure:
        code, message = failure.args
        _report(_KINDS[code], message, log)
        return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
