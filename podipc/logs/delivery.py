"""Delivers lines to an agent: in order, and each once, over restarts of the agent."""

import contextlib
import os
import secrets
import socket
import threading
import time
import weakref
from typing import Final, Literal

from podipc._core import Closed, CorruptSegment
from podipc.address import Address
from podipc.deadline import Deadline
from podipc.http.connection import GONE, Answer, Connection
from podipc.http.wire import number
from podipc.logs.backlog import Backlog, Batch

REFUSED: Final = {400, 413, 415}
"""Answers of an agent that would be the same the next time."""

FIRST_PAUSE: Final = 0.02
LAST_PAUSE: Final = 1.0
CONNECT_SECONDS: Final = 1.0
_NO_ANSWER: Final = "the agent has not answered yet"


class Delivery:
    """Lines to one agent. Any thread may call any method.

    Parameters
    ----------
    address
        Of the agent.
    capacity, max_bytes, drop
        As for `Backlog`.
    timeout
        Seconds to wait for an answer, before the same is sent again.
    threaded
        Whether a thread of its own delivers, or the one that calls `put`.
    """

    def __init__(
        self,
        address: Address,
        capacity: int,
        max_bytes: int,
        drop: Literal["newest", "oldest"],
        *,
        timeout: float,
        threaded: bool,
    ) -> None:
        self._address = address
        self._bounds = (capacity, max_bytes, drop)
        self._timeout = timeout
        self._threaded = threaded
        self.closed = False
        self._begin()
        _deliveries.add(self)

    def _begin(self) -> None:
        """Of this process: a client of its own, and nothing to deliver yet."""
        self.backlog = Backlog(*self._bounds)
        self._client = secrets.token_hex(16)
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._failures = 0
        self._retry_at = 0.0
        self.trouble = _NO_ANSWER
        """Why lines wait: what the last attempt met, if it failed."""

    def in_child(self) -> None:
        """After a fork: what the parent has not delivered yet is for the parent to deliver."""
        if self._connection is not None:
            self._connection.close()
        if not self.closed:
            os.close(self._wake)
            self._begin()

    def put(self, line: bytes, block: float) -> bool:
        """Add a line; at most so many seconds; False if some line was dropped for it."""
        if self.closed:
            return False
        if self._threaded and self._has_thread():
            return self.backlog.put(line, block)
        deadline = Deadline(block)
        may_try = not self.backlog.stalled or time.monotonic() >= self._retry_at
        if may_try and not self.backlog.fits(line):
            self._pump(deadline)
        whole = self.backlog.put(line, 0)
        if may_try:
            self.backlog.stalled = not self._pump(deadline)
        return whole

    def flush(self, timeout: float) -> bool:
        """Wait until all that was put before has been delivered."""
        if self.closed:
            return True
        if self._threaded and self._has_thread():
            gone = self.backlog.wait_until_gone(timeout)
        else:
            gone = self._pump(Deadline(timeout))
        self.backlog.stalled = not gone
        return gone

    def close(self, timeout: float) -> int:
        """Deliver what there is, and end; the number of lines that were not delivered."""
        if self.closed:
            return 0
        # Who has just waited in vain need not do it twice.
        self.flush(0 if self.backlog.stalled else timeout)
        self.closed = True
        self._ended.set()
        os.eventfd_write(self._wake, 1)
        with self.backlog.changed:
            self.backlog.changed.notify_all()
        if self._thread is not None:
            self._thread.join(CONNECT_SECONDS + 1)
        with self._sending:
            self._disconnect()
            os.close(self._wake)
        return self.backlog.waiting

    def _has_thread(self) -> bool:
        with self.backlog.changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="podipc-logs", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # none can be started any more: the interpreter ends
                    return False
                self._thread = thread
        return True

    def _run(self) -> None:
        ended = self._ended
        while self.backlog.wait_for_work(ended) and not ended.is_set():
            with self._sending:
                good = self._attempt(Deadline(self._timeout))
            if not good:
                ended.wait(max(0.0, self._retry_at - time.monotonic()))

    def _pump(self, deadline: Deadline) -> bool:
        """Deliver in this thread; whether all has gone."""
        while not self.backlog.empty:
            if not self._sending.acquire(timeout=deadline.left()):
                return False
            try:
                good = self._attempt(Deadline(deadline.left(self._timeout)))
            finally:
                self._sending.release()
            pause = 0.0 if good else self._retry_at - time.monotonic()
            if not self.backlog.empty and pause >= deadline.left():
                return False
            self._ended.wait(max(0.0, pause))
        return True

    # --- one attempt, with `_sending` locked ------------------------------

    def _attempt(self, deadline: Deadline) -> bool:
        """Send the next batch; whether to go on at once."""
        batch = self.backlog.next()
        if batch is None:
            return True
        try:
            answer = self._post(batch, deadline)
        except Closed:
            return False
        except Exception as error:
            # Whatever it is: a line is not to be lost because of it.
            self._disconnect()
            self._failed(str(error) or "the agent ended the connection")
            return False
        except BaseException:
            self._disconnect()
            raise
        if answer.fields.get("Connection", "").lower() == "close":
            self._disconnect()
        if answer.code == 200:
            self.backlog.done()
        elif answer.code in REFUSED and "Podipc-Version" in answer.fields:
            self.backlog.split(answer.text)
        else:
            self._failed(f"it answered {answer.code}: {answer.text[:200]}")
            self._retry_at = max(self._retry_at, time.monotonic() + _retry_after(answer))
            return False
        self._failures = 0
        self.trouble = _NO_ANSWER
        return True

    def _failed(self, why: str) -> None:
        self.trouble = why
        self._retry_at = time.monotonic() + min(
            LAST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 9)
        )
        self._failures += 1

    def _post(self, batch: Batch, deadline: Deadline) -> Answer:
        connection = self._connected(deadline)
        body = b"\n".join(batch.lines)
        address = self._address
        head = (
            f"POST {address.path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
            f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n"
            f"Podipc-Client: {self._client}\r\nPodipc-Sequence: {batch.sequence}\r\n\r\n"
        )
        connection.write(head.encode("ascii") + body, deadline)
        return connection.answer(deadline)

    def _connected(self, deadline: Deadline) -> Connection:
        if self._connection is not None:
            # An agent that ended, or has had enough of an idle client, has closed it.
            try:
                if self._connection.poll_answer() is not None:
                    self._disconnect()
            except GONE:
                self._disconnect()
        if self._connection is None:
            # Not create_connection, which imports a codec: a fork meanwhile would break it.
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(0.01, deadline.left(CONNECT_SECONDS)))
                sock.connect((self._address.host, self._address.port))
            except BaseException:
                sock.close()
                raise
            self._connection = Connection(sock, self._wake)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _retry_after(answer: Answer) -> float:
    with contextlib.suppress(CorruptSegment):
        return min(LAST_PAUSE, number(answer.fields, "Retry-After"))
    return 0.0


_deliveries: "weakref.WeakSet[Delivery]" = weakref.WeakSet()


def _in_child() -> None:
    for delivery in list(_deliveries):
        delivery.in_child()


os.register_at_fork(after_in_child=_in_child)
