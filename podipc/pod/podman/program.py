"""One more program in a container of podman.

``podman exec`` carries its streams. Podman has no way to signal such a program, so a shell
in the container first says its own PID there, and then becomes the program; with it the
process is found here and held by a descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from podipc._core import Closed, NotPermitted, SystemCallError, Timeout
from podipc.pod.errors import CommandNotFound
from podipc.pod.podman import client
from podipc.pod.podman.process import Process, exit_code, readable
from podipc.pod.runtime import DEVNULL, STDOUT, Stream

_AS_THIRD = """
import os, sys
fd = int(sys.argv[1])
os.dup2(fd, 3)
if fd != 3:
    os.close(fd)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Start podman with a descriptor as its third, from which on it hands them on."""

_SHELL = r"""
merge=$1; shift
case $1 in
*/*) found=$1 ;;
*)
    found=
    IFS=:
    for directory in $PATH; do
        if [ -f "$directory/$1" ] && [ -x "$directory/$1" ]; then
            found=$directory/$1
            break
        fi
    done
    unset IFS
    ;;
esac
if [ -e "$found" ] && { [ ! -f "$found" ] || [ ! -x "$found" ]; }; then
    echo denied >&3
    exit 126
fi
if [ ! -e "$found" ]; then
    echo "missing $PATH" >&3
    exit 127
fi
echo "pid $$" >&3
if [ "$merge" = 1 ]; then
    exec "$@" 2>&1 3>&-
fi
exec "$@" 3>&-
"""


class Program:
    """A program that runs in a container besides its main process. See `runtime.Program`."""

    def __init__(self, client_: subprocess.Popen[bytes], found: tuple[int, int] | None) -> None:
        self._client = client_
        self._found = found
        self.pid = found[0] if found else None
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = client_.stdin
        self.stdout: IO[bytes] | None = client_.stdout
        self.stderr: IO[bytes] | None = client_.stderr

    def poll(self) -> int | None:
        if self._client.poll() is not None:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        try:
            self._client.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout(f"the program still runs after {timeout} s") from None
        return self._end()

    def send_signal(self, number: int) -> None:
        if self.poll() is None and self._found is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._found[1], number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _end(self) -> int:
        if self.returncode is None:
            self.returncode = exit_code(self._client.returncode)
            if self._found is not None:
                os.close(self._found[1])
                self._found = None
        return self.returncode


def start(
    name: str, process: Process, command: Sequence[str], streams: tuple[Stream, Stream, Stream]
) -> Program:
    """Start a program in the container whose main process is `process`; see `Container.exec`."""
    if not command:
        raise ValueError(f"the command for container {name!r} is empty")
    stdin, stdout, stderr = streams
    merge = stderr == STDOUT
    words = [client.program(), "exec", "--preserve-fds", "1"]
    words += ["-i"] if stdin != DEVNULL else []
    words += [process.identity, "sh", "-c", _SHELL, "podipc", str(int(merge)), *command]
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        exec_client = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _AS_THIRD, str(write), *words],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[write],
            # A Ctrl-C is for whoever runs the Pod.
            start_new_session=True,
        )
        os.close(write)
        write = -1
        try:
            answer = _line(read, client.PATIENCE)
        except BaseException:
            # Ctrl-C. The shell ends as well: nobody reads who it is.
            exec_client.kill()
            exec_client.wait()
            raise
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    what, _, rest = answer.partition(" ")
    if what == "pid":
        return Program(exec_client, _find(process, int(rest)))
    program = Program(exec_client, None)
    code = program.wait(client.PATIENCE)
    program.close()
    if what == "missing":
        error = CommandNotFound(
            f"container {name!r}: there is no program {command[0]!r}"
            + ("" if "/" in command[0] else f" in its PATH, {rest!r}")
        )
        error.errno, error.call = errno.ENOENT, "execve"
        raise error
    if what == "denied":
        denied = NotPermitted(f"container {name!r}: {command[0]!r} cannot be executed")
        denied.errno, denied.call = errno.EACCES, "execve"
        raise denied
    if process.has_ended():
        raise Closed(f"container {name!r} does not run: it has ended")
    if code in (126, 127):
        raise CommandNotFound(f"container {name!r}: its image has no sh, which exec needs")
    raise SystemCallError(
        f"container {name!r}: podman exec failed with exit code {code}; what it said went to the "
        "program's standard error"
    )


def _line(fd: int, timeout: float) -> str:
    """What is written there until the other ends are closed."""
    data = b""
    deadline = time.monotonic() + timeout
    while True:
        if not readable(fd, deadline - time.monotonic()):
            raise Timeout(f"podman exec has not started the program within {timeout:g} s")
        piece = os.read(fd, 65536)
        if not piece:
            break
        data += piece
        if data.endswith(b"\n"):
            break
    return data.decode(errors="replace").rstrip("\n")


def _find(process: Process, inside: int) -> tuple[int, int] | None:
    """PID here and descriptor of the process with that PID in there; None if it has ended."""
    try:
        namespace = os.readlink(f"/proc/{process.pid}/ns/pid")
    except OSError:
        return None
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if _pid_inside(entry) != inside or os.readlink(f"/proc/{entry}/ns/pid") != namespace:
                continue
            descriptor = os.pidfd_open(int(entry))
        except OSError:
            continue
        if _pid_inside(entry) == inside:
            return int(entry), descriptor
        os.close(descriptor)
    return None


def _pid_inside(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    except OSError:
        pass
    return None
