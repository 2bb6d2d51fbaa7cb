"""What a container in a cluster has printed, kept here: it outlives the Pod.

The lines come with the moment at which they were printed, so that after a lost
connection nothing is taken twice and nothing is left out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from podipc.pod.errors import PodError
from podipc.pod.kubernetes.cluster import Stream, gone
from podipc.pod.log import Log

_PAUSE = 0.5


class Lines:
    """Takes the moments off a stream of lines; `feed` gives what is to be kept.

    Attributes
    ----------
    last
        The moment of the last line.
    """

    def __init__(self) -> None:
        self.last = ""
        self._head: bytes | None = b""
        self._kept = 0
        self._surplus = 0
        self._skips = False

    def begin(self) -> None:
        """A connection begins: with the line of the last moment, or one after it."""
        self._head = b""

    def feed(self, data: bytes) -> bytes:
        """The text in a piece of the stream that was not there before."""
        return b"".join(map(self._line, data.splitlines(keepends=True)))

    def _line(self, text: bytes) -> bytes:
        """As `feed`, of a line or a part of one."""
        if self._head is not None:
            self._head += text
            moment, space, text = self._head.partition(b" ")
            if not space:
                return b""
            self._enter(moment.decode(errors="replace"))
        if text.endswith(b"\n"):
            self._head = b""
        if self._skips:
            # Of a line that was cut off, the beginning is there already.
            known = min(self._surplus, len(text))
            self._surplus -= known
            if self._surplus or not known:
                return b""
            text, self._skips = text[known:], False
        self._kept += len(text)
        return text

    def _enter(self, moment: str) -> None:
        # All of one width in the API, so that they compare as text.
        self._head = None
        if moment > self.last:
            self.last, self._kept, self._skips = moment, 0, False
        else:
            self._skips = True
            self._surplus = self._kept if moment == self.last else 0


class Collector:
    """Follows what one container prints, over its runs, until there is no more.

    Parameters
    ----------
    ask
        Asks for its log, with more in the query.
    log
        Where that goes.
    runs
        Waits for a run after the given one: its number; 0 if there will be none.
    is_over
        Waits for a moment for the end of that run; whether it has ended.
    """

    def __init__(
        self,
        ask: Callable[[dict[str, str]], Stream],
        log: Log,
        runs: Callable[[int], int],
        is_over: Callable[[int], bool],
    ) -> None:
        self._ask, self._log, self._runs, self._is_over = ask, log, runs, is_over
        self._lines = Lines()
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._complete = 0
        self._progress = threading.Condition()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        with self._lock:
            self._stopped.set()
            if self._stream is not None:
                self._stream.stop()

    def has(self, run: int, timeout: float) -> bool:
        """Whether all that this run printed is here within `timeout` seconds."""
        with self._progress:
            return self._progress.wait_for(lambda: self._complete >= run, timeout)

    def join(self, timeout: float) -> bool:
        """Whether it has all within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        run = 0
        try:
            while not self._stopped.is_set() and (found := self._runs(run)):
                if found > run + 1:
                    # A cluster keeps one more than the last.
                    self._take({"previous": "true"}, found - 1)
                run = found
                self._take({"follow": "true"}, run)
                self._completed(run)
        finally:
            self._log.end()
            self._completed(sys.maxsize)

    def _completed(self, run: int) -> None:
        with self._progress:
            self._complete = run
            self._progress.notify_all()

    def _take(self, query: dict[str, str], run: int) -> None:
        """Take what one run prints, until it ends."""
        while not self._stopped.is_set():
            asked = {"timestamps": "true", **query}
            if self._lines.last:
                asked["sinceTime"] = self._lines.last
            try:
                stream = self._ask(asked)
            except PodError as error:
                if gone(error) or "previous" in query or self._is_over(run):
                    return
                self._stopped.wait(_PAUSE)
                continue
            self._drain(stream)
            if "previous" in query or (self._is_over(run) and not stream.broken):
                return

    def _drain(self, stream: Stream) -> None:
        with self._lock:
            self._stream = stream
            if self._stopped.is_set():
                stream.stop()
        self._lines.begin()
        for piece in stream:
            if text := self._lines.feed(piece):
                self._log.append(text)
        with self._lock:
            self._stream = None
        stream.close()
