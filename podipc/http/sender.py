"""The sending side of http: one kept connection, and requests whose waits can end."""

import _thread
import contextlib
import errno
import os
import secrets
import select
import socket
import threading
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import numpy as np

from podipc._core import (
    AddressError,
    AddressInUse,
    Closed,
    CorruptSegment,
    MemoryLimit,
    NotPermitted,
    PeerDied,
    PodipcError,
    SystemCallError,
    Timeout,
    VersionMismatch,
)
from podipc.deadline import Deadline
from podipc.http.connection import GONE, Answer, Connection, Left
from podipc.http.wire import VERSION, Endpoint, number, type_lines
from podipc.tensors import as_array, encode_dtype

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt

    from podipc.address import Address
    from podipc.interface import Sendable

RETRY_SECONDS: Final = 0.02
"""Between two attempts to find a receiver."""
ANSWER_SECONDS: Final = 1.0
"""For what the receiver answers at once, where the caller's timeout does not apply."""
MOVE_SECONDS: Final = 0.1
"""For moving a tensor for which there is room, also with a timeout of 0."""


class HttpSender(Endpoint):
    """See `podipc.Sender`. Any thread may call any method at any time.

    When the timeout passes, or Ctrl-C comes, while the receiver has all of a tensor
    but has not answered, the tensor is taken back by ending the connection. If the
    answer crosses with that end, a tensor may be delivered though its ``send`` raised.
    """

    def __init__(self, address: "Address", max_bytes: int | None = None) -> None:
        self._connection: Connection | None = None
        self._wake = -1  # none, not yet or not any more
        super().__init__(address.text)
        self._where = (address.host, address.port)
        self._path = address.path
        self._max_bytes = max_bytes
        self._id = secrets.token_hex(8)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()  # of the connection and all below
        self._recovered = threading.Event()
        self._recovered.set()
        self._sequence = 0
        self._limit = 0  # the largest tensor that the receiver takes
        self._free = 0  # what room it had, as far as we know
        self._unreported: deque[str] = deque()  # receivers that died, or left with tensors
        self._died = 0
        self._lost = 0
        self._unread = 0  # of those lost: with a receiver that closed in order
        self._messages = self._bytes = 0
        self._acknowledged = self._taken = 0  # of this connection's receiver
        # A receiver that waits is to know of us before the first tensor.
        with contextlib.suppress(Timeout, PeerDied, Left), self._lock:
            self._connect_once(Deadline(ANSWER_SECONDS))

    # --- sending ---------------------------------------------------------

    def send(self, array: "Sendable", timeout: float | None = None) -> int:
        """See `podipc.Sender.send`."""
        deadline = Deadline(timeout)
        self._check()
        tensor = as_array(array)
        dtype = encode_dtype(tensor.dtype)
        data, order = _bytes_of(tensor)
        described = [
            *(f"Podipc-Type: {line}" for line in type_lines(dtype)),
            f"Podipc-Shape: {','.join(map(str, tensor.shape))}",
            f"Podipc-Order: {order}",
        ]
        if self._max_bytes is not None and len(data) > self._max_bytes:
            self._too_large(len(data), self._max_bytes, "the max_bytes of this sender")
        if not self._lock.acquire(timeout=deadline.left()):
            raise Timeout(
                f"Sending of {len(data)} bytes timed out. Another thread is sending on this handle."
            )
        try:
            self._send(described, data, deadline)
        except Timeout as error:
            raise Timeout(f"Sending of {len(data)} bytes timed out. {error}") from None
        except PodipcError:
            raise
        except BaseException:
            # Ctrl-C may have come between any two steps: nothing of this connection's
            # state is to be relied on.
            self._start_over()
            raise
        finally:
            self._lock.release()
        return 1

    def _send(self, described: list[str], data: memoryview, deadline: Deadline) -> None:
        while True:
            self._check()
            try:
                connection = self._ready(deadline)
                if len(data) > self._limit:
                    self._too_large(len(data), self._limit, "what the receiver takes (max_bytes)")
                if len(data) > self._free and not self._ask_for_room(
                    connection, len(data), deadline
                ):
                    continue
                if self._post(connection, described, data, deadline):
                    return
            except Left:
                pass  # wait for the next one

    def _too_large(self, need: int, have: int, what: str) -> NoReturn:
        error = MemoryLimit(
            f"a tensor of {need} bytes is larger than {what}, {have} bytes: pass a larger "
            "max_bytes, or send it in parts"
        )
        error.errno, error.need, error.have = errno.ENOMEM, need, have
        raise error

    def _ask_for_room(self, connection: Connection, need: int, deadline: Deadline) -> bool:
        """Wait for the receiver to promise `need` bytes. False: not yet."""
        wait = int(deadline.left(5.0) * 1000)
        self._request(connection, "room", [f"Podipc-Need: {need}", f"Podipc-Wait: {wait}"])
        try:
            granted = self._answered(connection, deadline).code == 200
        except Timeout:
            granted = False
        if granted:
            self._free = max(self._free, need)
        elif deadline.passed:
            raise Timeout(
                f"The receiver of {self._address} has no room: {self._limit} bytes (its max_bytes) "
                "are queued and not received yet."
            )
        return granted

    def _post(
        self, connection: Connection, described: list[str], data: memoryview, deadline: Deadline
    ) -> bool:
        """Send the tensor itself. False: no room after all."""
        deadline = deadline.at_least(MOVE_SECONDS)
        try:
            self._request(
                connection,
                "tensor",
                [f"Podipc-Sequence: {self._sequence}", *described],
                data,
                deadline,
            )
            answer = self._answered(connection, deadline)
        except (Timeout, Closed):
            # Nobody knows how far it got: take it back with the connection.
            self._start_over()
            raise
        if answer.code == 503:
            self._free = 0
            return False
        self._sequence += 1
        self._acknowledged += 1
        self._messages += 1
        self._bytes += len(data)
        if answer.bye:
            self._note_left()
        return True

    # --- requests --------------------------------------------------------

    def _head(self, what: str, fields: list[str], length: int) -> bytes:
        host, port = self._where
        lines = [
            f"POST {self._path} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Podipc-Version: {VERSION}",
            f"Podipc-Do: {what}",
            f"Podipc-Sender: {self._id}",
            *fields,
            f"Content-Length: {length}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def _request(
        self,
        connection: Connection,
        what: str,
        fields: list[str],
        body: "memoryview | bytes" = b"",
        deadline: Deadline | None = None,
    ) -> None:
        head = self._head(what, fields, len(body))
        deadline = deadline or Deadline(ANSWER_SECONDS)
        connection.awaited = what
        try:
            if len(body) <= 16384:
                connection.write(head + bytes(body), deadline)
            else:
                connection.write(head, deadline)
                connection.write(body, deadline)
        except GONE:
            # What it said before it went is still to be read.
            with contextlib.suppress(*GONE):
                answer = connection.poll_answer()
                if answer is not None:
                    self._learn(connection, answer)
            self._peer_died()

    def _answered(self, connection: Connection, deadline: Deadline) -> Answer:
        try:
            answer = connection.answer(deadline)
        except GONE:
            self._peer_died()
        except CorruptSegment:
            self._drop()
            raise
        self._learn(connection, answer)
        return answer

    def _learn(self, connection: Connection, answer: Answer) -> None:
        """What every answer says; raises what it means if it is no success."""
        asked, connection.awaited = connection.awaited, ""
        fields = answer.fields
        if "Podipc-Version" not in fields:
            self._drop()
            raise AddressInUse(
                f"what listens at {self._address} is no receiver of podipc (it answered "
                f"{answer.code}): choose another port"
            )
        if fields["Podipc-Version"] != VERSION:
            self._drop()
            raise VersionMismatch(
                f"the receiver of {self._address} speaks version {fields['Podipc-Version'][:20]}, "
                f"this sender version {VERSION}: install the same podipc in both containers"
            )
        self._taken = number(fields, "Podipc-Taken", self._taken)
        if asked == "join":  # not 0 if it knows us: only the connection was another one
            self._acknowledged = self._taken + number(fields, "Podipc-Queued")
        self._free = number(fields, "Podipc-Free", self._free)
        self._limit = number(fields, "Podipc-Limit", self._limit)
        self._sequence = number(fields, "Podipc-Next", self._sequence)
        if answer.bye:
            self._drop()
            if asked == "tensor" and answer.code == 200:
                return  # queued, and then left like those before: see _post
            self._note_left()
            raise Left
        if answer.code in {200, 503}:
            return
        self._drop()
        self._raise_refusal(answer)

    def _raise_refusal(self, answer: Answer) -> NoReturn:
        text = f"the receiver of {self._address} refused with {answer.code}: {answer.text}"
        if answer.code == 404:
            raise AddressError(text)
        if answer.code == 403:
            raise NotPermitted(text)
        if answer.code in {413, 507}:
            raise MemoryLimit(text)
        if answer.code == 408:
            raise Timeout(text)
        raise CorruptSegment(text)

    # --- the connection --------------------------------------------------

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._free = 0

    def _note_death(self) -> None:
        self._drop()
        self._died += 1
        self._lost += self._untaken()

    def _note_left(self) -> None:
        """The receiver has closed in order; what it has not taken is lost all the same."""
        sent, untaken = self._acknowledged, self._untaken()
        self._lost += untaken
        self._unread += untaken
        if untaken:
            self._unreported.append(
                f"the receiver of {self._address} closed without taking the last {untaken} of "
                f"{sent} tensors sent to it; http keeps no copy of them"
            )

    def _untaken(self) -> int:
        """How many of a receiver that has gone are lost, as far as it has told; forgets it."""
        untaken = max(0, self._acknowledged - self._taken)
        self._acknowledged = self._taken = 0
        return untaken

    def _note_death_unseen(self) -> None:
        self._note_death()
        self._unreported.append(f"the receiver of {self._address} died without closing")

    def _peer_died(self) -> NoReturn:
        self._note_death()
        raise PeerDied(
            f"the receiver of {self._address} died without closing; nothing of this tensor was "
            "received"
        )

    def _ready(self, deadline: Deadline) -> Connection:
        """A joined connection with no answer outstanding."""
        self._look()
        if self._unreported:
            raise PeerDied(self._unreported.popleft())
        while self._connection is None:
            if not self._connect_once(deadline):
                self._pause(deadline)
        if self._connection.awaited:
            self._answered(self._connection, deadline)
        return self._connection

    def _look(self) -> None:
        """Read what came by itself: the receiver's goodbye, or its end."""
        self._settle()
        connection = self._connection
        if connection is None:
            return
        try:
            while (answer := connection.poll_answer()) is not None:
                self._learn(connection, answer)
        except GONE:
            self._note_death_unseen()
        except CorruptSegment:
            self._drop()
            raise
        except Left:
            pass

    def _pause(self, deadline: Deadline) -> None:
        if deadline.passed:
            host, port = self._where
            raise Timeout(
                f"No receiver listens on {host}:{port}. It must run in the same Pod, whose "
                f"containers share 127.0.0.1, and open {self._address}."
            )
        if select.select([self._wake], [], [], deadline.left(RETRY_SECONDS))[0]:
            raise Closed(f"this sender of {self._address} was closed")

    def _connect_once(self, deadline: Deadline) -> bool:
        """Connect and join, if somebody listens."""
        if not self._start(deadline):
            return False
        connection = self._connection
        assert connection is not None
        try:
            answer = connection.answer(deadline.at_least(MOVE_SECONDS))
        except GONE:
            self._drop()  # it was about to close, or had no room for one more connection
            return False
        except CorruptSegment:
            self._drop()
            raise
        self._learn(connection, answer)
        return True

    def _start(self, deadline: Deadline) -> bool:
        """Connect and ask to join, without waiting for the answer."""
        try:
            sock = socket.create_connection(self._where, max(0.1, deadline.left(1.0)))
        except (ConnectionError, TimeoutError):
            return False
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise SystemCallError(f"cannot connect to {self._address}: {error}") from error
        if sock.getsockname() == sock.getpeername():
            # With nobody listening, a port of the ephemeral range can meet itself.
            sock.close()
            return False
        connection = Connection(sock, self._wake)
        self._connection = connection
        try:
            connection.awaited = "join"
            head = self._head("join", [f"Podipc-Sequence: {self._sequence}"], 0)
            connection.write(head, Deadline(ANSWER_SECONDS))
        except (Timeout, *GONE):
            self._drop()
            return False
        return True

    def _start_over(self) -> None:
        """Open a new connection, then end the old one: it is not to be taken for a death.

        In a thread of its own, which a second Ctrl-C does not reach.
        """
        self._recovered.clear()
        _thread.start_new_thread(self._replace, ())
        self._settle()

    def _settle(self) -> None:
        """Wait until no connection is being replaced."""
        if not self._recovered.wait(2 * ANSWER_SECONDS):
            self._replace()  # Ctrl-C came before the thread was there

    def _replace(self) -> None:
        old = self._connection
        try:
            if old is None:
                return
            if self._start(Deadline(ANSWER_SECONDS)):
                old.close()
            else:
                self._connection = old
                self._note_death_unseen()
        finally:
            self._recovered.set()

    # --- the rest --------------------------------------------------------

    def loan(
        self,
        shape: int | tuple[int, ...],
        dtype: "npt.DTypeLike" = "float64",
        *,
        timeout: float | None = None,
    ) -> "HttpLoan":
        """See `podipc.Sender.loan`; the memory is this process's own."""
        self._check()
        return HttpLoan(self, shape, dtype, timeout)

    def empty(
        self,
        shape: int | tuple[int, ...],
        dtype: "npt.DTypeLike" = "float64",
        *,
        timeout: float | None = None,
    ) -> "np.ndarray[Any, Any]":
        """See `podipc.Sender.empty`; an ordinary array."""
        Deadline(timeout)
        self._check()
        array = np.empty(shape, dtype)
        # Now, not after the work was done.
        encode_dtype(array.dtype)
        if self._max_bytes is not None and array.nbytes > self._max_bytes:
            self._too_large(array.nbytes, self._max_bytes, "the max_bytes of this sender")
        return array

    def stats(self) -> dict[str, int]:
        """See `podipc.Sender.stats`."""
        if self._pid == os.getpid() and not self._closed and self._lock.acquire(blocking=False):
            try:
                # What is wrong there is for the next send to say.
                with contextlib.suppress(PodipcError, Left):
                    self._look()
                    if self._connection is None:
                        self._connect_once(Deadline(MOVE_SECONDS))
            finally:
                self._lock.release()
        return {
            "messages": self._messages,
            "bytes": self._bytes,
            "peers": int(self._connection is not None),
            "peers_died": self._died,
            "queued": max(0, self._acknowledged - self._taken),
            "held": 0,
            "redelivered": 0,
            "lost_taken": self._lost,
            "skipped": 0,
            "unheard": 0,
            "reserved": 0,
            "max_bytes": self._max_bytes or self._limit,
        }

    def close(self) -> None:
        """See `podipc.Sender.close`."""
        if self._closed or self._pid != os.getpid():
            self._closed = True
            return
        self._closed = True
        os.eventfd_write(self._wake, 1)
        with self._lock:
            with contextlib.suppress(Exception):
                self._look()
                self._say_goodbye()
            self._drop()
            self._close_wake()
            unread, self._unread = self._unread, 0
        if unread:
            warnings.warn(
                f"{unread} tensors sent to {self._address} will reach nobody: their receivers left "
                "without taking them, and http keeps no copy",
                RuntimeWarning,
                stacklevel=2,
            )

    def _say_goodbye(self) -> None:
        if self._connection is None:
            return
        deadline = Deadline(ANSWER_SECONDS)
        connection = self._connection
        if connection.awaited:
            # That answer may take its time, and goodbye can be said anywhere.
            connection = Connection(socket.create_connection(self._where, ANSWER_SECONDS), None)
        connection.wake = None  # it ended the waits of others, and would end this one
        try:
            connection.write(self._head("bye", [], 0), deadline)
            connection.answer(deadline)
        finally:
            connection.close()

    def _forget_sockets(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._close_wake()

    def _close_wake(self) -> None:
        wake, self._wake = self._wake, -1
        if wake >= 0:  # else its number may be somebody else's by now
            os.close(wake)

    def __enter__(self) -> Self:
        """Return the sender itself."""
        self._check()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: "TracebackType | None",
        /,
    ) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Close it, if nobody did."""
        if hasattr(self, "_messages"):
            self.close()


class HttpLoan:
    """The block of `HttpSender.loan`."""

    def __init__(
        self,
        sender: HttpSender,
        shape: int | tuple[int, ...],
        dtype: "npt.DTypeLike",
        timeout: float | None,
    ) -> None:
        Deadline(timeout)
        self._sender = sender
        self._make = (shape, dtype)
        self._timeout = timeout
        self._array: np.ndarray[Any, Any] | None = None

    def __enter__(self) -> "np.ndarray[Any, Any]":
        """The array to fill in."""
        self._array = self._sender.empty(*self._make)
        return self._array

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: "TracebackType | None",
        /,
    ) -> None:
        """Send it, unless the block raised."""
        array, self._array = self._array, None
        if array is None or exc_type is not None:
            return
        self._sender.send(array, self._timeout)
        array.flags.writeable = False


def _bytes_of(tensor: "np.ndarray[Any, Any]") -> tuple[memoryview, str]:
    """The bytes of a tensor in one piece, without a copy where they are, and their order."""
    order = "F" if tensor.flags.f_contiguous and not tensor.flags.c_contiguous else "C"
    if tensor.nbytes == 0:  # of width 0, too, which copying would widen to 1
        return memoryview(b""), order
    flat = np.ascontiguousarray(tensor.T if order == "F" else tensor)
    return flat.reshape(-1).view(np.uint8).data, order
