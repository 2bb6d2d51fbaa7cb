"""The server of a receiver: reads requests, refuses what it must, and fills the inbox."""

import socket
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from podipc import web
from podipc._core import CorruptSegment, limits
from podipc.deadline import Deadline
from podipc.http.inbox import Inbox
from podipc.http.wire import VERSION, Described, array_over, number

if TYPE_CHECKING:
    from podipc.address import Address

ROOM_SECONDS: Final = 10.0
LOOK_FROM: Final = 1 << 20
"""Bytes of a tensor for which it is looked how much memory is left."""


class Handler(web.Handler):
    """A sender's connection."""

    server: "Server"

    def setup(self) -> None:
        self.inbox = self.server.inbox
        self.who = ""  # once joined
        super().setup()

    def finish(self) -> None:
        super().finish()
        if self.who:
            self.inbox.leave(self.who)

    def answer(self, code: int, text: str = "") -> None:
        self._answer(code, text)

    def _answer(self, code: int, text: str = "", fields: dict[str, object] | None = None) -> None:
        body = f"{text}\n".encode() if text else b""
        self.send_response_only(code)
        self.send_header("Podipc-Version", VERSION)
        with self.inbox.changed:
            if self.inbox.closing:
                fields = {**(fields or {}), "Taken": self._taken(), "Bye": "closed"}
                self.close_connection = self.told = True
        for name, value in (fields or {}).items():
            self.send_header(f"Podipc-{name}", str(value))
        if self.close_connection:
            self.send_header("Connection", "close")
        if body:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def _taken(self) -> int:
        peer = self.inbox.peers.get(self.who)
        return peer.taken if peer else 0

    def goodbye(self) -> bytes:
        return (
            "HTTP/1.1 503 Service Unavailable\r\n"
            f"Podipc-Version: {VERSION}\r\nPodipc-Taken: {self._taken()}\r\n"
            "Podipc-Bye: closed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    def _method_not_allowed(self) -> None:
        self.refuse(405, "podipc receives tensors by POST")

    do_GET = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _method_not_allowed

    def do_POST(self) -> None:
        try:
            self._post()
        except CorruptSegment as error:
            self.refuse(400, str(error))

    def _post(self) -> None:
        if foreign := self.is_foreign():
            self.refuse(403, foreign)
        elif self.path != self.server.path:
            self.refuse(404, f"this receiver serves the path {self.server.path}")
        elif self.headers.get("Podipc-Version", VERSION) != VERSION:
            self.refuse(400, f"this receiver speaks version {VERSION}")
        elif self.lacks_length():
            self.refuse(411, "the body needs a Content-Length")
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
            self.refuse(413, f"the request {what[:20]!r} has no body")
        elif what == "join" and who and not self.who:
            sequence = self.inbox.join(who, number(self.headers, "Podipc-Sequence"))
            self.who = who
            self._ok(Limit=self.inbox.max_bytes, Next=sequence)
        elif what == "room" and who and who == self.who:
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
            queued, taken = (peer.queued, peer.taken) if peer else (0, 0)
        fields = {"Free": free, "Queued": queued, "Taken": taken, **fields}
        self._answer(200, fields=fields)

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
        self.refuse(413, f"a tensor of {length} bytes, and this receiver takes up to {limit}")

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
            self.refuse(409, f"the next tensor of this sender has the number {expected}")
        elif not self.inbox.claim(who, length):
            self._skip(length)
        else:
            self._take_in(described)

    def _skip(self, length: int) -> None:
        """No room: the body is on its way all the same."""
        self.raw.deadline = Deadline(web.BODY_SECONDS + length / (1 << 20))
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
            _look_at_memory(described.nbytes)
            array = self._read_body(described)
            # A sender that has given up has closed the connection before it said so.
            if array is not None and self._still_there():
                queued = self.inbox.put(array, self.who)
        except MemoryError as error:
            self.refuse(507, f"no memory for a tensor of {described.nbytes} bytes: {error}")
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
        try:
            if not self.read_body(memory.data):
                return None
        except TimeoutError:
            self.refuse(408, "the body came too slowly")
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


def _look_at_memory(need: int) -> None:
    """Raise MemoryError where the kernel would kill us for what we are about to fill."""
    have = limits()["memory_available"] if need >= LOOK_FROM else need
    if have < need:
        raise MemoryError(
            f"the receiver's container has {have} bytes left; raise its memory limit in the Pod's "
            "manifest, or let go of tensors there"
        )


class Server(web.Server):
    def __init__(self, address: "Address", inbox: Inbox) -> None:
        self.inbox = inbox
        self.path = address.path
        names = {"127.0.0.1", "localhost", "[::1]", address.host}
        super().__init__((address.host, address.port), Handler, names, inbox.changed)

    @property
    def closing(self) -> bool:
        return self.inbox.closing
