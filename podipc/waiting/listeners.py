"""Who listens on this network namespace's TCP ports, as the kernel's tables say."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path

from podipc.waiting.sight import Sight

_LISTEN = "0A"


def table() -> list[tuple[str, int]] | None:
    """Address and port of every listener; None where the tables cannot be read."""
    found = []
    try:
        for name in ("tcp", "tcp6"):
            path = Path("/proc/net") / name
            if name == "tcp6" and not path.exists():  # no IPv6
                continue
            for row in path.read_text().splitlines()[1:]:
                words = row.split()
                if len(words) > 3 and words[3] == _LISTEN:
                    host, _, port = words[1].partition(":")
                    found.append((_address(host), int(port, 16)))
    except (OSError, ValueError):
        return None
    return found


def _address(digits: str) -> str:
    """The kernel prints words of 32 bits, each in the byte order of the machine."""
    words = [bytes.fromhex(digits[i : i + 8]) for i in range(0, len(digits), 8)]
    raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def look_tcp(host: str, port: int) -> Sight:
    """Whether a connection to there would be taken."""
    listening = table()
    if listening is None:
        return _try(host, port, "")
    here = {address for address, p in listening if p == port}
    if here & {host, "0.0.0.0"}:
        return Sight(True, f"somebody listens at {host}:{port}")
    shown = ", ".join(sorted({str(p) for _, p in listening}, key=int)[:8]) or "none"
    others = f"; ports with a listener: {shown}"
    if "::" in here:  # which may take IPv4 as well, or not
        return _try(host, port, others)
    return Sight(False, f"nobody listens at {host}:{port}{others}")


def _try(host: str, port: int, others: str) -> Sight:
    with socket.socket() as s:
        s.settimeout(1.0)
        try:
            code = s.connect_ex((host, port))
        except TimeoutError:
            code = errno.ETIMEDOUT
    if code == 0:
        return Sight(True, f"somebody listens at {host}:{port}")
    if code == errno.ECONNREFUSED:
        return Sight(False, f"nobody listens at {host}:{port}{others}")
    return Sight(False, f"{host}:{port} takes no connection: {os.strerror(code)}")
