"""A sender's connection: writes requests and reads answers, in waits that can end."""

import io
import math
import select
import socket
from dataclasses import dataclass
from http.client import HTTPException, parse_headers
from typing import TYPE_CHECKING, Final

from podipc._core import Closed, CorruptSegment, Timeout
from podipc.deadline import Deadline
from podipc.http.wire import MAX_HEAD, number

if TYPE_CHECKING:
    from email.message import Message

PIECE: Final = 1 << 20


class End(Exception):
    """The other side ended the connection."""


# Not their bases: Closed is an EOFError, and PeerDied a ConnectionError.
GONE: Final = (End, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


@dataclass
class Answer:
    code: int
    fields: "Message"
    text: str

    @property
    def bye(self) -> bool:
        """The receiver closes in order."""
        return "Podipc-Bye" in self.fields


class Left(Exception):
    """The receiver closed in order; another one may come."""


class Connection:
    """A socket to one receiver. One thread at a time."""

    def __init__(self, sock: socket.socket, wake: int | None) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.sock = sock
        self.wake = wake
        self.buffer = b""
        self.awaited = ""
        """What was asked and is not answered yet."""

    def close(self) -> None:
        self.sock.close()

    def wait(self, event: int, deadline: Deadline) -> None:
        """Sleep until the socket is ready. Raises ``Timeout``, ``Closed``."""
        poller = select.poll()
        poller.register(self.sock, event)
        if self.wake is not None:
            poller.register(self.wake, select.POLLIN)
        ready = poller.poll(math.ceil(deadline.left() * 1000))
        if any(fd == self.wake for fd, _ in ready):
            raise Closed("this sender was closed")
        if not ready and deadline.passed:
            raise Timeout("the receiver does not answer")

    def write(self, data: "memoryview | bytes", deadline: Deadline) -> None:
        rest = memoryview(data)
        while rest:
            try:
                n = self.sock.send(rest[:PIECE], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.wait(select.POLLOUT, deadline)
            else:
                rest = rest[n:]

    def poll_answer(self) -> Answer | None:
        """An answer that is here already. Raises ``End``."""
        while (answer := self._parse()) is None:
            try:
                chunk = self.sock.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if not chunk:
                raise End
            self.buffer += chunk
        return answer

    def answer(self, deadline: Deadline) -> Answer:
        while (answer := self.poll_answer()) is None:
            self.wait(select.POLLIN, deadline)
        return answer

    def _parse(self) -> Answer | None:
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD:
                raise CorruptSegment("what answers sends an endless head")
            return None
        try:
            file = io.BytesIO(head + end)
            version, code = file.readline().split(maxsplit=2)[:2]
            fields = parse_headers(file)
            length = number(fields, "Content-Length")
            if not version.startswith(b"HTTP/1.") or length > MAX_HEAD:
                raise ValueError
            answer = Answer(int(code), fields, rest[:length].decode("utf-8", "replace").strip())
        except (ValueError, HTTPException, CorruptSegment):
            raise CorruptSegment("what answers does not speak HTTP as podipc does") from None
        if len(rest) < length:
            return None
        self.buffer = rest[length:]
        return answer
