"""What goes wrong with the next requests, because a test says so."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kube_status import Refused

# status: refused with a code. close: closed before the answer. reset: broken in the middle.
# truncate: ended in the middle, politely. hang: nothing more until it is released.
Kind = Literal["status", "close", "reset", "truncate", "hang"]


@dataclass(eq=False)
class Fault:
    """One way in which the next requests fail whose path and query match.

    times: how many are left. code, retry_after: of the answer of kind ``status``. applied: the
    request takes effect all the same. lines, size: how much of the answer is sent first, in lines
    of a stream or bytes; half of an answer that is no stream by default. met: how many it has hit.
    """

    kind: Kind
    method: str = "*"
    pattern: str = ""
    times: int = 1
    code: int = 503
    retry_after: int | None = None
    applied: bool = False
    lines: int = 0
    size: int | None = None
    met: int = 0
    released: threading.Event = field(default_factory=threading.Event)

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
        return b"Too many requests, please try again later.\n" if self.code == 429 else None


_WORDS = {
    500: ("InternalError", "Internal error occurred: etcdserver: leader changed"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within requested timeout"),
}


class Request(NamedTuple):
    """A request that was made, whatever became of it."""

    method: str
    path: str
    query: dict[str, str]
