"""Where Pods that run in the background are known, and how to speak to them.

Each has a directory with a Unix socket, which its keeper serves (see `keeper`). The
directory goes with the Pod, however that ends. Its own name is never given twice: what
clears up after a keeper that was killed may come late, and must not meet the directory of
the next Pod of that name, which is in a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from podipc.pod.errors import NotHere, PodError, UnknownPod

SOCKET = "socket"
_NAME = "name"
_LOCK = ".lock"
_PATIENCE = 2.0
"""Seconds that a keeper may take to be connected to; one that is stopped lives as well."""

_ANSWER = 5.0
"""Seconds that it may take to say how its Pod is."""


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
        if name in _living(root):
            raise PodError(f"a Pod {name!r} is there already; podipc pod down {name} would end it")
        path = root / f"{name[:64]}@{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        (path / _NAME).write_text(name)
        listener = socket.socket(socket.AF_UNIX)
        with _short(path) as short:
            listener.bind(f"{short}/{SOCKET}")
        listener.listen(16)
        return path, listener


def names() -> list[str]:
    """The Pods that run; what dead ones have left is removed."""
    with _alone() as root:
        return list(_living(root))


def _living(root: Path) -> dict[str, Path]:
    """The Pods that run and their directories; those of dead ones are removed."""
    found = {}
    for path in sorted(root.iterdir()):
        if not path.is_dir():
            continue
        if (name := _name_of(path)) and _alive(path):
            found[name] = path
        else:
            shutil.rmtree(path, ignore_errors=True)
    return found


def _name_of(path: Path) -> str:
    """Of the Pod of a directory; "" if that is no such directory."""
    try:
        return (path / _NAME).read_text()
    except OSError:
        return ""


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
        connection.settimeout(_PATIENCE)
        with _short(path) as short:
            connection.connect(f"{short}/{SOCKET}")
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def _alive(path: Path) -> bool:
    try:
        _connect(path).close()
    except (TimeoutError, BlockingIOError):
        return True  # it has its hands full
    except OSError:
        return False
    return True


def _no_answer(name: str) -> PodError:
    return PodError(f"the keeper of Pod {name!r} does not answer; is it stopped?")


def _connection_to(name: str) -> socket.socket:
    for path in base().iterdir():
        if _name_of(path) != name:
            continue
        try:
            return _connect(path)
        except (TimeoutError, BlockingIOError) as error:
            raise _no_answer(name) from error
        except OSError:
            continue  # of one that is dead
    there = ", ".join(names()) or "none"
    raise UnknownPod(f"no Pod {name!r} runs here; there is {there}")


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
        self._connection = _connection_to(name)
        self._stream = self._connection.makefile("rb")
        # The end of a Pod and the start of a program take their time; these do not.
        is_quick = request["do"] in ("status", "logs")
        try:
            data = json.dumps(request).encode() + b"\n"
            if fds:
                socket.send_fds(self._connection, [data], fds)
            else:
                self._connection.sendall(data)
            self._connection.settimeout(_ANSWER if is_quick else None)
            self.answer = self.read()
            self._connection.settimeout(None)
        except TimeoutError as error:
            self.close()
            raise _no_answer(name) from error
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
