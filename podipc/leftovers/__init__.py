"""Which channels of shared memory there are in this Pod, and what a crash left of them.

A channel is a directory with a socket for each endpoint. An endpoint that is
killed leaves its socket; the next one that opens the channel removes it. Where
nobody does, `podipc ls` shows it and `podipc rm` removes it. The memory itself
never stays: it belongs to no name, and goes with the last process that has it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from podipc.address import DEFAULT_DIR


@dataclass
class Channel:
    """One directory of a rendezvous place."""

    path: Path
    uid: int
    age: float
    """Seconds since an endpoint came or went."""
    senders: list[str] = field(default_factory=list)
    """Names of the sockets behind which somebody lives, or may live."""
    receivers: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    """Names of the sockets that were left behind."""
    refused: str | None = None
    """Why its endpoints cannot be seen, or None."""

    @property
    def name(self) -> str:
        """What comes after `shm://`."""
        return self.path.name

    @property
    def in_use(self) -> bool:
        """Whether somebody lives, as far as can be seen."""
        return bool(self.senders or self.receivers or self.refused)


def place() -> Path:
    """Where channels with a bare name are: `$PODIPC_DIR`, or `/dev/shm/podipc`."""
    return Path(os.environ.get("PODIPC_DIR") or DEFAULT_DIR)


def channels(where: Path | None = None) -> list[Channel]:
    """All channels of a place, by name. An absent place has none. Raises OSError."""
    try:
        entries = sorted(os.scandir(where or place()), key=lambda e: e.name)
    except FileNotFoundError:
        return []
    found = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):  # it has just been closed
                found.append(look(Path(entry.path)))
    return found


def look(path: Path) -> Channel:
    """What there is of one channel. Raises FileNotFoundError, NotADirectoryError."""
    with _open(path) as (directory, about):
        channel = Channel(path, about.st_uid, max(0.0, time.time() - about.st_mtime))
        if directory is None:
            channel.refused = f"belongs to UID {about.st_uid}, mode {about.st_mode & 0o777:04o}"
            return channel
        for name in sorted(os.listdir(directory)):
            if not name.startswith(("tx.", "rx.", ".tx.", ".rx.")):
                continue
            if not _alive(directory, name):
                channel.dead.append(name)
            elif "tx." in name[:4]:
                channel.senders.append(name)
            else:
                channel.receivers.append(name)
    return channel


def remove(channel: Channel) -> list[str]:
    """Remove what is left of a channel in which nobody lives; the names removed.

    Raises OSError: ENOTEMPTY (somebody has joined meanwhile, or there is
    something of somebody else's), EACCES, EPERM.
    """
    gone = []
    with _open(channel.path) as (directory, about):
        if directory is None:
            raise PermissionError(
                13, f"belongs to UID {about.st_uid}, mode {about.st_mode & 0o777:04o}"
            )
        for name in channel.dead:
            if not _alive(directory, name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)
                    gone.append(name)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(channel.path)
    with contextlib.suppress(OSError):  # others use the place
        os.rmdir(channel.path.parent)
    return gone


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[int | None, os.stat_result]]:
    """A directory, not through a link; None where it may not be opened."""
    about = os.lstat(path)
    if not stat.S_ISDIR(about.st_mode):
        raise NotADirectoryError(20, "not a channel, which is a directory", str(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        yield None, about
        return
    try:
        yield fd, os.fstat(fd)
    finally:
        os.close(fd)


def _alive(directory: int, name: str) -> bool:
    """Whether somebody listens at a socket; also where that cannot be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as s:
        try:
            # However long the path of the directory is, this one fits into an address.
            s.connect(f"/proc/self/fd/{directory}/{name}")
        except ConnectionRefusedError:
            return False
        except FileNotFoundError:
            return False
        except OSError:  # its queue is full, or it is not ours to ask
            return True
    return True
