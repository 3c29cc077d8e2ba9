"""What travels between the store and a remote cache: measured and verified on the way."""

import os
import stat
from collections.abc import Callable, Iterator

from buildrun import digest as digests

CHUNK = 1 << 20


class Refused(Exception):
    """What the other side holds is not what its name says; the text says how."""


class Unwritable(Exception):
    """What arrives cannot be written here; the text says why."""


class Changed(Exception):
    """A local file is not what its digest says any more; the text names it."""


class Arriving:
    """A file that fills from afar, in constant memory.

    path: where it grows. limit: the bytes it may have; Refused is raised as soon as there are
    more.
    """

    def __init__(self, path: str, limit: int) -> None:
        """Make the empty file and its directory; raises Unwritable."""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._file = open(path, "wb")  # noqa: SIM115
        except OSError as error:
            raise Unwritable(error.strerror) from None
        self.path = path
        self.limit = limit
        self.size = 0
        self._hash = digests.new("sha256")

    def write(self, chunk: bytes) -> None:
        """Take what follows."""
        self.check(self.size + len(chunk))
        try:
            self._file.write(chunk)
        except OSError as error:
            raise Unwritable(error.strerror) from None
        self._hash.update(chunk)
        self.size += len(chunk)

    def check(self, size: int | None) -> None:
        """Raise Refused where so many bytes are too many."""
        if size is not None and size > self.limit:
            raise Refused(f"is larger than {self.limit} bytes")

    def adopt(self, move: Callable[[], None]) -> None:
        """Measure a file that somebody else has written at the path; ``move`` is called often."""
        with open(self.path, "rb") as file:
            while chunk := file.read(CHUNK):
                self.size += len(chunk)
                self._hash.update(chunk)
                move()
        self.check(self.size)

    def close(self) -> str:
        """Return the digest of what has arrived; raises Unwritable."""
        try:
            self._file.close()
        except OSError as error:
            raise Unwritable(error.strerror) from None
        return f"sha256:{self._hash.hexdigest()}"

    def publish(self, path: str) -> None:
        """Give the file its name; raises Unwritable."""
        try:
            os.replace(self.path, path)
        except OSError as error:
            raise Unwritable(error.strerror) from None

    def discard(self) -> None:
        """Remove the file, if it is there."""
        try:
            self._file.close()
        except OSError:
            pass  # what could not be written is thrown away
        try:
            os.unlink(self.path)
        except OSError:
            pass


class Leaving:
    """A local file on its way out.

    digest: what its content must be. size: its bytes. taken: those that were read so far.
    """

    def __init__(self, digest: str, path: str, size: int) -> None:
        """Open nothing yet."""
        self.path = path
        self.size = size
        self.taken = 0
        self._digest = digest

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Yield the content; after the last of it, raise Changed where it was not as announced.

        So whoever consumes it all before publishing anything publishes nothing wrong.
        """
        made = digests.new("sha256")
        self.taken = 0
        try:
            # Without waiting for the other end, should a pipe have taken the file's place.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Changed(self.path)
                while chunk := file.read(length):
                    made.update(chunk)
                    self.taken += len(chunk)
                    yield chunk
        except OSError:
            raise Changed(self.path) from None
        if self.taken != self.size or f"sha256:{made.hexdigest()}" != self._digest:
            raise Changed(self.path)


class Text:
    """Bytes in memory on their way out."""

    def __init__(self, data: bytes) -> None:
        """Keep them."""
        self.path = None
        self._data = data
        self.size = len(data)

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Yield them."""
        for start in range(0, self.size, length):
            yield self._data[start : start + length]
