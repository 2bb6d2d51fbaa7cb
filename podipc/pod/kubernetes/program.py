"""A program in a container of a cluster, over one WebSocket to the API server.

A message is a byte that names the channel (0 to 2 are the standard streams, 3 is how it
ended), and data. The protocol v5 can close a channel; with v4, which servers before
Kubernetes 1.30 have only, the end of standard input is said to a loop of the shell in the
container, which reads pieces with their lengths before them.

The program is started by ``sh``, which says its process number first: Kubernetes has no
call to send it a signal, so that is done by one more ``kill`` in the container. An image
without a shell has programs nevertheless, to which no signal can be sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import threading
import weakref
from collections.abc import Callable, Sequence
from subprocess import DEVNULL
from typing import IO

from podipc._core import Timeout
from podipc.pod.errors import CommandNotFound, NotHere, PodError
from podipc.pod.kubernetes.channel import Channel
from podipc.pod.kubernetes.cluster import Cluster, Forbidden, Refused
from podipc.pod.kubernetes.states import exit_code, is_no_program
from podipc.pod.kubernetes.streams import Streams
from podipc.pod.runtime import Stream

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_CLOSE = 255
_PIECE = 32768

# The word that begins the first line of its output is known to nobody else.
_START = """\
w=$1; shift
command -v "$1" >/dev/null 2>&1 || { echo "$w none"; exit 127; }
echo "$w $$"; exec "$@"
"""
# Lengths are read byte by byte, so that nothing of what follows is taken. The program's end
# ends the loop, whose number is the first line that it passes on.
_FEED = """\
w=$1; shift
command -v "$1" >/dev/null 2>&1 || { echo "$w none"; exit 127; }
{
    echo "$(exec sh -c 'echo $PPID')"
    while read -r n && [ "$n" -gt 0 ]; do dd bs="$n" count=1 iflag=fullblock 2>/dev/null; done
} | {
    read -r loop
    sh -c 'w=$1; shift; echo "$w $$"; exec "$@"' sh "$w" "$@"
    code=$?; kill -PIPE "$loop" 2>/dev/null; exit $code
}
"""
_KILL = 'kill -"$1" "$2" 2>/dev/null || [ ! -d "/proc/$2" ]'
_STARTS = 60.0
"""Seconds that the start of a program may take."""


class Link:
    """How programs of one Pod are started: what the server can speak is found out once."""

    def __init__(self, cluster: Cluster, path: str) -> None:
        self._cluster = cluster
        self._path = path
        self._protocol: str | None = None
        self._programs: weakref.WeakSet[Program] = weakref.WeakSet()

    def close(self) -> None:
        """Cut the connections of all programs."""
        for program in list(self._programs):
            program.cut()

    def add(self, program: Program) -> None:
        """One more that `close` has to cut."""
        self._programs.add(program)

    def open(self, container: str, command: Callable[[str], list[str]], stdin: bool) -> Channel:
        """Start what `command` makes of the protocol.

        Raises
        ------
        NotHere, Refused
            As `Cluster.request`.
        """
        for protocol in [self._protocol] if self._protocol else [V5, V4]:
            query = [("container", container), ("stdout", "true"), ("stderr", "true")]
            query += [("stdin", "true")] if stdin else []
            query += [("command", word) for word in command(protocol)]
            try:
                link = self._cluster.connect(self._path, query, protocol)
            except (Refused, Forbidden):
                # A server that does not speak it says so in one of several ways.
                if protocol == V5 and self._protocol is None:
                    continue
                raise
            self._protocol = protocol
            return Channel(link, protocol)
        raise AssertionError("one of the protocols was tried last")


class Program:
    """A program that runs in a container; see `podipc.pod.runtime.Program`.

    Parameters
    ----------
    link
        Of its Pod.
    container
        The name of its container.
    command
        The program and its arguments.
    stdin, stdout, stderr
        As for `subprocess.Popen`.

    Raises
    ------
    CommandNotFound
        The container has no such program. If it has no ``sh``, `wait` and `poll` raise that.
    NotHere, PodError
        It could not be started.
    """

    def __init__(
        self,
        link: Link,
        container: str,
        command: Sequence[str],
        *,
        stdin: Stream = DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        if not command:
            raise ValueError("a command has at least one word")
        self._link, self._container, self._name = link, container, command[0]
        self._word = f"podipc-{secrets.token_hex(8)}"
        self._ended = threading.Event()
        self._error: PodError | None = None
        self._status = b""
        self._streams = Streams(stdin, stdout, stderr)
        has_input = self._streams.input >= 0
        try:
            self._first = self._connect(list(command), has_input)
        except BaseException:
            self._streams.abandon()
            raise
        self.stdin, self.stdout, self.stderr = map(self._streams.files.get, range(3))
        self._stop_read, self._stop = os.pipe()
        self._threads = [threading.Thread(target=self._receive, daemon=True)]
        if has_input:
            self._threads.append(threading.Thread(target=self._send, daemon=True))
        link.add(self)
        # The first one waits for the other at the end, which may be at once.
        for thread in reversed(self._threads):
            thread.start()

    def cut(self) -> None:
        """End the connection, whatever becomes of the program."""
        self._channel.cut()
        # Who does not read what it printed may hold that thread up.
        self._ended.wait(1.0)

    # The interface

    def poll(self) -> int | None:
        """The exit code, or None if it still runs. Does not wait."""
        if self._ended.is_set() and self._error is not None:
            raise self._error
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; the exit code, or minus the signal.

        Raises
        ------
        Timeout
            It still runs after `timeout` seconds.
        PodError
            The connection was lost, so that nobody knows how it ended.
        """
        if not self._ended.wait(timeout):
            raise Timeout(f"{self._name!r} still runs after {timeout} s")
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal by a ``kill`` in its container; nothing happens if it has ended."""
        if self._ended.is_set():
            return
        if self.pid is None:
            raise NotHere(
                f"container {self._container!r} has no sh, without which no signal can be sent to "
                f"{self._name!r}: Kubernetes has no call for it; use an image with a shell"
            )
        words = ["sh", "-c", _KILL, "sh", str(int(number)), str(self.pid)]
        killer = Program(self._link, self._container, words, stdout=DEVNULL, stderr=DEVNULL)
        try:
            if killer.wait(30.0) != 0:
                raise PodError(f"{self._name!r} got no signal {number}: the container refuses it")
        finally:
            killer.close()

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(9)

    def close(self) -> None:
        """Close our ends of its pipes, and the connection if it has ended."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if self._ended.is_set():
            for thread in self._threads:
                thread.join()

    # Its start

    def _connect(self, command: list[str], has_input: bool) -> bytes:
        """Start it; what it has printed behind the line that says where it is."""

        def by_shell(protocol: str) -> list[str]:
            script = _FEED if has_input and protocol == V4 else _START
            return ["sh", "-c", script, "sh", self._word, *command]

        self._channel = self._link.open(self._container, by_shell, has_input)
        self._framed = has_input and self._channel.protocol == V4
        self.pid: int | None = None
        self._early: list[tuple[int, bytes]] = []
        said = b""
        try:
            while b"\n" not in said and len(said) < 1 << 16:
                channel, data = self._message(_STARTS)
                if channel == 1:
                    said += data
                elif channel == 2:
                    self._early.append((channel, data))
                elif channel == 3:
                    return self._without_shell(command, has_input, data)
                elif channel == -1:
                    raise self._failed("the connection was lost when it was started")
        except TimeoutError as error:
            self._channel.close()
            raise self._failed(f"was not started within {_STARTS:.0f} s") from error
        except BaseException:
            self._channel.close()
            raise
        line, _, rest = said.partition(b"\n")
        word, _, number = line.decode(errors="replace").partition(" ")
        if word == self._word and number.isdigit():
            self.pid = int(number)
            return rest
        self._channel.close()
        if word == self._word and number == "none":
            raise CommandNotFound(
                f"container {self._container!r}: there is no program {self._name!r} in its image"
            )
        raise self._failed(f"its sh is no shell: it said {line[:200]!r}")

    def _failed(self, text: str) -> PodError:
        return PodError(f"container {self._container!r}: {self._name!r}: {text}")

    def _without_shell(self, command: list[str], has_input: bool, status: bytes) -> bytes:
        """Start it without ``sh`` because of that status."""
        text = _message_of(status)
        self._channel.close()
        if not is_no_program(text):
            raise self._failed(text)
        self._early = []
        self._channel = self._link.open(self._container, lambda _: command, has_input)
        self._framed = False
        if has_input and self._channel.protocol == V4:
            self._channel.close()
            raise NotHere(
                f"container {self._container!r} has no sh, and the server of this cluster, older "
                "than Kubernetes 1.30, has no other way to end the standard input of a program; "
                "use an image with a shell, or stdin=DEVNULL"
            )
        return b""

    # What the threads do

    def _message(self, patience: float | None = None) -> tuple[int, bytes]:
        """The next message: its channel and data; (-1, b"") at the end of the connection."""
        while (message := self._channel.receive(patience)) is not None:
            if message:
                return message[0], message[1:]
        return -1, b""

    def _receive(self) -> None:
        for channel, data in [*self._early, (1, self._first)]:
            self._streams.deliver(channel, data)
        while True:
            channel, data = self._message()
            if channel == -1:
                break
            if channel == 3:
                self._status += data[: (1 << 20) - len(self._status)]
            elif channel == _CLOSE and data[:1] in (b"\1", b"\2"):
                self._streams.shut(data[0])
            else:
                self._streams.deliver(channel, data)
        self._finish()

    def _finish(self) -> None:
        code = _code(self._status)
        if code is None:
            text = _message_of(self._status) if self._status else "the connection was lost"
            kind = CommandNotFound if is_no_program(text) else PodError
            self._error = kind(
                f"container {self._container!r}: {self._name!r}: {text}; how it ended is not known"
            )
        self.returncode = code
        for thread in self._threads[1:]:
            os.write(self._stop, b".")
            thread.join()
        self._channel.close()
        self._streams.close()
        os.close(self._stop)
        os.close(self._stop_read)
        self._ended.set()

    def _send(self) -> None:
        """Pass its standard input on until that or the program ends."""
        poll = select.poll()
        poll.register(self._streams.input, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop_read in ready:
                return
            try:
                data = os.read(self._streams.input, _PIECE)
            except OSError:
                data = b""
            try:
                self._pass_on(data)
            except OSError:
                return  # the connection is lost, which the other thread notices as well
            if not data:
                return

    def _pass_on(self, data: bytes) -> None:
        if self._framed:
            self._channel.send(b"\0%d\n" % len(data) + data)
        elif data:
            self._channel.send(b"\0" + data)
        else:
            self._channel.send(bytes([_CLOSE, 0]))


def _code(status: bytes) -> int | None:
    """The exit code in the last message, a `Status` object; None if it says something else."""
    try:
        found = json.loads(status)
        if found["status"] == "Success":
            return 0
        if found["reason"] == "NonZeroExitCode":
            causes = found["details"]["causes"]
            return exit_code(int(next(c["message"] for c in causes if c["reason"] == "ExitCode")))
    except (ValueError, LookupError, TypeError, StopIteration):
        pass
    return None


def _message_of(status: bytes) -> str:
    try:
        return str(json.loads(status)["message"])
    except (ValueError, LookupError, TypeError):
        return status[:500].decode(errors="replace")
