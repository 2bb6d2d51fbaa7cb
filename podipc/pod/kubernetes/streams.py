"""The standard streams of a program that runs elsewhere: what its channels are connected with."""

from __future__ import annotations

import os
import sys
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO

from podipc.pod.runtime import Stream


class Streams:
    """Descriptors for what comes and goes. What is given is not closed, only our copies.

    Parameters
    ----------
    stdin, stdout, stderr
        As for `subprocess.Popen`.

    Attributes
    ----------
    files
        The ends of the pipes that are for the caller, by number.
    input
        Where its standard input comes from; -1 if it has none.
    """

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        if STDOUT in (stdin, stdout):
            raise ValueError("STDOUT is for stderr only")
        self.files: dict[int, IO[bytes]] = {}
        self.input = -1
        self._outputs: dict[int, int] = {}
        try:
            for number, stream in enumerate((stdin, stdout, stderr)):
                self._connect(number, stream)
        except BaseException:
            self.abandon()
            raise

    def deliver(self, number: int, data: bytes) -> None:
        """Pass output on; what nobody reads any more is dropped."""
        while data and number in self._outputs:
            try:
                data = data[os.write(self._outputs[number], data) :]
            except OSError:
                self.shut(number)

    def shut(self, number: int) -> None:
        """There will be no more of that output."""
        fd = self._outputs.pop(number, -1)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close all but the ends that are for the caller."""
        for number in list(self._outputs):
            self.shut(number)
        if self.input >= 0:
            os.close(self.input)
            self.input = -1

    def abandon(self) -> None:
        """Close all: there is no program."""
        self.close()
        for file in self.files.values():
            file.close()

    def _connect(self, number: int, stream: Stream) -> None:
        if stream == PIPE:
            read, write = os.pipe()
            theirs, ours = (read, write) if number == 0 else (write, read)
            self.files[number] = os.fdopen(ours, "wb" if number == 0 else "rb")
        elif stream == DEVNULL:
            return
        elif stream == STDOUT:
            if 1 not in self._outputs:
                return
            theirs = os.dup(self._outputs[1])
        elif stream is None:
            theirs = _ours(number)
        else:
            theirs = os.dup(stream if isinstance(stream, int) else stream.fileno())
        if number == 0:
            self.input = theirs
        elif theirs >= 0:
            self._outputs[number] = theirs


def _ours(number: int) -> int:
    """A copy of our own stream; -1 if it is closed."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    try:
        return os.dup(number)
    except OSError:
        return -1
