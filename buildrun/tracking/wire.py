"""HTTP/1.1 over a socket, as much of it as a client of a JSON API needs.

The standard library's client takes longer to import than a tracked run may take altogether.
"""

import socket
import time
from typing import NamedTuple

# Bytes of a line, of all headers, and of a body.
_LONGEST_LINE = 65536
_HEADERS = 200
_LARGEST = 64 * 1024 * 1024


class Broken(Exception):
    """The server has hung up, or says what is no HTTP; begun: whether it had begun to answer."""

    def __init__(self, *, begun: bool) -> None:
        """Keep the fact."""
        super().__init__("broken")
        self.begun = begun


class Answer(NamedTuple):
    """What a server answered; headers: by their names in lower case. lasting: it stays open."""

    status: int
    headers: dict[str, str]
    body: bytes
    lasting: bool


class Wire:
    """A connected socket, and what was read of it ahead."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over the socket."""
        self.socket = connected
        self._ahead = b""
        self._end = 0.0

    def exchange(self, head: bytes, body: bytes, seconds: float) -> Answer:
        """Send a request and return its answer.

        seconds: for all of it. Raises OSError, which includes TimeoutError, and Broken.
        """
        self._end = time.monotonic() + seconds
        self.socket.settimeout(seconds)
        self.socket.sendall(head + body)
        return self._answer()

    def tunnel(self, head: bytes, seconds: float) -> int:
        """Send a request to be connected through, and return the answer's status."""
        self._end = time.monotonic() + seconds
        self.socket.sendall(head)
        status, _ = self._status()
        self._headers()
        if self._ahead:
            raise Broken(begun=True)  # whoever is there speaks before it is asked
        return status

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _answer(self) -> Answer:
        status, keeps = self._status()
        headers = self._headers()
        if 100 <= status < 200:
            return self._answer()  # it only says that it has begun
        connection = headers.get("connection", "").lower()
        lasting = keeps and "close" not in connection
        coding = headers.get("transfer-encoding", "").lower()
        if coding == "chunked":
            return Answer(status, headers, self._chunks(), lasting)
        if "content-length" in headers:
            size = headers["content-length"]
            if not (size.isascii() and size.isdigit() and len(size) < 12):
                raise Broken(begun=True)
            return Answer(status, headers, self._exactly(int(size)), lasting)
        if status in (204, 304):
            return Answer(status, headers, b"", lasting)
        return Answer(status, headers, self._rest(), lasting=False)

    def _status(self) -> tuple[int, bool]:
        """Return the status, and whether the version keeps connections open."""
        try:
            words = self._line().split(None, 2)
        except Broken:
            raise Broken(begun=bool(self._ahead)) from None
        if len(words) < 2 or words[0] not in (b"HTTP/1.1", b"HTTP/1.0") or not _is_status(words[1]):
            raise Broken(begun=True)
        return int(words[1]), words[0] == b"HTTP/1.1"

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_HEADERS):
            line = self._line()
            if not line:
                return headers
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        raise Broken(begun=True)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            try:
                size = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise Broken(begun=True) from None
            total += size
            if size < 0 or total > _LARGEST:
                raise Broken(begun=True)
            if size == 0:
                self._headers()
                return b"".join(parts)
            parts.append(self._exactly(size))
            self._line()

    def _line(self) -> bytes:
        while b"\n" not in self._ahead:
            if len(self._ahead) > _LONGEST_LINE or not self._read():
                raise Broken(begun=True)
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.rstrip(b"\r")

    def _exactly(self, size: int) -> bytes:
        if size > _LARGEST:
            raise Broken(begun=True)
        while len(self._ahead) < size:
            if not self._read():
                raise Broken(begun=True)
        found, self._ahead = self._ahead[:size], self._ahead[size:]
        return found

    def _rest(self) -> bytes:
        while self._read():
            if len(self._ahead) > _LARGEST:
                raise Broken(begun=True)
        return self._ahead

    def _read(self) -> bool:
        """Read more; returns False at the end."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
        chunk = self.socket.recv(65536)
        self._ahead += chunk
        return bool(chunk)


def _is_status(word: bytes) -> bool:
    return len(word) == 3 and word.isdigit()
