"""What goes wrong with the next requests, because a test says so."""

from __future__ import annotations

import re
import threading
from typing import Literal, NamedTuple

from kube_status import Refused

# status: refused with a code. close: closed before the answer. reset: broken in the middle.
# truncate: ended in the middle, politely. hang: nothing more until it is released.
Kind = Literal["status", "close", "reset", "truncate", "hang"]


class Fault:
    """One way to fail; met: how many requests it has hit."""

    def __init__(
        self,
        kind: Kind,
        method: str,
        pattern: str,
        *,
        times: int,
        code: int,
        retry_after: int | None,
        applied: bool,
        lines: int,
        size: int | None,
    ) -> None:
        self.kind = kind
        self.method = method
        self.pattern = pattern
        self.left = times
        self.code = code
        self.retry_after = retry_after
        self.applied = applied
        self.lines = lines
        self.size = size
        self.met = 0
        self.hit = threading.Event()
        self.released = threading.Event()

    def release(self) -> None:
        """Let what hangs go on."""
        self.released.set()

    def matches(self, method: str, target: str) -> bool:
        """Tell whether it is for a request; target: path and query, decoded."""
        return self.method in ("*", method) and re.search(self.pattern, target) is not None

    def refused(self) -> Refused:
        reason, message = _WORDS.get(self.code, ("", f"the server answered {self.code}"))
        return Refused(self.code, reason, message)

    def text(self) -> bytes | None:
        """Return what is said by parts of a cluster that know nothing of Status objects."""
        return _TEXTS.get(self.code)


_TEXTS = {
    429: b"Too many requests, please try again later.\n",
    502: b"<html><head><title>502 Bad Gateway</title></head></html>\n",
}

_WORDS = {
    500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within requested timeout - context "
          "deadline exceeded"),
}  # fmt: skip


class Request(NamedTuple):
    """A request that was made, whatever became of it."""

    method: str
    path: str
    query: dict[str, str]
