"""From one open file to another: a clone where the file system can, else a copy that is hashed."""

import errno
import os
import sys

from buildrun import digest

# FICLONE of linux/fs.h: both files share their blocks until one is written to.
_FICLONE = 0x40049409
_CHUNK = 1 << 20
_RANGE = 1 << 30
# Between two file systems, or on a kernel or file system that has no such call.
_NO_RANGES = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Copier:
    """Fills files; keeps in mind whether cloning works here, and a buffer."""

    def __init__(self) -> None:
        """Start in hope; the kernel is asked for a clone until it once says no."""
        self._clones = sys.platform == "linux"
        self._buffer = bytearray(_CHUNK)

    def clone(self, source: int, target: int) -> bool:
        """Make the empty target share the source's blocks; returns whether it does."""
        if not self._clones:
            return False
        import fcntl

        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:  # another file system, or one without clones; a full disk shows later
            self._clones = False
        return self._clones

    def copy(self, source: int, target: int, algorithm: digest.Algorithm) -> tuple[str, int]:
        """Copy to the end and return the digest and the number of what was copied.

        Raises OSError.
        """
        made, count, view = digest.new(algorithm), 0, memoryview(self._buffer)
        while size := os.readv(source, (self._buffer,)):
            made.update(view[:size])
            write(target, view[:size])
            count += size
        return f"{algorithm}:{made.hexdigest()}", count

    def copy_unread(self, source: int, target: int) -> int:
        """Copy to the end and return the number of bytes, without a look at them.

        Raises OSError.
        """
        count = 0
        copy_range = getattr(os, "copy_file_range", None)  # of Linux
        try:
            while copy_range is not None and (size := copy_range(source, target, _RANGE)):
                count += size
        except OSError as error:
            if count or error.errno not in _NO_RANGES:
                raise
        # Nothing is left where that went well; some file systems claim to be done at once.
        view = memoryview(self._buffer)
        while size := os.readv(source, (self._buffer,)):
            write(target, view[:size])
            count += size
        return count

    def digest(self, source: int, algorithm: digest.Algorithm) -> tuple[str, int]:
        """Read to the end and return the digest and the number of bytes; raises OSError."""
        made, count, view = digest.new(algorithm), 0, memoryview(self._buffer)
        while size := os.readv(source, (self._buffer,)):
            made.update(view[:size])
            count += size
        return f"{algorithm}:{made.hexdigest()}", count


def write(target: int, data: bytes | memoryview) -> None:
    """Write it all; raises OSError."""
    done = os.write(target, data)
    while done < len(data):  # a disk that fills up writes a part, and says so the next time
        done += os.write(target, memoryview(data)[done:])
