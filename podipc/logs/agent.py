"""The agent: an HTTP server that takes the lines of the application in the same Pod.

==========================  =========================================================
``POST /log``               lines; ``Log received`` once they are written
``GET /healthz``            200 if lines can be taken, else 503 with the reason
``POST /quitquitquit``      end the agent, if that was allowed
==========================  =========================================================

A client that may send a batch again names itself in ``Podipc-Client`` and numbers its batches
in ``Podipc-Sequence``: a batch with a number that is not higher than the last one is answered
as if it had been written, and is not written again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from podipc import web
from podipc._core import CorruptSegment
from podipc.http.wire import VERSION, number
from podipc.logs.clients import NAME
from podipc.logs.entries import Refused, kind_of, parse
from podipc.logs.sink import Sink, Unavailable

CLIENT: Final = "Podipc-Client"
SEQUENCE: Final = "Podipc-Sequence"
LOG: Final = "/log"
HEALTH: Final = "/healthz"
QUIT: Final = "/quitquitquit"

WAIT_SECONDS: Final = 3.0
"""For what others write. Then the client is told to come again."""


@dataclass(frozen=True)
class Options:
    """How an agent listens, and what it takes; sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 8080
    hosts: tuple[str, ...] = ()
    """What a ``Host`` may be besides ``localhost`` and the like."""
    max_body: int = 1 << 20
    queue: int = 4 << 20
    """Of all bodies that are being read or written."""
    may_quit: bool = False


class Handler(web.Handler):
    """The connection of one client."""

    idle_seconds: ClassVar[float | None] = 60.0
    server: "Server"

    def answer(self, code: int, text: str = "", *more: tuple[str, str]) -> None:
        body = (text if code == 200 else f"{text}\n").encode()
        self.send_response_only(code)
        self.send_header("Podipc-Version", VERSION)
        for name, value in more:
            self.send_header(name, value)
        if code == 503:
            self.send_header("Retry-After", "1")
        if self.server.closing:
            self.close_connection = self.told = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _dispatch(self) -> None:
        path = self.path.partition("?")[0]
        methods = {LOG: ("POST",), HEALTH: ("GET", "HEAD")}
        if self.server.options.may_quit:
            methods[QUIT] = ("POST",)
        if foreign := self.is_foreign():
            self.refuse(403, foreign)
        elif path not in methods:
            self.refuse(404, f"there is {', '.join(methods)}")
        elif self.command not in methods[path]:
            allowed = ", ".join(methods[path])
            self.close_connection = True
            self.answer(405, f"{path} takes {allowed}", ("Allow", allowed))
        elif path != LOG and not self._has_no_body():
            self.refuse(413, f"{path} takes no body")
        elif path == HEALTH:
            self._health()
        elif path == QUIT:
            self.answer(200, "Ending")
            self.server.quit()
        else:
            self._log()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _dispatch

    def _has_no_body(self) -> bool:
        length = self.headers.get("Content-Length", "0")
        return length == "0" and "Transfer-Encoding" not in self.headers

    def _health(self) -> None:
        trouble = "shutting down" if self.server.closing else self.server.sink.trouble()
        if trouble:
            self.answer(503, trouble)
        else:
            self.answer(200, "ok")

    def _log(self) -> None:
        if self.lacks_length():
            self.refuse(411, "the body needs a Content-Length")
            return
        try:
            length = number(self.headers, "Content-Length")
            client, sequence = self._batch()
            kind = kind_of(self.headers)
            self._check_length(length)
        except CorruptSegment as error:
            self.refuse(400, str(error))
        except Refused as error:
            self.refuse(error.code, str(error))
        else:
            if not self.server.claim(length):
                self.refuse(503, "too many lines wait to be written: try again")
                return
            try:
                self._take(client, sequence, kind, bytearray(length))
            finally:
                self.server.unclaim(length)

    def _batch(self) -> tuple[str, int]:
        client = self.headers.get(CLIENT, "")
        if client and not NAME.fullmatch(client):
            raise CorruptSegment(f"{CLIENT} is {client[:80]!r}, which is not {NAME.pattern}")
        if bool(client) != (SEQUENCE in self.headers):
            raise CorruptSegment(f"{CLIENT} and {SEQUENCE} need each other")
        sequence = number(self.headers, SEQUENCE)
        if sequence >= 1 << 63:
            raise CorruptSegment(f"{SEQUENCE} is too large")
        return client, sequence

    def _check_length(self, length: int) -> None:
        if length == 0:
            raise Refused(400, "the body is empty: it should be one or more lines")
        limit = self.server.options.max_body
        if length > limit:
            raise Refused(413, f"a body of {length} bytes; up to {limit} are taken (--max-body)")

    def _take(self, client: str, sequence: int, kind: str, body: bytearray) -> None:
        try:
            if not self.read_body(memoryview(body)):
                self.close_connection = True
                return
        except TimeoutError:
            self.refuse(408, "the body came too slowly")
            return
        try:
            entries = parse(kind, bytes(body), time.time())
            self.server.sink.take(client, sequence, entries, WAIT_SECONDS)
        except Refused as error:
            self.answer(error.code, str(error))
        except Unavailable as error:
            self.answer(503, str(error))
        else:
            self.answer(200, "Log received")
        if self.server.sink.broken:
            self.server.quit()


class Server(web.Server):
    """Listens; see `Agent`."""

    max_connections = 64
    turned_away = (
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
        b"Content-Length: 0\r\n\r\n"
    )

    def __init__(self, options: Options, sink: Sink, quit: Callable[[], None]) -> None:
        self.options = options
        self.sink = sink
        self.quit = quit
        self.has_ended = False
        self._claimed = 0
        names = {"127.0.0.1", "localhost", "[::1]", *options.hosts}
        if options.host not in {"0.0.0.0", "::"}:
            names.add(f"[{options.host}]" if ":" in options.host else options.host)
        super().__init__((options.host, options.port), Handler, names, threading.Condition())

    @property
    def closing(self) -> bool:
        return self.has_ended

    def claim(self, length: int) -> bool:
        """Whether there is room for a body; then it is taken."""
        with self.changed:
            if self._claimed and self._claimed + length > self.options.queue:
                return False
            self._claimed += length
            return True

    def unclaim(self, length: int) -> None:
        """Give the room of a body back."""
        with self.changed:
            self._claimed -= length


class Agent:
    """An agent that listens from the beginning, in threads of its own.

    Parameters
    ----------
    options
        How.
    sink
        Where the lines go; closed by `close`.
    quit
        Called, in any thread, when a client wants it to end, or it cannot go on.

    Raises
    ------
    OSError
        It cannot listen there.
    """

    def __init__(self, options: Options, sink: Sink, quit: Callable[[], None]) -> None:
        self._sink = sink
        self._server = Server(options, sink, quit)
        self._accepting = threading.Thread(
            target=self._server.accept_all, name="podipc-logd", daemon=True
        )
        self._accepting.start()

    @property
    def url(self) -> str:
        """Where it takes lines."""
        host = self._server.server_address[0]
        shown = f"[{host!s}]" if ":" in str(host) else host
        return f"http://{shown!s}:{self._server.server_port}{LOG}"

    @property
    def broken(self) -> str:
        """Why it cannot go on, or ""."""
        return self._sink.broken

    def close(self, grace: float) -> bool:
        """Take no more, answer what is there; False if it is not all written after `grace` s."""
        until = time.monotonic() + grace
        with self._server.changed:
            self._server.has_ended = True
        self._server.stop_listening()
        self._accepting.join(grace)
        self._server.server_close()
        answered = self._server.say_goodbye(max(0.0, until - time.monotonic()))
        written = self._sink.close(max(0.0, until - time.monotonic()))
        return answered and written
