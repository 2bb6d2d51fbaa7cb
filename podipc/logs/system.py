"""Writing all of something to a file or a pipe, or nothing, and to the disk."""

import os
import select


def write(file: int, data: bytes) -> None:
    """Write all of it, however little goes at once. Raises ``OSError``."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(file, rest) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(file, select.POLLOUT)
            poller.poll()


def sync_directory(path: str) -> None:
    """Put on the disk which files there are in it. Raises ``OSError``."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def append(file: int, data: bytes, size: int, *, sync: bool) -> None:
    """Write at the end of a file of `size` bytes; what fails half-way is taken back."""
    try:
        write(file, data)
        if sync:
            os.fdatasync(file)
    except BaseException:
        os.ftruncate(file, size)
        raise
