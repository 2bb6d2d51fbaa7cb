"""The receiving side of http: a server whose threads queue what comes, for `recv`."""

import errno
import os
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from podipc._core import AddressInUse, Closed, NotPermitted, SystemCallError, Timeout, limits
from podipc.deadline import Deadline
from podipc.http.inbox import Inbox
from podipc.http.server import Server
from podipc.http.wire import Endpoint
from podipc.web import HEAD_SECONDS, LINGER_SECONDS

if TYPE_CHECKING:
    from types import TracebackType

    from podipc.address import Address


class HttpReceiver(Endpoint):
    """See `podipc.Receiver`. Any thread may call any method at any time."""

    def __init__(self, address: "Address", max_bytes: int | None = None) -> None:
        budget = max_bytes or int(limits()["memory"]) // 4
        self._inbox = Inbox(budget)
        try:
            self._server = Server(address, self._inbox)
        except OSError as error:
            raise _cannot_listen(address, error) from error
        self._accepting = threading.Thread(
            target=self._server.accept_all, name="podipc-http", daemon=True
        )
        super().__init__(address.text)
        self._accepting.start()

    def recv(
        self, timeout: float | None = None, *, copy: bool = False, writable: bool = False
    ) -> "np.ndarray[Any, Any]":
        """See `podipc.Receiver.recv`. The array is private memory in any case."""
        self._check()
        array = self._inbox.get(Deadline(timeout))
        if array is None:
            raise Timeout(f"Nothing came within the timeout. {self._why()}")
        if not (copy or writable):
            array.flags.writeable = False
        return array

    def _why(self) -> str:
        if self._inbox.peers:
            number = len(self._inbox.peers)
            are = "1 sender is" if number == 1 else f"{number} senders are"
            return f"{are} connected to {self._address}."
        return (
            f"No sender has connected to {self._address}. It must run in the same Pod, whose "
            "containers share 127.0.0.1, and open the same address."
        )

    def stats(self) -> dict[str, int]:
        """See `podipc.Receiver.stats`."""
        inbox = self._inbox
        with inbox.changed:
            return {
                "messages": inbox.messages,
                "bytes": inbox.bytes,
                "peers": sum(not p.bye and p.connections > 0 for p in inbox.peers.values()),
                "peers_died": inbox.died,
                "queued": len(inbox.queue),
                "held": 0,
                "redelivered": 0,
                "lost_taken": 0,
                "skipped": 0,
                "unheard": 0,
                "reserved": inbox.used,
                "max_bytes": inbox.max_bytes,
            }

    def close(self) -> None:
        """See `podipc.Receiver.close`."""
        if self._closed or self._pid != os.getpid():
            self._closed = True
            return
        self._closed = True
        with self._inbox.changed:
            self._inbox.closing = True
            self._inbox.queue.clear()
            # Who waits for an answer gets one, also if this process ends now.
            self._server.say_goodbye(LINGER_SECONDS)
        self._server.stop_listening()
        self._accepting.join(HEAD_SECONDS)
        self._server.server_close()

    def _forget_sockets(self) -> None:
        self._server.socket.close()
        for handler in list(self._server.handlers):
            handler.connection.close()

    def __iter__(self) -> Self:
        """Return the receiver itself: ``for x in rx`` is `recv` until ``Closed``."""
        return self

    def __next__(self) -> "np.ndarray[Any, Any]":
        """`recv()`; ends where it would raise ``Closed``."""
        try:
            return self.recv()
        except Closed:
            raise StopIteration from None

    def __enter__(self) -> Self:
        """Return the receiver itself."""
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
        if hasattr(self, "_accepting"):
            self.close()


def _cannot_listen(address: "Address", error: OSError) -> Exception:
    where = f"{address.host}:{address.port}"
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"another process of the Pod listens on {where}: all containers share its ports, so "
            "choose another one, or stop that process"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotPermitted(
            f"UID {os.geteuid()} may not listen on {where}: choose a port from 1024 up"
        )
    return SystemCallError(f"cannot listen on {where}: {error}")
