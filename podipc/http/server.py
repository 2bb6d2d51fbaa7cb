"""The server of a receiver: reads requests, refuses what it must, and fills the inbox."""

import contextlib
import errno
import io
import socket
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from podipc._core import CorruptSegment
from podipc.http.inbox import Inbox
from podipc.http.wire import VERSION, Deadline, Described, array_over, number

if TYPE_CHECKING:
    from podipc.address import Address

MAX_CONNECTIONS: Final = 256
HEAD_SECONDS: Final = 10.0
"""For all of a request's head, once it has begun."""
BODY_SECONDS: Final = 10.0
"""For a body, and then as long as it takes at 1 MiB/s."""
LINGER_SECONDS: Final = 1.0
ROOM_SECONDS: Final = 10.0

_GOODBYE: Final = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    f"Podipc-Version: {VERSION}\r\nPodipc-Bye: closed\r\n"
    "Connection: close\r\nContent-Length: 0\r\n\r\n"
).encode()


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


class Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    protocol_version: ClassVar[str] = "HTTP/1.1"  # type: ignore[misc]
    disable_nagle_algorithm: ClassVar[bool] = True
    server: "Server"

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


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: "Address", inbox: Inbox) -> None:
        self.inbox = inbox
        self.path = address.path
        names = {"127.0.0.1", "localhost", "[::1]", address.host}
        self.hosts = {f"{name}:{address.port}" for name in names}
        if address.port == 80:
            self.hosts |= names
        self.handlers: set[Handler] = set()
        super().__init__((address.host, address.port), Handler)

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
