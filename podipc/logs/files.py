"""The files of a log: appended to in whole batches, rotated, and whole again after a crash."""

import errno
import fcntl
import os
import stat
from typing import Final

from podipc.logs.clients import Intent, Journal
from podipc.logs.system import append, sync_directory

NAME: Final = "pod.log"
"""The one that is written to; ``pod.log.1`` is the one before it."""

_PROBE: Final = 4096


class DirectoryInUse(OSError):
    """Another agent keeps its lines there."""


class Files:
    """The files of a directory. One thread at a time, and one agent.

    Parameters
    ----------
    directory
        Made if it is not there.
    max_bytes
        No file gets larger.
    keep
        How many there are besides the one that is written to.
    sync
        Whether what is added is on the disk when `add` returns.

    Raises
    ------
    OSError
        It cannot be used; `DirectoryInUse` if another agent does.
    """

    def __init__(self, directory: str, max_bytes: int, keep: int, *, sync: bool) -> None:
        self.notes: list[str] = []
        """What was found to be mended, one line each."""
        self.max_bytes = max_bytes
        self._keep = keep
        self._sync = sync
        try:
            os.makedirs(directory, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "is not a directory", directory) from None
        self._path = os.path.join(directory, NAME)
        self._lock = _locked(directory)
        self._journal = Journal(os.path.join(directory, ".clients"), sync=sync)
        if self._journal.unreadable:
            self.notes.append(
                f"{directory}/.clients: {self._journal.unreadable} lines make no sense; what was "
                "sent again may be there twice"
            )
        self._open()
        self._mend()

    def has(self, client: str, sequence: int) -> bool:
        """Whether that batch of that client is there already."""
        return self._journal.has(client, sequence)

    def add(self, client: str, sequence: int, data: bytes) -> None:
        """Add whole lines, not more than `max_bytes`; `client` "" is one without a name.

        Raises
        ------
        OSError
            Nothing of it was added.
        """
        self._look()
        if self._size and self._size + len(data) > self.max_bytes:
            self._rotate()
        if client:
            self._journal.begin(
                Intent(client, sequence, os.fstat(self._file).st_ino, self._size, len(data))
            )
        try:
            append(self._file, data, self._size, sync=self._sync)
        except BaseException:
            if client:
                self._journal.undo()
            raise
        self._size += len(data)
        if client:
            self._journal.took(client, sequence)

    def probe(self) -> None:
        """Try whether there is room. Raises ``OSError`` if not."""
        path = f"{self._path}.probe"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.unlink(path)
            append(file, bytes(_PROBE), 0, sync=False)
        finally:
            os.close(file)

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._journal.close()
        os.close(self._lock)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o644)
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._file)
            raise OSError(errno.EINVAL, "is not a regular file", self._path)
        self._size = status.st_size

    def _look(self) -> None:
        """Somebody may have removed or shortened it; an earlier failure may have left a piece."""
        status = os.fstat(self._file)
        if status.st_nlink == 0:
            self._open_anew()
        elif status.st_size > self._size:
            os.ftruncate(self._file, self._size)
        else:
            self._size = status.st_size

    def _mend(self) -> None:
        """Cut what a crash left of a batch. It was not answered, so its client sends it again."""
        intent = self._journal.last
        added = True
        if intent is not None and intent.inode == os.fstat(self._file).st_ino:
            end = intent.offset + intent.length
            added = self._size >= end or self._size < intent.offset
            if not added:
                self._cut(intent.offset)
        self._journal.settle(added=added)
        self._cut(self._end_of_last_line())

    def _cut(self, size: int) -> None:
        if size == self._size:
            return
        self.notes.append(
            f"{self._path}: {self._size - size} bytes of an unfinished batch at its end were cut"
        )
        os.ftruncate(self._file, size)
        self._size = size

    def _end_of_last_line(self) -> int:
        end = self._size
        while end > 0:
            start = max(0, end - 65536)
            piece = os.pread(self._file, end - start, start)
            if (at := piece.rfind(b"\n")) >= 0:
                return start + at + 1
            end = start
        return 0

    def _rotate(self) -> None:
        os.fsync(self._file)
        # It is not there if the last attempt came as far as this.
        if os.path.lexists(self._path):
            for number in range(self._keep, 0, -1):
                younger = f"{self._path}.{number - 1}" if number > 1 else self._path
                if os.path.lexists(younger):
                    os.rename(younger, f"{self._path}.{number}")
            if not self._keep:
                os.unlink(self._path)
        self._open_anew()

    def _open_anew(self) -> None:
        before = self._file
        self._open()
        os.close(before)
        if self._sync:
            sync_directory(os.path.dirname(self._path))


def _locked(directory: str) -> int:
    path = os.path.join(directory, ".lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(path, flags, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DirectoryInUse(
            errno.EBUSY, "another agent keeps its lines there; give each its own", directory
        ) from None
    except OSError as error:
        os.close(lock)
        raise OSError(
            error.errno,
            f"this volume gives no lock of a file ({error.strerror}); keep the lines on another "
            "one, for example an emptyDir",
            directory,
        ) from None
    return lock
