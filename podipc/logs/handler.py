"""What an application adds to Python's logging to have its lines taken by an agent."""

import contextlib
import logging
import sys
import threading
from typing import Final

from podipc import address
from podipc._core import AddressError
from podipc.logs.delivery import Delivery
from podipc.logs.records import encode

DEFAULT_URL: Final = "http://127.0.0.1:8080/log"
_MAX_DEPTH: Final = 4

_nested: Final = threading.local()


class Handler(logging.Handler):
    """Sends records to ``podipc logd`` in the same Pod.

    Lines arrive in order, and none is lost while the agent is away or starts again, as long
    as they fit; with ``podipc logd --directory`` each is in its files exactly once. Records are
    queued and a thread sends them, many at once; with ``queue=False`` the thread that logs
    sends each and waits for the answer.

    Parameters
    ----------
    url
        Of the agent, on this Pod's loopback.
    level
        As for `logging.Handler`.
    capacity, max_bytes
        How many lines, and how many bytes of them, may wait to be delivered.
    timeout
        Seconds to wait for an answer before the same is sent again under the same number, and
        for `flush` and `close` to deliver what waits.
    block
        Seconds that logging may take, at most. A full queue is waited for that long, once:
        until something moves again, lines are dropped at once. With ``queue=False`` it is what
        an answer is waited for; a line that is not answered in time is kept and sent later.
    queue
        Whether a thread sends.
    drop
        What goes when there is no room: the ``newest`` line or the ``oldest``. How many went is
        told to the agent in a line of its own.

    Numbers may be given as text, as from `logging.config.dictConfig`. A record without a
    formatter becomes message, level, logger, time, traceback and ``extra`` in fields of their
    own; a formatter's text is the message. In a forked child the handler goes on, with a queue
    of its own. A process that ends without `logging.shutdown` (``os._exit``, as the children of
    ``os.fork`` and of multiprocessing do) has to call `flush` before.

    Raises
    ------
    AddressError
        The URL is none that podipc takes.
    ValueError
        Another argument is out of its range.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        level: int | str = logging.NOTSET,
        *,
        capacity: int | str = 10_000,
        max_bytes: int | str = 8 << 20,
        timeout: float | str = 5.0,
        block: float | str = 0.5,
        queue: bool | str = True,
        drop: str = "newest",
    ) -> None:
        where = address.parse(url)
        if where.method != "http":
            raise AddressError(f"address {url!r} is not one of an agent, such as {DEFAULT_URL!r}")
        if drop not in {"newest", "oldest"}:
            raise ValueError(f"drop is {drop!r}, neither 'newest' nor 'oldest'")
        self._block = _number("block", block, 0)
        self._timeout = _number("timeout", timeout, 0.001)
        self._url = url
        self._complained: int | None = None
        """What had been delivered when it was said last that lines are dropped."""
        self._delivery = Delivery(
            where,
            int(_number("capacity", capacity, 1)),
            int(_number("max_bytes", max_bytes, 1024)),
            "oldest" if drop == "oldest" else "newest",
            timeout=self._timeout,
            threaded=_switch("queue", queue),
        )
        super().__init__(level)

    def __repr__(self) -> str:
        return f"<podipc.logs.Handler {self._url} ({logging.getLevelName(self.level)})>"

    def handle(self, record: logging.LogRecord) -> bool:
        """As `logging.Handler.handle`, but threads do not wait for each other."""
        kept = self.filter(record)
        if isinstance(kept, logging.LogRecord):
            record = kept
        if kept:
            self.emit(record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue or send a record; within `block` seconds, and without raising."""
        depth = getattr(_nested, "depth", 0)
        if depth >= _MAX_DEPTH:  # formatting logs, which is formatted, which logs
            return
        _nested.depth = depth + 1
        try:
            if not self._delivery.put(encode(record, self.formatter), self._block):
                self._complain()
        except Exception:
            self.handleError(record)
        finally:
            _nested.depth = depth

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until all that was logged before has been delivered.

        Parameters
        ----------
        timeout
            Seconds, instead of the handler's.

        Returns
        -------
        bool
            Whether it has.
        """
        return self._delivery.flush(self._timeout if timeout is None else timeout)

    def close(self) -> None:
        """Deliver what waits, within `timeout`, and end. What is left is told on stderr."""
        left = self._delivery.close(self._timeout)
        if left:
            self._say(f"{left} lines were not delivered: {self._delivery.trouble}")
        super().close()

    def stats(self) -> dict[str, int]:
        """Lines so far: ``accepted``, ``delivered``, ``waiting``, ``dropped``, ``refused``.

        Lines of the handler's own, about what was dropped or refused, are among them.
        """
        backlog = self._delivery.backlog
        with backlog.changed:
            return {
                "accepted": backlog.accepted,
                "delivered": backlog.delivered,
                "waiting": backlog.waiting,
                "dropped": backlog.dropped,
                "refused": backlog.refused,
            }

    def _complain(self) -> None:
        """Once an outage."""
        if self._delivery.closed:
            when, text = -1, "a record came after close() and was dropped"
        else:
            when = self._delivery.backlog.delivered
            text = f"no room for more lines, some are dropped: {self._delivery.trouble}"
        if self._complained != when:
            self._complained = when
            self._say(text)

    def _say(self, text: str) -> None:
        if logging.raiseExceptions and sys.stderr is not None:
            # As logging.Handler.handleError: there may be nobody to tell.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"podipc.logs: {self._url}: {text}\n")


def _number(name: str, value: float | str, least: float) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = -1.0
    if not least <= found < 1e15:
        raise ValueError(f"{name} is {value!r}; it should be a number from {least}")
    return found


def _switch(name: str, value: bool | str) -> bool:
    word = str(value).lower()
    if word not in {"true", "false", "1", "0", "yes", "no"}:
        raise ValueError(f"{name} is {value!r}, neither true nor false")
    return word in {"true", "1", "yes"}
