"""The C core. Use the names in podipc instead; interface.py says what they do."""

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal, Self, final

import numpy as np
import numpy.typing as npt

from podipc.interface import Sendable

def limits() -> dict[str, Any]: ...
def pidfd_signal(pidfd: int, number: int, /) -> bool: ...

class PodipcError(Exception):
    errno: int | None
    call: str | None
    need: int | None
    have: int | None

class Timeout(PodipcError, TimeoutError): ...
class PeerDied(PodipcError, ConnectionError): ...
class Closed(PodipcError, EOFError): ...
class NoSpace(PodipcError, OSError): ...
class MemoryLimit(PodipcError, MemoryError): ...
class NotPermitted(PodipcError, PermissionError): ...
class AddressError(PodipcError, ValueError): ...
class AddressInUse(PodipcError, OSError): ...
class AlreadyExists(PodipcError, FileExistsError): ...
class NotFound(PodipcError, FileNotFoundError): ...
class UnsupportedTensor(PodipcError, TypeError): ...
class VersionMismatch(PodipcError, RuntimeError): ...
class CorruptSegment(PodipcError, RuntimeError): ...
class ForkedHandle(PodipcError, RuntimeError): ...
class SystemCallError(PodipcError, OSError): ...

def floor(
    mechanism: str,
    size: int,
    rounds: int,
    cpus: tuple[int, int] = (-1, -1),
    stream: bool = False,
) -> npt.NDArray[np.int64]: ...

@final
class Loan:
    def __enter__(self) -> npt.NDArray[Any]: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Sender:
    def __new__(
        cls,
        address: str,
        method: str,
        path: str,
        *,
        port: int = 0,
        wait: str = "adaptive",
        named: bool = False,
        mode: int = 0o600,
        max_bytes: int = 0,
        broadcast: bool = False,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def send(self, array: Sendable, timeout: float | None = None) -> int: ...
    def loan(
        self,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike = "float64",
        *,
        timeout: float | None = None,
    ) -> Loan: ...
    def empty(
        self,
        shape: int | tuple[int, ...],
        dtype: npt.DTypeLike = "float64",
        *,
        timeout: float | None = None,
    ) -> npt.NDArray[Any]: ...
    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Receiver:
    def __new__(
        cls,
        address: str,
        method: str,
        path: str,
        *,
        port: int = 0,
        wait: str = "adaptive",
        named: bool = False,
        mode: int = 0o600,
        max_bytes: int = 0,
        broadcast: bool = False,
        latest: bool = False,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def recv(
        self,
        timeout: float | None = None,
        *,
        copy: bool = False,
        writable: bool = False,
    ) -> npt.NDArray[Any]: ...
    def stats(self) -> dict[str, int]: ...
    def close(self) -> None: ...
    def __iter__(self) -> Iterator[npt.NDArray[Any]]: ...
    def __next__(self) -> npt.NDArray[Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

# ---- the building blocks ----

@final
class Segment:
    """Shared memory with the buffer protocol: ``numpy.frombuffer(memoryview(segment), dtype)``."""

    @classmethod
    def create(
        cls, size: int, name: str | os.PathLike[str] | None = None, *, mode: int = 0o600
    ) -> Segment:
        """Make shared memory of `size` bytes, all zero, writable here."""
    @classmethod
    def open(
        cls, name: str | os.PathLike[str], *, writable: bool = False, owner: int | None = None
    ) -> Segment:
        """Map a segment that exists: a name in /dev/shm, or an absolute path."""
    @classmethod
    def from_fd(cls, fd: int, writable: bool = False) -> Segment:
        """Map the memory behind a descriptor, of a memfd or a file."""
    @property
    def name(self) -> str | None:
        """The name it was created or opened by, or None."""
    @property
    def size(self) -> int:
        """Its size in bytes."""
    @property
    def fd(self) -> int:
        """The descriptor, as `fileno`."""
    @property
    def writable(self) -> bool:
        """Whether it is mapped for writing here."""
    @property
    def sealed(self) -> bool:
        """Whether nobody can make it shorter any more."""
    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
    def fileno(self) -> int:
        """The descriptor; it stays the segment's own."""
    def close(self) -> None:
        """Unmap the memory here."""
    def unlink(self) -> None:
        """Remove the name."""
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Semaphore:
    """A POSIX semaphore with a name that all containers of a Pod see."""

    @classmethod
    def create(
        cls, name: str | os.PathLike[str], value: int = 1, *, mode: int = 0o600
    ) -> Semaphore:
        """Make a semaphore that stands at `value`, and give it a name in /dev/shm."""
    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> Semaphore:
        """Open a semaphore that exists, made by `create` or by another program."""
    @property
    def name(self) -> str:
        """The name it was created or opened by."""
    @property
    def value(self) -> int:
        """How many can be acquired without waiting; may be old by the time it is seen."""
    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
    def acquire(self, timeout: float | None = None) -> Literal[True]:
        """Take one: wait until the value is above 0, and lower it by 1."""
    def release(self, n: int = 1) -> None:
        """Give `n` back: raise the value, and wake as many waiting processes."""
    def close(self) -> None:
        """Give up this handle."""
    def unlink(self) -> None:
        """Remove the name."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class Infra:
    def __new__(cls, shm_bytes: int, isolate: bool) -> Self: ...
    @property
    def pid(self) -> int: ...
    @property
    def parts(self) -> dict[str, int]: ...
    @property
    def refused(self) -> tuple[str, int] | None: ...
    def start(
        self,
        *,
        name: str,
        cwd: bytes,
        paths: tuple[bytes, ...],
        argv: tuple[bytes, ...],
        env: tuple[bytes, ...],
        fds: tuple[int, ...],
        targets: tuple[int, ...],
        cpus: bytes,
        groups: tuple[int, ...],
        uid: int,
        gid: int,
        umask: int,
        setup: tuple[bytes, ...],
        container: int,
    ) -> tuple[int, int, int]: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...

@final
class LoopbackListener:
    """Listens on loopback, which the containers of a Pod share, for `LoopbackStream.connect`."""

    def __new__(cls, port: int = 0, host: str = "127.0.0.1") -> Self: ...
    @property
    def port(self) -> int:
        """The port, also if 0 was asked for."""
    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
    def accept(self, timeout: float | None = None) -> LoopbackStream:
        """Wait for a connection: the `LoopbackStream` to whoever connected."""
    def close(self) -> None:
        """Stop listening."""
    def fileno(self) -> int:
        """The descriptor of the socket; readable when somebody has connected."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class LoopbackStream:
    """A loopback TCP connection between two containers of a Pod that carries tensors both ways."""

    @classmethod
    def connect(
        cls, port: int, host: str = "127.0.0.1", timeout: float | None = None
    ) -> LoopbackStream:
        """Connect to a `LoopbackListener` of any container of the Pod."""
    @property
    def closed(self) -> bool:
        """Whether `close` was called here."""
    def send(self, array: Sendable, timeout: float | None = None) -> None:
        """Send one tensor: anything that `podipc.sender` takes."""
    def recv(self, timeout: float | None = None) -> npt.NDArray[Any]:
        """Receive the next tensor: an ordinary, private, writable ndarray."""
    def close(self) -> None:
        """Say goodbye and disconnect."""
    def fileno(self) -> int:
        """The descriptor of the socket; readable when something has come."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
