"""Which batch of each client was the last to be taken, so that none is taken twice.

In memory, or in a file that knows it after the agent was killed at any point. What a batch
is about to add to which file stands in the journal before it is added: so whoever reads the
journal next can tell whether the last one was added.
"""

import contextlib
import json
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from podipc.logs.system import append, sync_directory

MAX_CLIENTS: Final = 1024
"""Those that sent something last are remembered."""

MAX_JOURNAL: Final = 256 << 10
"""Bytes, beyond which it is written anew, with one line for all clients."""

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Clients:
    """The number of the last batch of each client. One thread at a time."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()

    def has(self, client: str, sequence: int) -> bool:
        """Whether that batch was taken already."""
        return self._last.get(client, -1) >= sequence

    def took(self, client: str, sequence: int) -> None:
        """Remember that batch."""
        self._last[client] = sequence
        self._last.move_to_end(client)
        while len(self._last) > MAX_CLIENTS:
            self._last.popitem(last=False)


@dataclass(frozen=True)
class Intent:
    """A batch that is to be added to the file of that inode, at `offset`."""

    client: str
    sequence: int
    inode: int
    offset: int
    length: int


class Journal(Clients):
    """The same in a file. `last` is the intent of which nobody has said what became of it."""

    def __init__(self, path: str, *, sync: bool) -> None:
        super().__init__()
        self._path = path
        self._file = -1
        self._size = self._before = 0
        self._sync = sync
        self.last: Intent | None = None
        self.unreadable = 0
        """Lines of the file that made no sense."""
        self._read()
        self._write_anew()

    def begin(self, intent: Intent) -> None:
        """Write down what is going to be added. Raises ``OSError``, and then has not."""
        line = json.dumps(vars(intent)).encode() + b"\n"
        append(self._file, line, self._size, sync=self._sync)
        self._before, self._size = self._size, self._size + len(line)

    def undo(self) -> None:
        """It was not added after all."""
        os.ftruncate(self._file, self._before)
        self._size = self._before

    def took(self, client: str, sequence: int) -> None:
        super().took(client, sequence)
        if self._size > MAX_JOURNAL:
            with contextlib.suppress(OSError):  # the volume is full: the old one goes on
                self._write_anew()

    def close(self) -> None:
        os.close(self._file)

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                lines = file.read(8 * MAX_JOURNAL).split(b"\n")
        except FileNotFoundError:
            return
        # Behind the last line end is nothing, or what a crash left.
        for line in lines[:-1]:
            if self.last is not None:
                super().took(self.last.client, self.last.sequence)
                self.last = None
            try:
                self._take_in(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                self.unreadable += 1

    def _take_in(self, value: Any) -> None:
        if "clients" in value:
            for client, sequence in value["clients"]:
                super().took(_name(client), _number(sequence))
            return
        numbers = [_number(value[key]) for key in ("sequence", "inode", "offset", "length")]
        self.last = Intent(_name(value["client"]), *numbers)

    def _write_anew(self) -> None:
        line = json.dumps({"clients": list(self._last.items())}).encode() + b"\n"
        if self.last is not None:
            line += json.dumps(vars(self.last)).encode() + b"\n"
        beside = f"{self._path}.tmp"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(beside, flags, 0o644)
        try:
            append(file, line, 0, sync=self._sync)
            os.rename(beside, self._path)
            if self._sync:
                sync_directory(os.path.dirname(self._path))
        except BaseException:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, len(line)

    def settle(self, *, added: bool) -> None:
        """Say what became of `last`."""
        if self.last is not None and added:
            super().took(self.last.client, self.last.sequence)
        self.last = None
        self._write_anew()


def _name(value: Any) -> str:
    if not (isinstance(value, str) and NAME.fullmatch(value)):
        raise ValueError
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError
    return value
