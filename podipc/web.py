"""A small HTTP server for the containers of one Pod: what every service of podipc needs.

The engine is Python's `http.server`. What is added: a request that comes too slowly is
given up, connections are bounded, and a page in a browser, which could send requests to
127.0.0.1 as well, is refused by its ``Origin`` and by a ``Host`` that is not ours.
"""

import contextlib
import errno
import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from podipc.deadline import Deadline

HEAD_SECONDS: Final = 10.0
"""For all of a request's head, once it has begun."""
BODY_SECONDS: Final = 10.0
"""For a body, and then as long as it takes at 1 MiB/s."""
LINGER_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.05
"""Until the next attempt when descriptors or threads have run out, perhaps for a moment."""


class _Raw(io.RawIOBase):
    """Reads from a socket, and gives up at a deadline however slowly the bytes drip."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline: Deadline | None = None
        self.late = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = None if self.deadline is None else self.deadline.left()
        if left != 0:
            self.sock.settimeout(left)
            with contextlib.suppress(TimeoutError):
                return self.sock.recv_into(buffer)
        self.late = True
        raise TimeoutError("the request came too slowly")


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
    """One connection, in a thread of its own. A subclass has the ``do_METHOD`` and `answer`."""

    protocol_version: ClassVar[str] = "HTTP/1.1"  # type: ignore[misc]
    disable_nagle_algorithm: ClassVar[bool] = True
    idle_seconds: ClassVar[float | None] = None
    """Between two requests; None is as long as the other side likes."""
    server: "Server"

    # As long as no request line was read.
    request_version = "HTTP/1.1"
    command = ""

    def setup(self) -> None:
        super().setup()
        self.raw = _Raw(self.connection)
        self.rfile = self.stream = io.BufferedReader(self.raw, 65536)
        self.wfile = _Writer(self.connection)  # type: ignore[assignment]
        self.busy = False  # with a request
        self.told = False  # that we close
        self.answered = False
        with self.server.changed:
            self.server.handlers.add(self)

    def finish(self) -> None:
        with self.server.changed:
            self.server.handlers.discard(self)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def handle_one_request(self) -> None:
        self.raw.deadline = None if self.idle_seconds is None else Deadline(self.idle_seconds)
        if not self.stream.peek(1):
            self.close_connection = True
            return
        changed = self.server.changed
        with changed:
            if self.server.closing:
                self.close_connection = True
                return
            self.busy = True
        self.raw.deadline = Deadline(HEAD_SECONDS)
        self.answered = False
        try:
            super().handle_one_request()
            if self.raw.late and not self.answered:
                self.refuse(408, "the head of the request came too slowly")
        finally:
            with changed:
                self.busy = False
                if self.server.closing:
                    self.say_goodbye()
                    changed.notify_all()

    def say_goodbye(self) -> None:
        """To the other side, which asks for nothing just now. With `changed` locked."""
        self.close_connection = True
        if self.busy or self.told:
            return  # it stands in the answer
        self.told = True
        if goodbye := self.goodbye():
            with contextlib.suppress(OSError):
                self.connection.setblocking(False)
                self.connection.send(goodbye, socket.MSG_NOSIGNAL)
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def goodbye(self) -> bytes:
        """What is sent by itself to who is connected when we close. With `changed` locked."""
        return b""

    def log_message(self, format: str, *args: object) -> None:
        """A library does not write to stderr."""

    def send_response_only(self, code: int, message: str | None = None) -> None:
        self.answered = True
        super().send_response_only(code, message)

    def answer(self, code: int, text: str = "") -> None:
        """Send an answer; with ``Connection: close`` if `close_connection` is set."""
        raise NotImplementedError

    def refuse(self, code: int, text: str) -> None:
        """Answer without having read the body, and end the connection."""
        self.close_connection = True
        self.answer(code, text)
        # Closing a socket with unread bytes resets the connection, and the answer
        # may be lost. Wait a little for the other side to read it.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.raw.deadline = Deadline(LINGER_SECONDS)
            while self.rfile.read1(65536):
                pass

    def handle_expect_100(self) -> bool:
        """Not yet: only who is going to read the body asks for it."""
        return True

    def is_foreign(self) -> str:
        """Why this request is none of a program of this Pod, or ""."""
        host = self.headers.get_all("Host") or [""]
        if len(host) != 1 or host[0].lower() not in self.server.hosts:
            known = ", ".join(sorted(self.server.hosts))
            return f"the host {host[0][:80]!r} is not this one, which is {known}"
        if self.headers.get("Origin") is not None:
            return "requests that a page in a browser makes are refused (Origin)"
        return ""

    def lacks_length(self) -> bool:
        """Whether nobody can say how long the body is before all of it has been read."""
        fields = self.headers
        return bool(fields.get("Transfer-Encoding")) or fields.get("Content-Length") is None

    def read_body(self, rest: memoryview) -> bool:
        """Fill `rest` with the body; False if the connection ended before.

        Raises
        ------
        TimeoutError
            The body came too slowly.
        """
        self.raw.deadline = Deadline(BODY_SECONDS + len(rest) / (1 << 20))
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while rest:
            n = self.stream.readinto(rest)
            if not n:
                return False
            rest = rest[n:]
        return True


class Server(ThreadingHTTPServer):
    """Listens, and starts a thread for each connection.

    Parameters
    ----------
    place
        Host and port; port 0 is a free one.
    handler
        What answers.
    names
        What a ``Host`` may call us, without a port; as ``NAME:PORT`` it is taken as it stands.
    changed
        Guards `handlers`, their `busy` and `closing`; notified when one of them changes.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    max_connections = 256
    turned_away = b""
    """What is sent to one connection more than `max_connections`."""

    def __init__(
        self,
        place: tuple[str, int],
        handler: type[Handler],
        names: Iterable[str],
        changed: threading.Condition,
    ) -> None:
        self.changed = changed
        self.handlers: set[Handler] = set()
        self._connections = 0  # also those whose handler is not there yet
        if ":" in place[0]:
            self.address_family = socket.AF_INET6
        super().__init__(place, handler)
        plain = {name.lower() for name in names}
        self.hosts = {name if _has_port(name) else f"{name}:{self.server_port}" for name in plain}
        if self.server_port == 80:
            self.hosts |= plain

    @property
    def closing(self) -> bool:
        """Whether no more requests are taken."""
        raise NotImplementedError

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
                if self.closing or error.errno in {errno.EINVAL, errno.EBADF}:
                    return
                time.sleep(PAUSE_SECONDS)
                continue
            if self._connections < self.max_connections and self._has_thread(request, peer):
                continue
            with contextlib.suppress(OSError):
                request.send(self.turned_away, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            self.shutdown_request(request)

    def _has_thread(self, request: Any, peer: Any) -> bool:
        """Start the thread of a connection; False if the container has no room for one."""
        with self.changed:
            self._connections += 1
        try:
            self.process_request(request, peer)
        except (RuntimeError, MemoryError):
            with self.changed:
                self._connections -= 1
            time.sleep(PAUSE_SECONDS)
            return False
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.changed:
                self._connections -= 1

    def say_goodbye(self, seconds: float) -> bool:
        """Once `closing` is true: whether all requests were answered within so many seconds."""
        with self.changed:
            for handler in self.handlers:
                handler.say_goodbye()
            self.changed.notify_all()
            return self.changed.wait_for(
                lambda: not any(handler.busy for handler in self.handlers), seconds
            )

    def stop_listening(self) -> None:
        """Let `accept_all` end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _has_port(name: str) -> bool:
    return name.rpartition("]")[2].rpartition(":")[2].isdigit() and ":" in name.rpartition("]")[2]
