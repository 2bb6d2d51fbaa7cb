"""Where lines go: to the files, if there are any, then to the output. One batch at a time."""

import os
import threading
import time
from collections.abc import Callable, Iterable

from podipc.logs.clients import Clients
from podipc.logs.entries import Entry, Refused
from podipc.logs.files import Files
from podipc.logs.system import write


class Unavailable(Exception):
    """Not now: the same may be sent again."""


class Sink:
    """Any thread may call any method.

    Parameters
    ----------
    output
        A descriptor to print to. If it is not read, whoever waits gets `Unavailable`.
    files
        What keeps the lines, or None; closed by `close`.
    render
        Makes the line of an entry.
    """

    def __init__(self, output: int, files: Files | None, render: Callable[[Entry], bytes]) -> None:
        self._output = output
        self._files = files
        self._render = render
        self._clients = Clients()
        self._writing = threading.Lock()
        self._since: float | None = None
        self._full = ""
        self.broken = ""
        """Why the output is gone for good."""

    def take(self, client: str, sequence: int, entries: Iterable[Entry], wait: float) -> bool:
        """Write the lines of a batch; False if they had been written before.

        Parameters
        ----------
        client, sequence
            The batch: numbers of one client rise. `client` "" is one without a name.
        wait
            Seconds to wait for what others write.

        Raises
        ------
        Unavailable
            Nothing of it is in the files.
        Refused
            It is larger than a file may get.
        """
        data = b"".join(map(self._render, entries))
        if self._files is not None and len(data) > self._files.max_bytes:
            raise Refused(
                413,
                f"the lines take {len(data)} bytes, and a file up to {self._files.max_bytes} "
                "(--max-bytes): send fewer at once",
            )
        if not self._writing.acquire(timeout=wait):
            raise Unavailable("the output is not read, or the volume is slow: try again")
        self._since = time.monotonic()
        try:
            known: Clients | Files = self._clients if self._files is None else self._files
            if client and known.has(client, sequence):
                return False
            self._keep(client, sequence, data)
            self._print(data)
            if client:
                self._clients.took(client, sequence)
            return True
        finally:
            self._since = None
            self._writing.release()

    def trouble(self) -> str:
        """Why nothing can be taken now, or ""."""
        since = self._since
        if since is not None and time.monotonic() - since > 5:
            return "the output is not read, or the volume is slow"
        if self._full and self._files is not None and self._writing.acquire(timeout=1):
            try:
                self._files.probe()
                self._full = ""
            except OSError as error:
                self._full = _reason(error)
            finally:
                self._writing.release()
        return self.broken or self._full

    def close(self, wait: float) -> bool:
        """Let what is being written end; False if it does not within so many seconds."""
        if not self._writing.acquire(timeout=wait):
            return False
        if self._files is not None:
            self._files.close()
        return True

    def _keep(self, client: str, sequence: int, data: bytes) -> None:
        if self.broken:
            raise Unavailable(self.broken)
        if self._files is None:
            return
        try:
            self._files.add(client, sequence, data)
        except OSError as error:
            self._full = _reason(error)
            raise Unavailable(self._full) from error
        self._full = ""

    def _print(self, data: bytes) -> None:
        try:
            write(self._output, data)
        except OSError as error:
            self.broken = f"the output cannot be written: {error.strerror}"
            if self._files is None:
                raise Unavailable(self.broken) from error


def _reason(error: OSError) -> str:
    return f"the volume cannot be written: {os.strerror(error.errno or 0)}"
