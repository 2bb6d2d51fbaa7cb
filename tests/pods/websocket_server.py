"""The server's side of exec over WebSocket: frames, channels, and a program's streams."""

import base64
import contextlib
import hashlib
import json
import struct
import threading

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Link:
    """A connection that has been upgraded."""

    def __init__(self, handler, protocol):
        self.protocol = protocol
        self._read, self._write = handler.rfile, handler.wfile
        self._lock = threading.Lock()

    def send(self, channel, data):
        self._frame(_BINARY, bytes([channel]) + data)

    def close(self):
        with contextlib.suppress(OSError):
            self._frame(_CLOSE, struct.pack("!H", 1000))

    def messages(self):
        """Channel and data of each message, until the end of the connection."""
        while True:
            try:
                code, data = self._receive()
            except (OSError, EOFError, ValueError):
                return
            if code == _CLOSE:
                return
            if code == _PING:
                self._frame(_PONG, data)
            elif code == _BINARY and data:
                yield data[0], data[1:]

    def _frame(self, code, data):
        head = bytes([0x80 | code])
        if len(data) < 126:
            head += bytes([len(data)])
        elif len(data) < 1 << 16:
            head += struct.pack("!BH", 126, len(data))
        else:
            head += struct.pack("!BQ", 127, len(data))
        with self._lock:
            self._write.write(head + data)

    def _receive(self):
        first, second = self._exactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        if not second & 0x80 or not first & 0x80:
            raise ValueError("a client masks its frames, and ours sends whole messages")
        mask = self._exactly(4)
        data = self._exactly(length)
        whole = int.from_bytes(data, "little")
        pattern = int.from_bytes((mask * (length // 4 + 1))[:length], "little")
        return first & 0x0F, (whole ^ pattern).to_bytes(length, "little")

    def _exactly(self, count):
        data = self._read.read(count)
        if len(data) < count:
            raise EOFError
        return data


def accept(handler, protocol):
    """Upgrade the connection of an HTTP request."""
    key = handler.headers["sec-websocket-key"].encode()
    answer = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
    handler.send_response(101)
    handler.send_header("upgrade", "websocket")
    handler.send_header("connection", "Upgrade")
    handler.send_header("sec-websocket-accept", answer)
    handler.send_header("sec-websocket-protocol", protocol)
    handler.end_headers()
    return Link(handler, protocol)


def serve(link, program, *, has_input):
    """Connect a program with a client until it ends; one that the client leaves goes on."""
    threads = [
        threading.Thread(target=_pump, args=(stream.read1, link, channel), daemon=True)
        for channel, stream in ((1, program.stdout), (2, program.stderr))
    ]
    if not has_input:
        program.stdin.close()
    threads.append(threading.Thread(target=_feed, args=(link, program), daemon=True))
    for thread in threads:
        thread.start()
    code = program.wait()
    for thread in threads[:2]:
        thread.join()
    with contextlib.suppress(OSError):
        link.send(3, json.dumps(_status(code)).encode())
    link.close()
    program.close()


def _pump(read, link, channel):
    with contextlib.suppress(OSError, ValueError):
        while data := read(65536):
            link.send(channel, data)


def _feed(link, program):
    with contextlib.suppress(OSError, ValueError):
        for channel, data in link.messages():
            if channel == 0:
                program.stdin.write(data)
                program.stdin.flush()
            elif channel == 255 and link.protocol == V5 and data == b"\0":
                program.stdin.close()
    with contextlib.suppress(OSError, ValueError):
        program.stdin.close()


def _status(code):
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    code = code if code > 0 else 128 - code
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
