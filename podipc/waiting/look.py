"""One look at an address: is somebody there, and what is there instead.

=========  ==========================================================================
``shm``    a socket in the channel's directory takes a connection, which is closed at
           once, as `podipc ls` does
``file``   the lock on an endpoint's file is held
``tcp``    the kernel's table of sockets has a listener; if that cannot be read, a
           connection, closed without a word
``unix``   such a connection
``fifo``   somebody has the FIFO open to read
``http``   a GET of the path is answered
=========  ==========================================================================
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from podipc import leftovers
from podipc.address import Address
from podipc.console import count
from podipc.waiting import listeners
from podipc.waiting.http import look_http
from podipc.waiting.sight import Sight

RECEIVER: Final = "receiver"
SENDER: Final = "sender"
ANY: Final = "any"

AGAIN: Final = 1.0
"""Seconds after which a directory is looked into again though nothing in it has changed."""


class Watch:
    """Looks at one address again and again, and disturbs no more than it has to.

    Parameters
    ----------
    address
        From `address.parse`.
    who
        `RECEIVER`, `SENDER` or `ANY`. Senders can be seen with shm and file only: of the
        others the receiver makes the place where both meet.

    Raises
    ------
    ValueError
        Such a sender cannot be seen.
    """

    def __init__(self, address: Address, who: str = RECEIVER) -> None:
        if who == SENDER and address.method not in ("shm", "file"):
            raise ValueError(
                f"a sender of {address.method} cannot be seen before it sends, only the receiver "
                "to which it connects; senders of shm and file can"
            )
        self.address = address
        self.who = who
        self._seen: tuple[int, float] | None = None
        self._last = Sight(False, "")

    def look(self, timeout: float = 2.0) -> Sight:
        """What there is now. `timeout` is for the answer of an ``http`` address.

        Whatever the system refuses is in the text.
        """
        try:
            return self._look(timeout)
        except OSError as error:
            return Sight(False, f"cannot be looked at: {error}")

    def _look(self, timeout: float) -> Sight:
        address = self.address
        match address.method:
            case "shm" | "file":
                return self._look_into(Path(address.path))
            case "tcp":
                return listeners.look_tcp(address.host, address.port)
            case "http":
                return look_http(address, timeout)
            case "unix":
                return _look_unix(address.path)
            case _:
                return _look_fifo(address.path)

    def _look_into(self, path: Path) -> Sight:
        """A directory of endpoints; those are asked only when one has come or gone."""
        try:
            about = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            self._seen = None
            return Sight(False, self._absent(path))
        now = time.monotonic()
        changed = about.st_mtime_ns
        if self._seen and self._seen[0] == changed and now < self._seen[1] + AGAIN:
            return self._last
        look = leftovers.look if self.address.method == "shm" else _locks
        try:
            channel = look(path)
        except FileNotFoundError:
            return Sight(False, self._absent(path))
        self._seen = (changed, now)
        self._last = self._of(channel)
        return self._last

    def _absent(self, path: Path) -> str:
        if self.address.named and not path.parent.exists():
            return f"there is no channel at all in {path.parent}"
        return _absent(path)

    def _of(self, channel: leftovers.Channel) -> Sight:
        if channel.refused is not None:
            return Sight(
                False,
                f"{channel.path} {channel.refused}, and this is UID {os.geteuid()}: pass "
                "mode=0o666 (or 0o660 with a common runAsGroup) on both sides, or run both "
                "with the same runAsUser",
            )
        text = ", ".join(
            count(len(names), what)
            for names, what in ((channel.senders, SENDER), (channel.receivers, RECEIVER))
        )
        if channel.dead:
            text += f", and what {len(channel.dead)} dead left"
        wanted = {RECEIVER: channel.receivers, SENDER: channel.senders}
        there = channel.senders or channel.receivers if self.who == ANY else wanted[self.who]
        return Sight(bool(there), f"{text} in {channel.path}")


def _absent(path: Path) -> str:
    """Of what is there the part that helps: how far the path goes, what else is in there."""
    above = next(p for p in path.parents if p.is_dir())
    if above != path.parent:
        return f"there is no {path}; {above} is where it ends: is the volume mounted here?"
    with contextlib.suppress(OSError):
        others = sorted(entry.name for entry in os.scandir(above))
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        return f"there is no {path}; in {above} there is {shown or 'nothing'}"
    return f"there is no {path}"


def _locks(path: Path) -> leftovers.Channel:
    """The endpoints of ``file``: who lives holds a lock on a file of its own."""
    about = os.stat(path, follow_symlinks=False)
    channel = leftovers.Channel(path, about.st_uid, max(0.0, time.time() - about.st_mtime))
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        channel.refused = f"belongs to UID {about.st_uid}, mode {about.st_mode & 0o777:04o}"
        return channel
    try:
        for name in sorted(os.listdir(directory)):
            if not name.startswith(("tx.", "rx.")):
                continue
            living = channel.receivers if name.startswith("rx.") else channel.senders
            held = _held(directory, name)
            if held is not None:
                (living if held else channel.dead).append(name)
    finally:
        os.close(directory)
    return channel


def _held(directory: int, name: str) -> bool | None:
    """Whether the maker of a lock file lives; None if the file is gone, or is none."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
    except PermissionError:
        return True  # somebody's, and not ours to ask
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False if os.fstat(fd).st_nlink else None
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


@contextlib.contextmanager
def _reachable(path: str) -> Iterator[str]:
    """The socket by a name that fits into an address, however long its path is."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _at(path: str, is_kind: Callable[[int], bool], what: str) -> os.stat_result | Sight:
    """What is at a path, if it is of the right kind; else what is wrong."""
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return Sight(False, _absent(Path(path)))
    if is_kind(about.st_mode):
        return about
    kind = stat.filemode(about.st_mode)
    return Sight(False, f"{path} is no {what} but something else ({kind}); remove it")


def _denied(path: str, about: os.stat_result) -> Sight:
    return Sight(
        False,
        f"{path} belongs to UID {about.st_uid} with mode {about.st_mode & 0o777:04o}, and this is "
        f"UID {os.geteuid()}: open the receiver with mode=0o666 (or 0o660 and a common group), or "
        "run both with the same runAsUser",
    )


def _look_unix(path: str) -> Sight:
    about = _at(path, stat.S_ISSOCK, "Unix socket")
    if isinstance(about, Sight):
        return about
    with _reachable(path) as near, socket.socket(socket.AF_UNIX) as s:
        s.setblocking(False)
        code = s.connect_ex(near)
    if code in (0, errno.EAGAIN):  # EAGAIN: its queue is full
        return Sight(True, f"a receiver listens at {path}")
    if code in (errno.EACCES, errno.EPERM):
        return _denied(path, about)
    if code in (errno.ECONNREFUSED, errno.ENOENT):
        return Sight(False, f"{path} was left by a receiver that is dead")
    return Sight(False, f"{path} takes no connection: {os.strerror(code)}")


def _look_fifo(path: str) -> Sight:
    about = _at(path, stat.S_ISFIFO, "FIFO")
    if isinstance(about, Sight):
        return about
    if about.st_mode & 0o777 == 0:
        return Sight(False, f"the receiver of {path} has closed")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        return _denied(path, about)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return Sight(False, f"nobody has {path} open to read")
        raise
    os.close(fd)
    return Sight(True, f"a receiver reads {path}")
