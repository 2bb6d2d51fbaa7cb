"""The C core. Use the names in podipc instead; interface.py says what they do."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt

from podipc.interface import Sendable

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
