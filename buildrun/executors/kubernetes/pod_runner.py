"""The program in the pod: brings inputs, runs the command, sends outputs.

Runs in images of others with their Python 3.6 or newer and nothing but the standard library.
"""

import os
import sys

if __name__ == "__main__" and os.environ.get("PYTHONPATH"):
    # The project's modules, however they are named, must not stand before the library's.
    _theirs = {os.path.abspath(_place) for _place in os.environ["PYTHONPATH"].split(os.pathsep)}
    sys.path[:] = [_place for _place in sys.path if os.path.abspath(_place) not in _theirs]

import errno
import hashlib
import http.client
import json
import random
import re
import signal
import ssl
import stat
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import IO, Any

FETCH, START, DELIVER = "fetch", "start", "deliver"
CODES = {FETCH: 121, START: 126, DELIVER: 122}
NOT_FOUND = 127

CHUNK = 1 << 20
# Seconds that a connection may be silent.
_SILENCE = 120
# Failures in a row after which an object is given up, and the longest pause between two, seconds.
_TRIES = 8
_LONGEST_PAUSE = 20.0
# Beside 5xx: too slow, too early, too many.
_PASSING = frozenset({408, 425, 429})
_LASTING = frozenset({501, 505})
_MOVED = frozenset({307, 308})
# What an object store calls an error, in its XML; the rest of it may show what was signed.
_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "RequestExpired"})
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
# Variables that name the authorities to trust; OpenSSL looks at its own, SSL_CERT_FILE, by itself.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")

BLOCK = 512
_END = bytes(2 * BLOCK)
_FILE, _LINK, _DIRECTORY, _PAX = b"0", b"2", b"5", b"x"
_FIELD = 100
_LARGE = 8**11
# As in buildrun's images: zip archives know no earlier time.
_TIME = 315619200
# Bytes of what a header says further; a path has at most 4 KiB.
_LARGEST_PAX = 1 << 16

# What the system and its users send to a container; `kubectl delete` sends SIGTERM.
_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class TransferError(Exception):
    """What keeps files from travelling; the text shows no credentials."""


class Absent(TransferError):
    """There is no such object."""


class Failure(Exception):
    """What keeps the command from being run, or its outputs from being delivered.

    kind: ``fetch``, ``start`` or ``deliver``. code: the exit code.
    """

    def __init__(self, kind: str, message: str, code: "int | None" = None) -> None:
        """Take what is to be told."""
        super().__init__(message)
        self.kind = kind
        self.code = CODES[kind] if code is None else code


class Stopped(BaseException):
    """A signal arrived while no command was running."""

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        super().__init__(number)
        self.number = number


# HTTP


class HttpClient:
    """Objects behind presigned URLs.

    pause: seconds before the first try again; they double. context: for TLS, made when it is
    needed.
    """

    def __init__(self, *, pause: float = 0.5, context: "ssl.SSLContext | None" = None) -> None:
        """Connect to nothing yet; proxies are those of the environment."""
        self._pause = pause
        self._opener = urllib.request.build_opener(_Plain(), _Secure(context))

    def open(self, url: str, start: int = 0) -> "http.client.HTTPResponse":
        """Return the answer for an object from a byte on; raises what urllib raises."""
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(_fit(url), headers=headers)  # noqa: S310
        return self._opener.open(request, timeout=_SILENCE)  # type: ignore[no-any-return]

    def put(self, url: str, file: "IO[bytes]", size: int, what: str) -> None:
        """Make an object of a file that can be rewound; raises Trouble.

        what: the object, for messages.
        """
        failures = moves = 0
        while True:
            try:
                self._put(url, file, size)
            except urllib.error.HTTPError as error:
                if error.code in _MOVED and moves < 3 and error.headers.get("Location"):
                    url = urllib.parse.urljoin(url, error.headers["Location"])
                    moves += 1
                    continue
                failures = self.endure(error, failures, what)
            except Exception as error:
                failures = self.endure(error, failures, what)
            else:
                return

    def delete(self, url: str) -> None:
        """Delete an object where the server lets us; raises nothing where it does not."""
        request = urllib.request.Request(_fit(url), method="DELETE")  # noqa: S310
        try:
            self._opener.open(request, timeout=_SILENCE).close()
        except (OSError, http.client.HTTPException):
            pass

    def endure(self, error: Exception, failures: int, what: str) -> int:
        """Wait before the next try and return how many failed in a row; raises Trouble.

        failures: those before this one.
        """
        if isinstance(error, TransferError):
            raise error
        text = f"{what}: {_fact(error)}"
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        if isinstance(error, urllib.error.HTTPError) and error.code in (404, 410):
            raise Absent(text) from None
        if not _may_pass(error) or failures + 1 >= _TRIES:
            raise TransferError(text) from None
        pause = min(self._pause * 2**failures, _LONGEST_PAUSE)
        # All pods of a project meet the same trouble at once; they shall not come back at once.
        time.sleep(max(_asked(error), random.uniform(pause / 2, pause)))  # noqa: S311
        return failures + 1

    def _put(self, url: str, file: "IO[bytes]", size: int) -> None:
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        if _is_azure(url):
            headers["x-ms-blob-type"] = "BlockBlob"
        request = urllib.request.Request(  # noqa: S310
            _fit(url), data=_blocks(file, size), headers=headers, method="PUT"
        )
        with self._opener.open(request, timeout=_SILENCE) as response:
            response.read(CHUNK)


class _Early:
    """A connection on which the server may answer before it has read all, and close.

    Its answer says why; that the rest could not be sent does not.
    """

    sock: "Any"

    def request(self, *arguments: "object", **options: "object") -> None:
        """Send a request."""
        try:
            super().request(*arguments, **options)  # type: ignore[misc]
        except (BrokenPipeError, ConnectionResetError):
            if self.sock is None:
                raise


class _PlainConnection(_Early, http.client.HTTPConnection):
    """Without TLS."""


class _SecureConnection(_Early, http.client.HTTPSConnection):
    """With TLS."""


class _Plain(urllib.request.HTTPHandler):
    """Opens http:// addresses."""

    def http_open(self, req: "urllib.request.Request") -> "http.client.HTTPResponse":
        return self.do_open(_PlainConnection, req)


class _Secure(urllib.request.HTTPSHandler):
    """Opens https:// addresses."""

    def __init__(self, context: "ssl.SSLContext | None") -> None:
        super().__init__()
        self._trusting = context

    def https_open(self, req: "urllib.request.Request") -> "http.client.HTTPResponse":
        if self._trusting is None:
            self._trusting = trust(os.environ)
        return self.do_open(_SecureConnection, req, context=self._trusting)


def trust(environ: "Mapping[str, str]") -> "ssl.SSLContext":
    """Return whom to trust: whom the variables name, else the system, else ``certifi``."""
    for name in _BUNDLES:
        place = environ.get(name)
        if place and os.path.isdir(place):
            return ssl.create_default_context(capath=place)
        if place and os.path.exists(place):
            return ssl.create_default_context(cafile=place)
    paths = ssl.get_default_verify_paths()
    if not any(place and os.path.exists(place) for place in (paths.cafile, paths.capath)):
        try:
            import certifi
        except ImportError:
            pass
        else:
            return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()


class MultipartReader:
    """Objects one behind the other, to be read once; a connection that breaks is taken up again.

    size: the bytes so far.
    """

    def __init__(self, web: "HttpClient", urls: "Sequence[str]", what: str) -> None:
        """Take the addresses; what: the objects, for messages, such as ``the inputs``."""
        self._web = web
        self._urls = urls
        self._what = what
        self._hash = hashlib.sha256()
        self._number = -1
        self._response = None  # type: http.client.HTTPResponse | None
        self._failures = 0
        self._got = 0
        self._length = None  # type: int | None
        self._tag = None  # type: str | None
        self.size = 0
        self._next()

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer only at the end; raises Trouble."""
        pieces = []
        while size:
            piece = self._piece(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self, sha256: "str | None", size: "int | None" = None) -> None:
        """Read to the end; raise Trouble where it all was not what these say."""
        while self.read(CHUNK):
            pass
        if size is not None and size != self.size:
            raise TransferError(f"{self._what}: {self.size} bytes instead of {size}")
        if sha256 is not None and sha256 != self._hash.hexdigest():
            raise TransferError(f"{self._what}: not what was sent, its digest differs")

    def close(self) -> None:
        """End the connection; calling it again is harmless."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _piece(self, size: int) -> bytes:
        """Return some bytes, none at the very end."""
        while self._number < len(self._urls):
            try:
                if self._response is None:
                    self._connect()
                piece = self._take(size)
            except Exception as error:
                self.close()
                self._failures = self._web.endure(error, self._failures, self._object())
                continue
            if piece:
                self._failures = 0
                self._got += len(piece)
                self.size += len(piece)
                self._hash.update(piece)
                return piece
            self._next()
        return b""

    def _take(self, size: int) -> bytes:
        if self._response is None:
            raise AssertionError("there is no connection")
        piece = self._response.read(min(size, CHUNK))
        # Older versions of Python end a body that was cut without a word.
        if not piece and self._length is not None and self._got < self._length:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the connection ended too early")
        if self._length is not None and self._got + len(piece) > self._length:
            raise TransferError(f"{self._object()}: longer than it was")
        return piece

    def _connect(self) -> None:
        response = self._web.open(self._urls[self._number], self._got)
        self._response = response
        text = response.headers.get("Content-Length", "")
        length = int(text) if text.isdigit() else None
        tag = response.headers.get("ETag")
        if self._got and (tag, self._tag).count(None) == 0 and tag != self._tag:
            raise TransferError(f"{self._object()}: replaced while it was read")
        self._tag = tag
        if not self._got or response.status != 206:
            self._length = length
            left = self._got  # a server that knows no ranges sends all again
            while left:
                skipped = len(response.read(min(left, CHUNK)))
                if not skipped:
                    raise ConnectionAbortedError(errno.ECONNABORTED, "it ended too early")
                left -= skipped
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {self._got}-"):
            raise TransferError(f"{self._object()}: another range than was asked for")

    def _next(self) -> None:
        self.close()
        self._number += 1
        self._got = 0
        self._length = self._tag = None

    def _object(self) -> str:
        return f"object {self._number + 1} of {self._what}"


def _fit(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("another kind of address")
    return url


def _blocks(file: "IO[bytes]", size: int) -> "Iterator[bytes]":
    file.seek(0)
    while size:
        block = file.read(min(size, 1 << 18))
        if not block:
            raise TransferError("what was to be sent is gone")
        size -= len(block)
        yield block


def _is_azure(url: str) -> bool:
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    return "sig" in query and "sv" in query


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        code = error.code
        return code in _PASSING or (code >= 500 and code not in _LASTING)
    if isinstance(error, http.client.InvalidURL):
        return False
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib.error.URLError) and not isinstance(reason, Exception):
        return False  # no address at all
    if "CERTIFICATE" in str(getattr(reason, "reason", "")):
        return False
    return isinstance(error, (OSError, http.client.HTTPException))


def _asked(error: Exception) -> float:
    """Return the seconds that a server asks to wait, as far as that is sensible."""
    headers = getattr(error, "headers", None)
    text = headers.get("Retry-After", "") if headers is not None else ""
    return min(float(text), 60.0) if text.isdigit() else 0.0


def _fact(error: Exception) -> str:
    """Return what happened, with nothing that a library made of the address."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            found = _CODE.search(error.read(1 << 14))
        except (OSError, http.client.HTTPException):
            found = None
        code = found.group(1).decode() if found else ""
        text = (
            f"the store answers {error.code} ({code})"
            if code
            else f"the store answers {error.code}"
        )
        expired = error.code in (401, 403) or code in _EXPIRED
        return f"{text}, as it does when an address has expired" if expired else text
    reason = getattr(error, "reason", None)
    if isinstance(error, urllib.error.URLError) and isinstance(reason, Exception):
        error = reason
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError):
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, (ValueError, OSError, http.client.InvalidURL)):
        return "the address is not valid"
    return f"the connection broke ({type(error).__name__})"


# Archives: POSIX ustar, with a pax header for what does not fit


def header(
    name: bytes, kind: bytes, size: int = 0, target: bytes = b"", mode: int = 0o644
) -> bytes:
    """Return what stands before a member's content; see ``buildrun.workspace.archive``."""
    records = []
    if len(name) > _FIELD:
        records.append((b"path", name))
    if len(target) > _FIELD:
        records.append((b"linkpath", target))
    if size >= _LARGE:
        records.append((b"size", b"%d" % size))
    plain = _block(name, kind, 0 if size >= _LARGE else size, target, mode)
    if not records:
        return plain
    body = b"".join(_record(*record) for record in records)
    return _block(b"pax", _PAX, len(body), b"", 0o644) + body + bytes(-len(body) % BLOCK) + plain


def _block(name: bytes, kind: bytes, size: int, target: bytes, mode: int) -> bytes:
    fields = (
        name[:_FIELD].ljust(_FIELD, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0" * 2,  # owner and group
        b"%011o\0" % size,
        b"%011o\0" % _TIME,
        b" " * 8,  # the checksum, which counts as blanks
        kind,
        target[:_FIELD].ljust(_FIELD, b"\0"),
        b"ustar\00000",
        bytes(64),  # names of owner and group
        b"0000000\0" * 2,  # devices
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(name: bytes, value: bytes) -> bytes:
    """Return a pax record, which begins with its own length."""
    rest = len(name) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, name, value)


class Member:
    """One file, link or directory of an archive.

    name: relative, without a slash at its end. kind: ``file``, ``link`` or ``directory``.
    size: of a file. target: of a link. executable: of a file.
    """

    def __init__(self, name: bytes, kind: str, size: int, target: bytes, executable: bool) -> None:
        """Take what its header says."""
        self.name = name
        self.kind = kind
        self.size = size
        self.target = target
        self.executable = executable


def members(parts: "MultipartReader") -> "Iterator[Member]":
    """Yield the members of an archive; a file's content has to be read before the next one.

    Raises Trouble for anything that buildrun does not write.
    """
    further = {}  # type: dict[bytes, bytes]
    while True:
        block = parts.read(BLOCK)
        if not any(block):
            if len(block) < BLOCK and (block or parts.size):
                raise TransferError("the archive ends too early")
            return
        kind, size, mode = _checked(block)
        if kind == _PAX:
            if size > _LARGEST_PAX:
                raise TransferError("the archive has a header that is too large")
            further = _records(_content(parts, size, -size % BLOCK))
            continue
        name = further.get(b"path", _text(block[:_FIELD]))
        target = further.get(b"linkpath", _text(block[157:257]))
        size = int(further.get(b"size", b"%d" % size))
        further = {}
        if kind not in _KINDS or (size and kind != _FILE):
            raise TransferError(f"the archive holds `{shown(name)}` of a kind that is not used")
        name = _sound(name[:-1] if kind == _DIRECTORY and name.endswith(b"/") else name)
        yield Member(name, _KINDS[kind], size, target, bool(mode & 0o100))


_KINDS = {_FILE: "file", _LINK: "link", _DIRECTORY: "directory"}
_NUMBER = re.compile(rb"[0-7]{1,11}")
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([A-Za-z.]+)=")


def _checked(block: bytes) -> "tuple[bytes, int, int]":
    """Return kind, size and mode from a header."""
    fields = (block[100:108], block[124:136], block[148:156])
    numbers = [field.rstrip(b"\0 ") for field in fields]
    if len(block) < BLOCK:
        raise TransferError("the archive ends too early")
    right = block[257:262] == b"ustar" and all(map(_NUMBER.fullmatch, numbers))
    if not right or any(block[345:500]):
        raise TransferError("the archive is damaged")
    if int(numbers[2], 8) != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise TransferError("the archive is damaged")
    return block[156:157], int(numbers[1], 8), int(numbers[0], 8)


def _records(body: bytes) -> "dict[bytes, bytes]":
    found = {}
    while body:
        match = _PAX_RECORD.match(body)
        end = int(match.group(1)) if match else 0
        if match is None or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise TransferError("the archive is damaged")
        found[match.group(2)] = body[match.end() : end - 1]
        body = body[end:]
    if not re.fullmatch(rb"[0-9]{1,18}", found.get(b"size", b"0")):
        raise TransferError("the archive is damaged")
    return found


def _content(parts: "MultipartReader", size: int, padding: int) -> bytes:
    """Return content and skip what fills up its last block."""
    content = parts.read(size)
    if len(content) + len(parts.read(padding)) < size + padding:
        raise TransferError("the archive ends too early")
    return content


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _sound(name: bytes) -> bytes:
    """Return the name of a member; raises Trouble for one that leads elsewhere."""
    if b"\0" in name or any(part in (b"", b".", b"..") for part in name.split(b"/")):
        raise TransferError(f"the archive holds `{shown(name)}`, which lies outside")
    return name


def shown(name: bytes) -> str:
    """Return a name on one line, with nothing that a terminal would act on."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class Unpacker:
    """A directory that archives are unpacked into; what they have replaces what is there.

    A directory's own entry stands for all of it: what else is in one that was there goes. So
    an archive makes nothing twice, and nothing is made through a link that leads out.
    """

    def __init__(self, root: bytes, *, links: str = "inside") -> None:
        """Take the place, an absolute path.

        links: what links may lead to, ``inside`` or ``anywhere``.
        """
        self._root = os.path.realpath(root)
        self._links = links
        self._made = set()  # type: set[bytes]
        # Directories that hold something made here, each with where it really is.
        self._above = {b"": self._root}

    def unpack(
        self, parts: "MultipartReader", accept: "Callable[[Member], None] | None" = None
    ) -> None:
        """Make what an archive holds; raises Trouble, and OSError where it cannot be written.

        accept: is called with each member before it is made, and may raise.
        """
        for member in members(parts):
            if accept is not None:
                accept(member)
            self._make(member, parts)

    def _make(self, member: "Member", parts: "MultipartReader") -> None:
        name = member.name
        if name in self._made or name in self._above:
            raise TransferError(f"the archive holds `{shown(name)}` twice")
        above, _, last = name.rpartition(b"/")
        path = os.path.join(self._enter(above), last)
        self._made.add(name)
        if member.kind == "directory":
            _remove(path)
            try:
                os.mkdir(path, 0o777)
            except FileExistsError:
                pass  # something is mounted there; it has been emptied
            self._above[name] = path
        elif member.kind == "link":
            self._check(member)
            _remove(path)
            os.symlink(member.target, path)
        else:
            _write(member, path, parts)

    def _enter(self, name: bytes) -> bytes:
        """Return where a directory really is; it is made where it is not there."""
        if name in self._above:
            return self._above[name]
        if name in self._made:
            raise TransferError(f"the archive holds something in `{shown(name)}`, no directory")
        above, _, last = name.rpartition(b"/")
        path = os.path.join(self._enter(above), last)
        try:
            os.mkdir(path, 0o777)
        except FileExistsError:
            path = os.path.realpath(path)
            inside = self._root.rstrip(b"/") + b"/"
            if not path.startswith(inside):
                raise TransferError(f"`{shown(name)}` is a link that leads out") from None
        self._above[name] = path
        return path

    def _check(self, link: "Member") -> None:
        if not link.target or b"\0" in link.target:
            raise TransferError("the archive is damaged")
        if self._links == "inside" and not stays(link.name, link.target):
            raise TransferError(f"`{shown(link.name)}` is a link that leads out")


def stays(name: bytes, target: bytes) -> bool:
    """Return whether a link leads to a place inside the tree, whatever else is a link.

    So `..` may stand at the beginning only: behind a name it climbs from wherever that leads.
    """
    parts = target.split(b"/")
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    return parts[0] != b"" and climbs <= name.count(b"/") and b".." not in parts[climbs:]


def _write(member: "Member", path: bytes, parts: "MultipartReader") -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    mode = 0o777 if member.executable else 0o666
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        _remove(path)
        descriptor = os.open(path, flags, mode)
    with open(descriptor, "wb") as file:
        left = member.size
        while left:
            piece = parts.read(min(left, CHUNK))
            if not piece:
                raise TransferError("the archive ends too early")
            file.write(piece)
            left -= len(piece)
    _content(parts, 0, -member.size % BLOCK)


def _remove(path: bytes) -> None:
    """Remove what is there, whole; a directory that is mounted stays, empty."""
    try:
        os.unlink(path)
        return
    except FileNotFoundError:
        return
    except OSError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
    directories = [path]
    for directory in directories:  # which grows meanwhile
        with os.scandir(directory) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                else:
                    os.unlink(entry.path)
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError as error:
            if directory != path or error.errno not in (errno.EBUSY, errno.EACCES, errno.EPERM):
                raise


# Outputs on their way out


def packed(root: bytes, outputs: "Sequence[bytes]") -> "Iterator[bytes]":
    """Yield an archive of the outputs that are there, or nothing where none is.

    Raises Trouble for what no archive of ours can hold.
    """
    there = False
    for output in sorted(outputs):
        if os.path.lexists(os.path.join(root, output)):
            there = True
            yield from _packed(root, output)
    if there:
        yield _END


def _packed(root: bytes, output: bytes) -> "Iterator[bytes]":
    waiting = [output]
    while waiting:
        name = waiting.pop()
        path = os.path.join(root, name)
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            yield header(name + b"/", _DIRECTORY, mode=0o755)
            waiting += [name + b"/" + child for child in sorted(os.listdir(path), reverse=True)]
        elif stat.S_ISLNK(status.st_mode):
            yield header(name, _LINK, target=os.readlink(path), mode=0o777)
        elif stat.S_ISREG(status.st_mode):
            yield from _packed_file(name, path)
        else:
            raise TransferError(f"output `{shown(name)}` is neither a file nor a directory")


def _packed_file(name: bytes, path: bytes) -> "Iterator[bytes]":
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        mode = 0o755 if before.st_mode & 0o100 else 0o644
        yield header(name, _FILE, before.st_size, mode=mode)
        left = before.st_size
        while left:
            piece = file.read(min(left, CHUNK))
            if not piece:
                raise TransferError(f"output `{shown(name)}` changes while it is read")
            left -= len(piece)
            yield piece
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise TransferError(f"output `{shown(name)}` changes while it is read")
        yield bytes(-before.st_size % BLOCK)


class MultipartWriter:
    """A stream that leaves in parts, each kept in a temporary file until it has arrived.

    size: the bytes so far. parts: those that have left.
    """

    def __init__(self, web: "HttpClient", urls: "Sequence[str]", part: int) -> None:
        """Take the addresses of the parts, and how many bytes each may have."""
        self._web = web
        self._urls = urls
        self._part = part
        self._hash = hashlib.sha256()
        self._held = 0
        self.size = 0
        self.parts = 0

    def send(self, pieces: "Iterable[bytes]") -> None:
        """Send it all; raises Trouble, and OSError where the file cannot be written."""
        with tempfile.TemporaryFile() as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    taken = view[: self._part - self._held]
                    file.write(taken)
                    self._held += len(taken)
                    view = view[len(taken) :]
                    if self._held == self._part:
                        self._flush(file)
                self._hash.update(piece)
                self.size += len(piece)
            if self._held:
                self._flush(file)

    def sha256(self) -> str:
        """Return the digest of all that was sent."""
        return self._hash.hexdigest()

    def _flush(self, file: "IO[bytes]") -> None:
        if self.parts == len(self._urls):
            room = f"{len(self._urls)} parts of {self._part} bytes"
            raise TransferError(f"the outputs are larger than {room}")
        file.flush()
        what = f"part {self.parts + 1} of the outputs"
        self._web.put(self._urls[self.parts], file, self._held, what)
        file.seek(0)
        file.truncate()
        self._held = 0
        self.parts += 1


# The command


def run(argv: "Sequence[bytes]", workdir: bytes) -> int:
    """Run a command and return its exit code, 128 and the signal's number where one ended it.

    Signals that come meanwhile go to it. Orphans that the system hands us are reaped; where we
    are the first process of the container, they end with the command, as if it were that itself.
    Raises Failure where it cannot be started.
    """
    passed_on = [number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.getsignal(number) for number in [*passed_on, signal.SIGCHLD]}
    # From here to the end they wait until they are asked for, so that none is lost.
    waiting = {*passed_on, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        for number in waiting:
            signal.signal(number, _nothing)  # what has no handler may be thrown away
        child = _start(argv, workdir, waiting, mask)
        status = _attend(child, waiting)
        if os.getpid() == 1:
            _end_the_others()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _attend(child: int, waiting: "set[signal.Signals]") -> int:
    while True:
        number = signal.sigwait(waiting)
        if number != signal.SIGCHLD:
            os.kill(child, number)  # not reaped yet, so its number is nobody else's
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if ended == child:
                return status
            if not ended:
                break


def _end_the_others() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except OSError:
        pass  # there are none, or none any more


def _start(
    argv: "Sequence[bytes]", workdir: bytes, waiting: "set[signal.Signals]", mask: "Iterable[int]"
) -> int:
    """Return the number of the process that runs the command; raises Failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become(argv, workdir, waiting, mask, writing)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    if not answer:
        return child
    os.waitpid(child, 0)
    place, number = answer.decode().split()
    reason = os.strerror(int(number))
    if place == "workdir":
        raise Failure(START, f"the command cannot be run in `{shown(workdir)}`: {reason}")
    code = NOT_FOUND if int(number) == errno.ENOENT else CODES[START]
    raise Failure(START, f"`{shown(argv[0])}` cannot be run: {reason}", code)


def _become(
    argv: "Sequence[bytes]",
    workdir: bytes,
    waiting: "set[signal.Signals]",
    mask: "Iterable[int]",
    writing: int,
) -> None:
    place = b"workdir"
    try:
        for number in waiting:
            signal.signal(number, signal.SIG_DFL)
        for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):  # which Python ignores
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.chdir(workdir)
        place = b"program"
        os.execvp(argv[0], list(argv))
    except OSError as error:
        os.write(writing, b"%s %d" % (place, error.errno or errno.EIO))
    finally:
        os._exit(CODES[START])


def _nothing(_number: int, _frame: "object") -> None:
    pass


def _stop(number: int, _frame: "object") -> None:
    raise Stopped(number)


# The whole


def run_task(task: "Any") -> int:
    """Do what a task says and return the command's exit code; raises Failure and Stopped."""
    web = HttpClient(pause=task.get("pause", 0.5))
    workdir = _bytes(task["workdir"])
    mask = os.umask(0o002)  # as in the image: the group may do what the owner may
    try:
        _fetch(web, task["inputs"], workdir)
    finally:
        os.umask(mask)
    began = time.monotonic()
    code = run([_bytes(word) for word in task["argv"]], workdir)
    seconds = time.monotonic() - began
    if code == 0 and task.get("done"):
        _deliver(web, task, workdir, seconds)
    return code


def _fetch(web: "HttpClient", inputs: "Any", workdir: bytes) -> None:
    try:
        os.makedirs(workdir, exist_ok=True)
        for number, item in enumerate(inputs):
            inside = item["root"] != "/"
            what = "the inputs" if len(inputs) == 1 else f"archive {number + 1} of the inputs"
            parts = MultipartReader(web, item["urls"], what)
            try:
                tree = Unpacker(
                    workdir if inside else b"/", links="inside" if inside else "anywhere"
                )
                tree.unpack(parts)
                parts.finish(item["sha256"])
            finally:
                parts.close()
    except TransferError as error:
        raise Failure(FETCH, str(error)) from None
    except OSError as error:
        place = os.fsencode(error.filename) if error.filename else workdir
        reason = error.strerror or type(error).__name__
        text = f"inputs cannot be written: `{shown(place)}`: {reason}"
        raise Failure(FETCH, text) from None


def _deliver(web: "HttpClient", task: "Any", workdir: bytes, seconds: float) -> None:
    outputs = [_bytes(path).rstrip(b"/") for path in task["outputs"]]
    spool = MultipartWriter(web, task["deliver"], task["part"])
    try:
        spool.send(packed(workdir, outputs))
        done = {
            "version": 1,
            "parts": spool.parts,
            "size": spool.size,
            "sha256": spool.sha256(),
            "exit_code": 0,
            "seconds": round(seconds, 3),
        }
        record = json.dumps(done, sort_keys=True).encode()
        with tempfile.TemporaryFile() as file:
            file.write(record)
            web.put(task["done"], file, len(record), "the end of the outputs")
    except TransferError as error:
        raise Failure(DELIVER, str(error)) from None
    except OSError as error:
        place = shown(os.fsencode(error.filename or tempfile.gettempdir()))
        text = f"outputs cannot be delivered: `{place}`: {error.strerror}"
        raise Failure(DELIVER, text) from None


def _bytes(text: str) -> bytes:
    """Return the bytes of a path or word, whatever the locale is."""
    return text.encode("utf-8", "surrogateescape")


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


def _tell(failure: "Failure", log: str) -> None:
    sys.stderr.write(f"buildrun: {failure}\n")
    sys.stderr.flush()
    if os.path.exists(log):
        try:
            with open(log, "w") as file:
                json.dump({"buildrun": failure.kind, "message": str(failure)[:1000]}, file)
        except OSError:
            pass  # it has been told on standard error


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
    except Stopped as error:
        sys.stderr.write(f"buildrun: stopped by {signal.Signals(error.number).name}\n")
        return 128 + error.number
    except Failure as failure:
        _tell(failure, log)
        return failure.code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
