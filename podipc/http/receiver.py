"""The receiving side of http: a server whose threads queue what comes, for `recv`."""

import contextlib
import errno
import io
import os
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np

from podipc._core import (
    AddressInUse,
    Closed,
    CorruptSegment,
    NotPermitted,
    PeerDied,
    SystemCallError,
    Timeout,
    limits,
)
from podipc.http.wire import VERSION, Deadline, Described, Endpoint, array_over, number

if TYPE_CHECKING:
    from types import TracebackType

    from podipc.address import Address

MAX_CONNECTIONS: Final = 256
HEAD_SECONDS: Final = 10.0
"""For all of a request's head, once it has begun."""
BODY_SECONDS: Final = 10.0
"""For a body, and then as long as it takes at 1 MiB/s."""
LINGER_SECONDS: Final = 1.0
ROOM_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 0.08
"""A sender that gives a request up opens a new connection before it ends the old one."""
_GOODBYE: Final = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    f"Podipc-Version: {VERSION}\r\nPodipc-Bye: closed\r\n"
    "Connection: close\r\nContent-Length: 0\r\n\r\n"
).encode()


@dataclass
class _Peer:
    """A sender, as long as something may still come of it."""

    next: int
    connections: int = 0
    lost_at: float = 0.0
    """When its last connection ended."""
    bye: bool = False
    reserved: int = 0
    """Bytes that it was promised."""
    queued: int = 0
    """Tensors."""
    taken: int = 0


@dataclass
class _Inbox:
    """What is between the server's threads and `recv`. All of it under `changed`."""

    max_bytes: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    queue: "deque[tuple[np.ndarray[Any, Any], str]]" = field(default_factory=deque)
    used: int = 0
    """Bytes that are queued or promised."""
    peers: dict[str, _Peer] = field(default_factory=dict)
    ended: bool = False
    """The sender that left last closed in order."""
    closing: bool = False
    messages: int = 0
    bytes: int = 0
    died: int = 0

    def join(self, who: str, sequence: int) -> int:
        """A connection of that sender; the number of the tensor that is to come next."""
        with self.changed:
            peer = self.peers.setdefault(who, _Peer(sequence))
            peer.connections += 1
            self.ended = False
            self.changed.notify_all()
            return peer.next

    def leave(self, who: str) -> None:
        """The end of a connection."""
        with self.changed:
            peer = self.peers.get(who)
            if peer is None:
                return
            peer.connections -= 1
            if peer.connections == 0:
                peer.lost_at = time.monotonic()
                self._release(peer)
            self.changed.notify_all()

    def bye(self, who: str) -> None:
        with self.changed:
            if who in self.peers:
                self.peers[who].bye = True
            self.changed.notify_all()

    def _release(self, peer: _Peer) -> None:
        self.used -= peer.reserved
        peer.reserved = 0

    def room(self, who: str, need: int, wait: float) -> bool:
        """Promise `need` bytes to that sender, once they are free."""
        deadline = Deadline(wait)
        with self.changed:
            if who in self.peers:
                self._release(self.peers[who])
            while not self.closing:
                peer = self.peers.get(who)
                if self.used + need <= self.max_bytes:
                    self.used += need
                    if peer is not None:
                        peer.reserved = need
                    return True
                if deadline.passed or (peer is not None and peer.bye):
                    return False
                self.changed.wait(deadline.left())
            return False

    def claim(self, who: str, need: int) -> bool:
        """Take bytes for a body: those that were promised, or free ones."""
        with self.changed:
            peer = self.peers.get(who)
            if peer is not None and peer.reserved >= need:
                self.used -= peer.reserved - need
                peer.reserved = 0
                return True
            if self.closing or self.used + need > self.max_bytes:
                return False
            self.used += need
            return True

    def unclaim(self, need: int) -> None:
        with self.changed:
            self.used -= need
            self.changed.notify_all()

    def put(self, array: "np.ndarray[Any, Any]", who: str) -> bool:
        """Queue a tensor whose bytes were claimed. False: too late."""
        with self.changed:
            if self.closing:
                return False
            peer = self.peers.get(who)
            if peer is not None:
                peer.next += 1
                peer.queued += 1
            self.queue.append((array, who))
            self.changed.notify_all()
            return True

    def _gone(self, now: float) -> "PeerDied | None":
        """Forget senders of which nothing more can come."""
        for who, peer in list(self.peers.items()):
            if peer.queued or not (peer.bye or peer.connections == 0):
                continue
            if peer.bye:
                self._release(peer)
                del self.peers[who]
                self.ended = True
            elif now >= peer.lost_at + GRACE_SECONDS:
                del self.peers[who]
                self.ended = False
                self.died += 1
                return PeerDied("a sender died without closing; what it had sent was delivered")
        return None

    def _until(self) -> float:
        """When to look again, if nothing happens before: a sender may prove to be dead."""
        lost = [p.lost_at for p in self.peers.values() if p.connections == 0 and not p.queued]
        return min(lost, default=float("inf")) + GRACE_SECONDS

    def get(self, deadline: Deadline) -> "np.ndarray[Any, Any] | None":
        """The next tensor; None when the deadline has passed."""
        with self.changed:
            while not self.closing:
                died = self._gone(time.monotonic())
                if died is not None:
                    raise died
                if self.queue:
                    return self._take()
                if self.ended and not self.peers:
                    raise Closed("every sender has closed, and nothing is left")
                if deadline.passed:
                    return None
                again = max(0.0, self._until() - time.monotonic())
                self.changed.wait(min(deadline.left(), again))
            raise Closed("this receiver was closed")

    def _take(self) -> "np.ndarray[Any, Any]":
        array, who = self.queue.popleft()
        self.used -= array.nbytes
        self.messages += 1
        self.bytes += array.nbytes
        if who in self.peers:
            self.peers[who].queued -= 1
            self.peers[who].taken += 1
        self.changed.notify_all()
        return array


class _Raw(io.RawIOBase):
    """Reads from a socket, and gives up at a deadline however slowly the bytes drip."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline: Deadline | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = None if self.deadline is None else self.deadline.left()
        if left == 0:
            raise TimeoutError("the request came too slowly")
        self.sock.settimeout(left)
        return self.sock.recv_into(buffer)


class _Writer(io.RawIOBase):
    """Writes to a socket without SIGPIPE, whatever the process made of that signal."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sock.settimeout(HEAD_SECONDS)
        self.sock.sendall(data, socket.MSG_NOSIGNAL)
        return len(data)


class _Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    protocol_version: ClassVar[str] = "HTTP/1.1"  # type: ignore[misc]
    disable_nagle_algorithm: ClassVar[bool] = True
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.raw = _Raw(self.connection)
        self.rfile = self.stream = io.BufferedReader(self.raw, 65536)
        self.wfile = _Writer(self.connection)  # type: ignore[assignment]
        self.inbox = self.server.inbox
        self.who = ""  # once joined
        self.busy = False  # with a request
        self.told = False  # that we close
        with self.inbox.changed:
            self.server.handlers.add(self)

    def finish(self) -> None:
        with self.inbox.changed:
            self.server.handlers.discard(self)
        if self.who:
            self.inbox.leave(self.who)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def handle_one_request(self) -> None:
        # Between two requests a sender may take as long as it likes.
        self.raw.deadline = None
        if not self.stream.peek(1):
            self.close_connection = True
            return
        with self.inbox.changed:
            if self.inbox.closing:
                self.close_connection = True
                return
            self.busy = True
        self.raw.deadline = Deadline(HEAD_SECONDS)
        try:
            super().handle_one_request()
        finally:
            with self.inbox.changed:
                self.busy = False
                if self.inbox.closing:
                    self.say_goodbye()
                    self.inbox.changed.notify_all()

    def say_goodbye(self) -> None:
        """By itself, to a sender that asks for nothing just now. With the inbox locked."""
        self.close_connection = True
        if self.busy or self.told:
            return  # it stands in the answer
        self.told = True
        with contextlib.suppress(OSError):
            self.connection.setblocking(False)
            self.connection.send(_GOODBYE, socket.MSG_NOSIGNAL)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def log_message(self, format: str, *args: object) -> None:
        """A library does not write to stderr."""

    def _answer(self, code: int, text: str = "", fields: dict[str, object] | None = None) -> None:
        body = f"{text}\n".encode() if text else b""
        self.send_response_only(code)
        self.send_header("Podipc-Version", VERSION)
        for name, value in (fields or {}).items():
            self.send_header(f"Podipc-{name}", str(value))
        with self.inbox.changed:
            if self.inbox.closing:
                self.send_header("Podipc-Bye", "closed")
                self.close_connection = self.told = True
        if self.close_connection:
            self.send_header("Connection", "close")
        if body:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, code: int, text: str) -> None:
        """Answer without having read the body, and end the connection."""
        self.close_connection = True
        self._answer(code, text)
        # Closing a socket with unread bytes resets the connection, and the answer
        # may be lost. Wait a little for the other side to read it.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.raw.deadline = Deadline(LINGER_SECONDS)
            while self.rfile.read1(65536):
                pass

    def _method_not_allowed(self) -> None:
        self._refuse(405, "podipc receives tensors by POST")

    do_GET = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _method_not_allowed

    def handle_expect_100(self) -> bool:
        """Not yet: only who is going to read the body asks for it."""
        return True

    def do_POST(self) -> None:
        try:
            self._post()
        except CorruptSegment as error:
            self._refuse(400, str(error))

    def _post(self) -> None:
        host = self.headers.get_all("Host") or [""]
        if len(host) != 1 or host[0].lower() not in self.server.hosts:
            self._refuse(403, f"the host {host[0][:80]!r} is not this one")
        elif self.headers.get("Origin") is not None:
            self._refuse(403, "requests that a page in a browser makes are refused (Origin)")
        elif self.path != self.server.path:
            self._refuse(404, f"this receiver serves the path {self.server.path}")
        elif self.headers.get("Podipc-Version", VERSION) != VERSION:
            self._refuse(400, f"this receiver speaks version {VERSION}")
        elif self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length") is None:
            self._refuse(411, "the body needs a Content-Length")
        else:
            self._do(number(self.headers, "Content-Length"))

    def _do(self, length: int) -> None:
        what = self.headers.get("Podipc-Do", "tensor")
        who = self.headers.get("Podipc-Sender", "")
        if len(who) > 64:
            raise CorruptSegment("Podipc-Sender is too long")
        if what == "tensor":
            self._tensor(who, length)
        elif length:
            self._refuse(413, f"the request {what[:20]!r} has no body")
        elif what == "join" and who and not self.who:
            sequence = self.inbox.join(who, number(self.headers, "Podipc-Sequence"))
            self.who = who
            self._ok(Limit=self.inbox.max_bytes, Next=sequence)
        elif what == "room" and who == self.who:
            self._room(number(self.headers, "Podipc-Need"))
        elif what == "bye":
            self.inbox.bye(who)
            self._ok()
        else:
            raise CorruptSegment(f"Podipc-Do is {what[:20]!r}, which is not known or not now")

    def _ok(self, **fields: object) -> None:
        inbox = self.inbox
        with inbox.changed:
            free = max(0, inbox.max_bytes - inbox.used)
            peer = inbox.peers.get(self.who)
            taken = peer.taken if peer else 0
        self._answer(200, fields={"Free": free, "Taken": taken, **fields})

    def _room(self, need: int) -> None:
        if need > self.inbox.max_bytes:
            self._too_large(need)
            return
        wait = min(number(self.headers, "Podipc-Wait") / 1000, ROOM_SECONDS)
        if self.inbox.room(self.who, need, wait):
            self._ok()
        else:
            self._answer(503, "no room yet")

    def _too_large(self, length: int) -> None:
        limit = self.inbox.max_bytes
        self._refuse(413, f"a tensor of {length} bytes, and this receiver takes up to {limit}")

    def _tensor(self, who: str, length: int) -> None:
        if length > self.inbox.max_bytes:
            self._too_large(length)
            return
        described = Described(self.headers)
        if described.nbytes != length:
            raise CorruptSegment(
                f"a body of {length} bytes for a tensor that has {described.nbytes}"
            )
        if who != self.who:
            raise CorruptSegment("Podipc-Sender is not the one that joined on this connection")
        with self.inbox.changed:
            peer = self.inbox.peers.get(who)
            expected = peer.next if peer else 0
        if who and number(self.headers, "Podipc-Sequence") != expected:
            self._refuse(409, f"the next tensor of this sender has the number {expected}")
        elif not self.inbox.claim(who, length):
            self._skip(length)
        else:
            self._take_in(described)

    def _skip(self, length: int) -> None:
        """No room: the body is on its way all the same."""
        self.raw.deadline = Deadline(BODY_SECONDS + length / (1 << 20))
        scratch = memoryview(bytearray(65536))
        while length > 0:
            n = self.rfile.readinto(scratch[: min(length, len(scratch))])
            if not n:
                self.close_connection = True
                return
            length -= n
        self._answer(503, "no room yet")

    def _take_in(self, described: Described) -> None:
        queued = False
        try:
            array = self._read_body(described)
            # A sender that has given up has closed the connection before it said so.
            if array is not None and self._still_there():
                queued = self.inbox.put(array, self.who)
        except MemoryError:
            self._refuse(507, f"no memory for a tensor of {described.nbytes} bytes")
            return
        finally:
            if not queued:
                self.inbox.unclaim(described.nbytes)
        if array is None:
            self.close_connection = True
        elif queued:
            self._ok()
        else:
            self._answer(503, "closing")

    def _read_body(self, described: Described) -> "np.ndarray[Any, Any] | None":
        memory = np.empty(described.nbytes, np.uint8)
        array = array_over(described, memory)
        self.raw.deadline = Deadline(BODY_SECONDS + described.nbytes / (1 << 20))
        rest = memory.data
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            while rest:
                n = self.rfile.readinto(rest)
                if not n:
                    return None
                rest = rest[n:]
        except TimeoutError:
            self._refuse(408, "the body came too slowly")
            return None
        return array

    def _still_there(self) -> bool:
        try:
            self.connection.setblocking(False)
            ahead: bytes = self.connection.recv(1, socket.MSG_PEEK)
            return ahead != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: "Address", inbox: _Inbox) -> None:
        self.inbox = inbox
        self.path = address.path
        names = {"127.0.0.1", "localhost", "[::1]", address.host}
        self.hosts = {f"{name}:{address.port}" for name in names}
        if address.port == 80:
            self.hosts |= names
        self.handlers: set[_Handler] = set()
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the DNS for the name of the host.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def accept_all(self) -> None:
        """Until the listening socket is shut down."""
        while True:
            try:
                request, peer = self.get_request()
            except OSError as error:
                if self.inbox.closing or error.errno in {errno.EINVAL, errno.EBADF}:
                    return
                time.sleep(0.05)  # out of descriptors, perhaps for a moment
                continue
            if len(self.handlers) >= MAX_CONNECTIONS:
                self.shutdown_request(request)
            else:
                self.process_request(request, peer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class HttpReceiver(Endpoint):
    """See `podipc.Receiver`. Any thread may call any method at any time."""

    def __init__(self, address: "Address", max_bytes: int | None = None) -> None:
        budget = max_bytes or int(limits()["memory"]) // 4
        self._inbox = _Inbox(budget)
        try:
            self._server = _Server(address, self._inbox)
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
            return f"{len(self._inbox.peers)} senders are connected to {self._address}."
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
            for handler in self._server.handlers:
                handler.say_goodbye()
            self._inbox.queue.clear()
            self._inbox.changed.notify_all()
            # Who waits for an answer gets one, also if this process ends now.
            self._inbox.changed.wait_for(
                lambda: not any(handler.busy for handler in self._server.handlers), LINGER_SECONDS
            )
        with contextlib.suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
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
