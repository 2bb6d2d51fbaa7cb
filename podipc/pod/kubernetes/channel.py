"""Messages over a WebSocket, in both directions at once, over TLS as well.

What one thread sends never keeps another from receiving: otherwise a program that writes
before it reads would wait for us, and we for it. And TLS wants no two calls at the same
time. So the socket does not block, and a lock is held only while it is touched.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from typing import Any

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_LARGEST = 16 << 20
"""Bytes of a message: servers send some 32 KiB at a time."""
_SIGN_OF_LIFE = 20.0
"""Seconds of silence: what lies between us and the server forgets who says nothing."""
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Channel:
    """A WebSocket that is connected. One thread may send while one receives.

    Parameters
    ----------
    link
        A `websocket.WebSocket`, whose handshake is done.
    protocol
        What was agreed on.
    """

    def __init__(self, link: Any, protocol: str) -> None:
        self.protocol = protocol
        self._link = link
        self._socket: socket.socket = link.sock
        self._socket.setblocking(False)
        self._touching = threading.Lock()
        self._sending = threading.Lock()
        self._data = bytearray()
        self._begun = bytearray()
        self._ended = False

    def send(self, data: bytes) -> None:
        """Send a message. Raises OSError if the connection is lost."""
        with self._sending:
            self._write(_frame(_BINARY, data))

    def receive(self, patience: float | None = None) -> bytes | None:
        """The next message; None at the end of the connection, in whatever way.

        Raises
        ------
        TimeoutError
            There is none after `patience` seconds.
        """
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            while (frame := self._take()) is not None:
                message = self._handle(*frame)
                if message is not None:
                    return message
            if self._ended:
                return None
            left = _SIGN_OF_LIFE if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._read(min(left, _SIGN_OF_LIFE))

    def cut(self) -> None:
        """End the connection; whoever waits for a message gets None."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket, when nobody uses it any more."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._link.shutdown()

    def _write(self, frame: bytes) -> None:
        rest = memoryview(frame)
        while rest:
            if self._ended:
                raise ConnectionError("the connection has ended")
            try:
                with self._touching:
                    rest = rest[self._socket.send(rest) :]
            except _NOT_NOW:
                self._wait(select.POLLOUT, 1.0)

    def _read(self, patience: float) -> None:
        """Take what there is, waiting for it; a sign of life if there is nothing."""
        with self._touching:
            pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        if not pending and not self._wait(select.POLLIN, patience):
            self._control(_PING, b"")
            return
        try:
            with self._touching:
                piece = self._socket.recv(1 << 16)
        except _NOT_NOW:
            return
        except OSError:
            piece = b""
        self._data += piece
        self._ended = self._ended or not piece

    def _wait(self, what: int, patience: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, what)
        return bool(poll.poll(patience * 1000))

    def _control(self, code: int, data: bytes) -> None:
        # A message that is being sent is a sign of life as well, and not to be waited for.
        if self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):
                    self._write(_frame(code, data))
            finally:
                self._sending.release()

    def _take(self) -> tuple[int, bool, bytes] | None:
        """The next whole frame of what was received: its code, whether it is the last, data."""
        data = self._data
        if len(data) < 2:
            return None
        length, begin = data[1] & 0x7F, 2
        if length > 125:
            begin = 4 if length == 126 else 10
            if len(data) < begin:
                return None
            (length,) = struct.unpack("!H" if begin == 4 else "!Q", data[2:begin])
        if length + len(self._begun) > _LARGEST or data[1] & 0x80:
            # Not what a server sends.
            self._data.clear()
            self._ended = True
            return None
        if len(data) < begin + length:
            return None
        frame = data[0] & 0x0F, bool(data[0] & 0x80), bytes(data[begin : begin + length])
        del data[: begin + length]
        return frame

    def _handle(self, code: int, is_last: bool, data: bytes) -> bytes | None:
        """The message that a frame completes, if it does."""
        if code == _CLOSE:
            self._ended = True
        elif code == _PING:
            self._control(_PONG, data)
        elif code in (0, _TEXT, _BINARY):
            self._begun += data
            if is_last:
                message = bytes(self._begun)
                self._begun.clear()
                return message
        return None


def _frame(code: int, data: bytes) -> bytes:
    from websocket import ABNF

    frame: bytes = ABNF.create_frame(data, code).format()
    return frame
