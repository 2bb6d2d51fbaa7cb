"""Where Pods that run in the background are known, and how to speak to them.

Each has a directory with a Unix socket, which its keeper serves (see `keeper`). The
directory goes with the Pod, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from podipc.pod.errors import NotHere, PodError, UnknownPod

SOCKET = "socket"
_LOCK = ".lock"


def base() -> Path:
    """The directory of all Pods of this user; made if need be.

    Raises
    ------
    NotHere
        It cannot be made, or somebody else could write there.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
        path = Path(runtime, "podipc-pods")
    elif os.geteuid() == 0 and os.access("/run", os.W_OK | os.X_OK):
        path = Path("/run/podipc-pods")
    else:
        path = Path(f"/tmp/podipc-pods-{os.geteuid()}")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise NotHere(f"{path}, where Pods are known, cannot be made: {error.strerror}") from error
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise NotHere(f"{path} has to be a directory of UID {os.geteuid()} alone, with mode 0700")
    return path


@contextlib.contextmanager
def _alone() -> Iterator[Path]:
    """Nobody else takes or clears names meanwhile."""
    path = base()
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(fd)


def claim(name: str) -> tuple[Path, socket.socket]:
    """Take the name of a Pod: its directory, and the socket to serve.

    Raises
    ------
    PodError
        A Pod of this name runs.
    """
    with _alone() as root:
        path = root / name
        if path.is_dir():
            if _alive(path):
                raise PodError(
                    f"a Pod {name!r} is there already; podipc pod down {name} would end it"
                )
            shutil.rmtree(path)
        path.mkdir(mode=0o700)
        listener = socket.socket(socket.AF_UNIX)
        with _short(path) as short:
            listener.bind(f"{short}/{SOCKET}")
        listener.listen(16)
        return path, listener


def names() -> list[str]:
    """The Pods that run; what dead ones have left is removed."""
    with _alone() as root:
        found = []
        for path in sorted(root.iterdir()):
            if not path.is_dir():
                continue
            if _alive(path):
                found.append(path.name)
            else:
                shutil.rmtree(path, ignore_errors=True)
        return found


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The directory by a name that fits into the address of a socket, whatever its length."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as short:
            connection.connect(f"{short}/{SOCKET}")
    except BaseException:
        connection.close()
        raise
    return connection


def _alive(path: Path) -> bool:
    try:
        _connect(path).close()
    except OSError:
        return False
    return True


class Call:
    """A request to the keeper of a Pod; a context manager.

    Raises
    ------
    UnknownPod
        There is no such Pod.
    PodError
        It refused; the text is the keeper's.
    """

    def __init__(self, name: str, request: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        path = base() / name
        try:
            self._connection = _connect(path)
        except OSError as error:
            there = ", ".join(names()) or "none"
            raise UnknownPod(f"no Pod {name!r} runs here; there is {there}") from error
        self._stream = self._connection.makefile("rb")
        try:
            data = json.dumps(request).encode() + b"\n"
            if fds:
                socket.send_fds(self._connection, [data], fds)
            else:
                self._connection.sendall(data)
            self.answer = self.read()
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, Any]:
        """The next answer."""
        try:
            line = self._stream.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise PodError("the Pod has ended meanwhile")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PodError(answer["error"])
        return answer

    def pieces(self) -> Iterator[bytes]:
        """What comes after the answer, until the end."""
        while piece := self._stream.read1(65536):
            yield piece

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._connection.close()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
