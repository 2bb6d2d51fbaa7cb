"""What every sender and every receiver can do, whatever carries the bytes.

These classes are for type annotations and for reading. Make the objects with
`podipc.sender`, `podipc.receiver`, `podipc.publisher` and `podipc.subscriber`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import numpy as np
    import numpy.typing as npt
    from _typeshed import ReadableBuffer

    class _HasArrayInterface(Protocol):
        @property
        def __array_interface__(self) -> dict[str, Any]: ...

    class _HasDLPack(Protocol):
        def __dlpack__(self, *, stream: Any = ...) -> Any: ...
        def __dlpack_device__(self) -> tuple[int, int]: ...

    Sendable: TypeAlias = (
        npt.NDArray[Any] | np.generic | ReadableBuffer | _HasArrayInterface | _HasDLPack
    )


class Sender(Protocol):
    """The sending side of a channel, made by `podipc.sender` or `podipc.publisher`.

    Any thread may call any method at any time; two sends at once are done one
    after the other. A context manager: it is closed at the end of the block.
    """

    @property
    def address(self) -> str:
        """The address it was opened with."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def send(self, array: "Sendable", timeout: float | None = None) -> int:
        """Send one tensor; return how many receivers it goes to (a sender: 1).

        Parameters
        ----------
        array
            An ndarray of any shape, from 0-d, and any dtype whose values are in
            the array itself (bool, integers, floats with float16, complex,
            datetime64, timedelta64, ``S``, ``U``, ``V``, structured); a torch tensor
            on the CPU; or anything with the buffer protocol, ``__array_interface__``
            or DLPack. It is copied during the call and may be changed afterwards;
            strided arrays are packed while copying, Fortran order is kept. An
            array from `empty` or `loan` is sent as it is, without a copy, and is
            read-only from then on.
        timeout
            Seconds to wait at most for a receiver, and for room while the budget
            or the queue is full; 0 does not wait; None waits for ever.

        When it returns, the tensor is committed: a receiver gets it, whole and
        once, even if this process dies. When it raises, nothing was sent. Ctrl-C
        ends the wait within 100 ms.

        Raises
        ------
        Timeout
            No receiver, or no room, within `timeout`. The text says which.
        PeerDied
            A receiver went away without closing; once for each. What it had not
            taken stays queued for the next one with shm and file; with the other
            methods it is lost, also if the receiver closed. Call again to go on.
        UnsupportedTensor
            This dtype or this object cannot be sent.
        MemoryLimit
            The tensor is larger than the budget, or than the memory left to this
            container.
        NoSpace
            The file system that carries it is full.
        Closed, ForkedHandle
            The handle was closed, or belongs to the parent process.
        """

    def loan(
        self,
        shape: int | tuple[int, ...],
        dtype: "npt.DTypeLike" = "float64",
        *,
        timeout: float | None = None,
    ) -> "AbstractContextManager[npt.NDArray[Any]]":
        """A block that computes straight into the memory that is sent.

        ``with tx.loan((1080, 1920, 3), "uint8") as out:`` gives an uninitialised,
        C-contiguous, writable ndarray of that shape and dtype. It is sent when the
        block ends, and dropped if the block raises. `timeout` (seconds) is for
        each of the two waits: for memory at the beginning and for a receiver at
        the end. After the block the array is read-only; do not write to it through
        views that were made before. Raises what `send` raises.
        """

    def empty(
        self,
        shape: int | tuple[int, ...],
        dtype: "npt.DTypeLike" = "float64",
        *,
        timeout: float | None = None,
    ) -> "npt.NDArray[Any]":
        """An uninitialised, C-contiguous ndarray in memory that can be sent without a copy.

        Pass it to `send` of the same sender, which then does not copy; afterwards
        it is read-only. Views that were made of it before stay writable: do not
        write through them any more. If it is never sent, its memory returns when the array
        and its views are gone. Where the method has no such memory (all but shm),
        it is an ordinary array. Raises what `send` raises.
        """

    def stats(self) -> dict[str, int]:
        """Counters since it was opened; those without meaning here are 0.

        ``messages``, ``bytes``: sent. ``peers``: receivers joined now.
        ``peers_died``: gone without closing. ``queued``: sent, not yet taken.
        ``held``: taken, not yet let go. ``redelivered``: taken back from a dead
        receiver and queued again. ``lost_taken``: taken by a receiver that then
        died. ``unheard``: published while nobody subscribed. ``reserved``: bytes of
        memory reserved for tensors. ``max_bytes``: the budget.
        """

    def close(self) -> None:
        """Say goodbye. Receivers still get what was sent, then see the end.

        Ends the waits of other threads with ``Closed``. May be called again.
        Arrays from `empty` that were not sent stay valid, but cannot be sent.
        Warns (``RuntimeWarning``) of tensors that nobody will get, because their
        receivers left without taking them and no other came.
        """

    def __enter__(self) -> "Self":
        """Return the sender itself."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: "TracebackType | None",
        /,
    ) -> None:
        """Close it."""


class Receiver(Protocol):
    """The receiving side of a channel, made by `podipc.receiver` or `podipc.subscriber`.

    Any thread may call any method at any time; each tensor goes to one of the
    threads that wait. A context manager, and an iterator that ends when every
    sender that had joined has closed and nothing is left.
    """

    @property
    def address(self) -> str:
        """The address it was opened with."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def recv(
        self,
        timeout: float | None = None,
        *,
        copy: bool = False,
        writable: bool = False,
    ) -> "npt.NDArray[Any]":
        """The next tensor, with the shape, dtype and order it was sent with.

        Parameters
        ----------
        timeout
            Seconds to wait at most; 0 does not wait; None waits for ever.
        copy
            Give an ordinary array of this process, which may be written to.
        writable
            Give an array that may be written to without copying it first: a
            private copy-on-write mapping, where only touched pages are copied and
            what was written is gone with the array. For torch, see below.

        By default it is a read-only ndarray over memory shared with the sender,
        without a copy. That memory returns to the sender when the array and all
        its views are gone, be it after `close` or after the end of the sender;
        a sender whose budget is held by such arrays has to wait. Where the method
        shares no memory (all but shm), it is a private array.

        torch has no read-only tensors: ``torch.from_numpy(rx.recv())`` warns, and a
        write through that tensor ends the process with a segmentation fault,
        because the pages are mapped read-only. Use ``writable=True`` or
        ``copy=True`` for tensors that torch writes to.

        Ctrl-C ends the wait within 100 ms; nothing is lost by it.

        Raises
        ------
        Timeout
            Nothing came within `timeout`. The text says where senders are looked
            for, and what to change if none ever came.
        PeerDied
            A sender went away without closing; once for each, after all that it
            had committed was delivered. Call again to go on with other senders.
        Closed
            Every sender that had joined has closed and nothing is left; or the
            handle was closed. After the former, recv may be called again to wait
            for a new sender.
        CorruptSegment, VersionMismatch
            A peer sent what does not hold together, or speaks another version.
        MemoryLimit
            ``copy=True`` or a method without shared memory: not enough of it.
        ForkedHandle
            The handle belongs to the parent process.
        """

    def stats(self) -> dict[str, int]:
        """Counters since it was opened; those without meaning here are 0.

        ``messages``, ``bytes``: received. ``peers``: senders joined now.
        ``peers_died``: gone without closing. ``held``: received arrays that are
        still in use. ``skipped``: passed over on purpose by ``latest=True``.
        """

    def close(self) -> None:
        """Say goodbye; what was not received goes to the next receiver.

        Ends the waits of other threads with ``Closed``. May be called again.
        Arrays that were received stay valid.
        """

    def __iter__(self) -> "Iterator[npt.NDArray[Any]]":
        """Return the receiver itself: ``for x in rx`` is `recv` until ``Closed``."""

    def __next__(self) -> "npt.NDArray[Any]":
        """`recv()`; ends where it would raise ``Closed``."""

    def __enter__(self) -> "Self":
        """Return the receiver itself."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: "TracebackType | None",
        /,
    ) -> None:
        """Close it."""
