"""Read the probes of a container."""

from __future__ import annotations

import re
from collections.abc import Mapping

from podipc.pod.manifest.document import Node, pick, words
from podipc.pod.manifest.model import Probe

__all__ = ["read_probe"]

_HANDLERS = words("exec httpGet tcpSocket grpc")
_TIMES = words("initialDelaySeconds periodSeconds timeoutSeconds failureThreshold successThreshold")
_HEADER = re.compile(r"[-A-Za-z0-9_]+")


def read_probe(node: Node, ports: Mapping[str, int], *, once: bool) -> Probe:
    """Read a probe of a container whose `ports` have these names.

    Parameters
    ----------
    once
        Of a startup or liveness probe, which has passed when it has passed once.
    """
    fields = node.fields((*_HANDLERS, *_TIMES, "terminationGracePeriodSeconds"))
    kinds = [key for key in fields if key in _HANDLERS]
    if len(kinds) != 1:
        node.wrong(f"one of {', '.join(_HANDLERS)}", ", ".join(kinds) or "none")
    kind = kinds[0]
    passes = pick(fields, "successThreshold", Node.whole, 1)
    if once and passes > 1:
        fields["successThreshold"].wrong("1")
    inside = fields[kind].fields(_FIELDS[kind])
    command = pick(inside, "command", Node.texts, ())
    if kind == "exec" and not command:
        fields[kind].missing("command", "a program and its arguments, as a list")
    grace = pick(fields, "terminationGracePeriodSeconds", lambda n: n.whole(1), None)
    return Probe(
        path=node.path,
        kind=kind,
        command=command,
        host=pick(inside, "host", Node.text, ""),
        port=0 if kind == "exec" else _port(fields[kind], inside, ports),
        url=pick(inside, "path", _url, "/"),
        scheme=pick(inside, "scheme", lambda n: n.one_of("HTTP", "HTTPS"), "HTTP"),
        headers=pick(inside, "httpHeaders", _headers, ()),
        # As in a cluster 0 stands for the default.
        delay=pick(fields, "initialDelaySeconds", Node.whole, 0),
        period=pick(fields, "periodSeconds", Node.whole, 0) or 10,
        timeout=pick(fields, "timeoutSeconds", Node.whole, 0) or 1,
        failures=pick(fields, "failureThreshold", Node.whole, 0) or 3,
        grace=grace,
    )


_FIELDS = {
    "exec": words("command"),
    "httpGet": words("host httpHeaders path port scheme"),
    "tcpSocket": words("host port"),
    "grpc": words("port service"),
}


def _port(handler: Node, inside: Mapping[str, Node], ports: Mapping[str, int]) -> int:
    if "port" not in inside:
        handler.missing("port", "a port from 1 to 65535, or the name of one in ports")
    port = inside["port"]
    if not isinstance(port.value, str) or handler.path.endswith(".grpc"):
        return port.whole(1, 65535)
    if port.value not in ports:
        port.wrong(f"a number, or the name of a port of the container ({', '.join(ports)})")
    return ports[port.value]


def _url(node: Node) -> str:
    path = node.text()
    if any(ord(character) <= 32 or ord(character) > 126 for character in path):
        node.wrong("a path without spaces, in ASCII (percent-encoded)")
    return path if path.startswith("/") else "/" + path


def _headers(node: Node) -> tuple[tuple[str, str], ...]:
    found = []
    for item in node.items():
        fields = item.fields(("name", "value"))
        for name in ("name", "value"):
            if name not in fields:
                item.missing(name, "a string")
        if not _HEADER.fullmatch(fields["name"].text()):
            fields["name"].wrong("letters, digits, '-' and '_'")
        if not fields["value"].text().isprintable() or not fields["value"].text().isascii():
            fields["value"].wrong("printable ASCII characters")
        found.append((fields["name"].text(), fields["value"].text()))
    return tuple(found)
