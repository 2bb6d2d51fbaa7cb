"""Whether a path is served: a GET, of whose answer the status is looked at.

Plain sockets, because the wait has to end in time however slowly the bytes drip.
"""

from __future__ import annotations

import re
import socket
import time

from podipc.address import Address
from podipc.waiting.listeners import look_tcp
from podipc.waiting.sight import Sight

MAX_ANSWER = 64 << 10
"""Bytes read of an answer, so that whoever serves can end it in order."""
DRAIN_SECONDS = 0.5
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |\r?\n)")
_HEALTH = frozenset(
    ("healthz", "livez", "readyz", "startupz", "health", "live", "ready", "liveness", "readiness")
)


def look_http(address: Address, timeout: float) -> Sight:
    """One GET; see `judge` for what the answer means."""
    where = f"http://{address.host}:{address.port}{address.path}"
    port = look_tcp(address.host, address.port)
    if not port.there:
        return port
    request = (
        f"GET {address.path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        "User-Agent: podipc-wait\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    try:
        head = _exchange(address, request.encode(), time.monotonic() + max(0.05, timeout))
    except TimeoutError:
        return Sight(False, f"{where} has not answered within {max(0.05, timeout):.3g} s")
    except ConnectionError as error:
        return Sight(False, f"{where} ended the connection: {error.strerror}")
    found = _STATUS.match(head)
    if found is None:
        return Sight(False, f"what listens at {address.host}:{address.port} does not speak HTTP")
    return judge(where, address.path, int(found[1]))


def judge(where: str, path: str, status: int) -> Sight:
    """What a status says about the one who serves.

    2xx and 3xx: it is there. Of a path that takes what is POSTed to it, a GET is refused,
    and that is an answer too: any 4xx but 404, unless the path is that of a health check.
    """
    last = path.partition("?")[0].rstrip("/").rpartition("/")[2]
    is_refusal = 400 <= status < 500 and status != 404 and last not in _HEALTH
    return Sight(200 <= status < 400 or is_refusal, f"{where} answers with status {status}")


def _exchange(address: Address, request: bytes, deadline: float) -> bytes:
    """The first line of the answer. Raises TimeoutError, ConnectionError."""
    with socket.socket() as s:
        s.settimeout(max(0.01, deadline - time.monotonic()))
        s.connect((address.host, address.port))
        s.sendall(request, socket.MSG_NOSIGNAL)
        answer = b""
        while b"\n" not in answer[:4096] and len(answer) < 4096:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            s.settimeout(left)
            piece = s.recv(4096)
            if not piece:
                return answer
            answer += piece
        _drain(s, min(deadline, time.monotonic() + DRAIN_SECONDS))
        return answer


def _drain(s: socket.socket, deadline: float) -> None:
    """To the end, if that is near: a connection that is reset may look like an error there."""
    got = 0
    try:
        while got < MAX_ANSWER and (left := deadline - time.monotonic()) > 0:
            s.settimeout(left)
            piece = s.recv(MAX_ANSWER)
            if not piece:
                return
            got += len(piece)
    except OSError:
        return  # its status has been read
