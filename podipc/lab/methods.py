"""What `podipc compare` can measure: one entry a method, one way to use any of them.

A method is opened in two containers, by the one that asks and by the one that
answers, and yields a `Link` on each side. The measurement knows links only, so
that every method runs through the same lines of Python.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

Array = NDArray[Any]
Role = Literal["ask", "answer"]

PATIENCE = 10.0
"""Seconds after which a call on a link gives up; the peer is then taken for lost."""


AHEAD = 32 << 20
"""Bytes that a peer's queue may hold before its sender has to wait."""


def depth(nbytes: int) -> int:
    """How many messages of a size a peer's queue may hold."""
    return max(2, min(256, AHEAD // max(1, nbytes)))


@dataclass(frozen=True)
class Place:
    """Where the two sides of one link find each other, and what they agreed on."""

    name: str
    """Unique in the Pod; valid as a file name."""
    directory: Path
    """On disk, mounted by both containers."""
    memory: Path
    """On a tmpfs that both containers mount; short enough for the path of a socket."""
    ports: tuple[int, int]
    """Free ports of the Pod."""
    nbytes: int
    """Bytes of the largest tensor to be sent."""
    dtype: str
    """What a method that carries no dtype gives to the bytes it receives."""


@dataclass(frozen=True, eq=False)
class Link:
    """One side of an open method. Used by one thread."""

    send: Callable[..., object]
    """Sends an array, which may be used again when this returns unless it came from `loan`."""
    recv: Callable[[], Array]
    """The next array, valid until the next call. Raises when nothing comes for long."""
    close: Callable[[], object]
    """Closes, and removes what this side created."""
    loan: Callable[[int], Array] | None = None
    """Memory for a tensor of so many bytes, to be filled and sent; None: any array will do.

    The array is one-dimensional and of the dtype of the `Place`.
    """


@dataclass(frozen=True)
class Method:
    """Something that can be measured."""

    name: str
    kind: Literal["podipc", "peer", "floor"]
    about: str
    open: Callable[[Role, Place], Link] | None
    """None for the floor, which is measured in one call: `podipc._core.floor`."""
    typed: bool = False
    """Shape and dtype travel with the tensor."""
    extra: bool = False
    """Measured only when it is asked for by name."""
    needs: str | None = None
    """The module to import, where that is not ours or the standard library's."""

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here, or None."""
        if self.needs is None or importlib.util.find_spec(self.needs) is not None:
            return None
        return f'{self.needs} is not installed: pip install "podipc[peers]"'


def ours() -> dict[str, Method]:
    """The methods of podipc itself, fastest first."""
    from podipc.lab import own

    return {method.name: method for method in own.METHODS}


def peers() -> dict[str, Method]:
    """What a user would pick instead."""
    from podipc.lab import byhand
    from podipc.lab import peers as module

    return {method.name: method for method in [*module.METHODS, *byhand.METHODS]}


def floor() -> dict[str, Method]:
    """What the machine can do at best, in plain C; the mechanism is in the name."""
    about = {
        "cache-line": "a word each way, both sides spin",
        "futex": "a word each way, both sides sleep",
        "memcpy": "copied in one process, warm",
        "tcp": "loopback socket",
        "unix": "Unix socket",
        "pipe": "pipe, as a FIFO",
    }
    return {
        f"{FLOOR}{name}": Method(f"{FLOOR}{name}", "floor", text, None)
        for name, text in about.items()
    }


FLOOR = "C:"
SIZELESS = ("cache-line", "futex")
"""Mechanisms of the floor that carry no bytes."""


def every() -> dict[str, Method]:
    """All methods by name."""
    return ours() | peers() | floor()
