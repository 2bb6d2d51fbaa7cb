"""What both sides of http have in common: header names, time, forked processes."""

import math
import os
import weakref
from email.message import Message
from typing import Any, Final, Literal
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from podipc._core import Closed, CorruptSegment, ForkedHandle
from podipc.tensors import decode_dtype

VERSION: Final = "1"
MAX_HEAD: Final = 65536 * 4
"""Bytes of an answer's head, and about those of a request's."""

_TYPE_LINE: Final = 8000  # http.server takes lines up to 64 KiB, and 100 of them
_PRINTABLE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def type_lines(text: bytes) -> list[str]:
    """The values of the ``Podipc-Type`` fields for the text of a dtype."""
    quoted = quote(text, safe=_PRINTABLE)
    return [quoted[i : i + _TYPE_LINE] for i in range(0, len(quoted), _TYPE_LINE)]


class Described:
    """What the head of a request says about its tensor. Raises ``CorruptSegment``."""

    def __init__(self, fields: "Message") -> None:
        quoted = "".join(fields.get_all("Podipc-Type") or [])
        if not quoted:
            raise CorruptSegment("a tensor needs the field Podipc-Type, for example '<f4'")
        self.dtype = decode_dtype(unquote_to_bytes(quoted))
        self.shape = _shape(fields.get("Podipc-Shape"))
        self.order = fields.get("Podipc-Order", "C")
        if self.order not in {"C", "F"}:
            raise CorruptSegment(f"Podipc-Order is {self.order!r}, neither 'C' nor 'F'")
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize


def _shape(text: str | None) -> tuple[int, ...]:
    if text is None:
        raise CorruptSegment("a tensor needs the field Podipc-Shape, for example '2,3'")
    if not text:
        return ()
    parts = text.split(",")
    if len(parts) > 64 or not all(p.isascii() and p.isdigit() and len(p) < 20 for p in parts):
        raise CorruptSegment(f"Podipc-Shape is {text[:80]!r}, not up to 64 sizes")
    return tuple(map(int, parts))


def number(fields: "Message", name: str, default: int = 0) -> int:
    """A field that is a number. Raises ``CorruptSegment``."""
    text = fields.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CorruptSegment(f"{name} is {text[:80]!r}, not a number")
    return int(text)


def array_over(described: Described, memory: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """A view of bytes as the tensor that they are. Raises ``CorruptSegment``."""
    order: Literal["C", "F"] = "F" if described.order == "F" else "C"
    buffer = memory.data if memory.size else bytearray(max(1, described.dtype.itemsize))
    try:
        return np.ndarray(described.shape, described.dtype, buffer, order=order)
    except (ValueError, TypeError) as error:
        raise CorruptSegment(f"this cannot be an array: {error}") from error


class Endpoint:
    """What a sender and a receiver have in common: an end, and a process of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._closed = False
        self._pid = os.getpid()
        _endpoints.add(self)

    @property
    def address(self) -> str:
        """The address it was opened with."""
        return self._address

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise ForkedHandle(
                f"this handle of {self._address} was opened by the parent of this process: open "
                "one of your own after fork()"
            )
        if self._closed:
            raise Closed(f"this {type(self).__name__} of {self._address} is closed")

    def _forget_sockets(self) -> None:
        """In a forked child: close its copies, which would hide the parent's death."""
        raise NotImplementedError


_endpoints: "weakref.WeakSet[Endpoint]" = weakref.WeakSet()


def _in_child() -> None:
    for endpoint in list(_endpoints):
        endpoint._forget_sockets()


os.register_at_fork(after_in_child=_in_child)
