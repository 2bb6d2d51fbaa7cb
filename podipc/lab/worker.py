"""The program in each of the two containers: it asks, or it answers.

It reads one command a line, as JSON, and writes one line of JSON back for each:
`python -m podipc.lab.worker` over standard input and output, with a number after it
over that descriptor, until standard input closes. Both are given the same commands
at the same time; the side that asks does the timing.

One round trip is: the asking side sends a tensor and waits for eight bytes; the
answering side receives the tensor, sends eight bytes over the same method, and
then looks at what it received. A second answer, outside of the time measured,
says that it is done with that, so that its check is never part of the next
round's time. The garbage collector is off, and the thread that measures is
pinned to one CPU; threads that a method starts for itself are not.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from podipc.lab import methods
from podipc.lab.inputs import Tensors
from podipc.lab.methods import Array, Link, Place
from podipc.lab.payload import Payload
from podipc.lab.wire import Ended, Garbled, Message, Wire

Reply = dict[str, Any]
Content = Payload | Tensors


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Keep this thread, and no other, on one CPU."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Session:
    """One open link and the messages that go over it; `seq` moves in step on both sides."""

    def __init__(self, link: Link, content: Content, corrupt: int | None) -> None:
        self.link = link
        self.content = content
        self.seq = 0
        self._corrupt = corrupt

    def answer(self, seq: int) -> Array:
        """Eight bytes that say which message was received."""
        return np.array([seq], "<u8").view(self.content.dtype)

    def answered(self, seq: int) -> bool:
        """Receive an answer; whether it is the one to message `seq`."""
        return self.link.recv().tobytes() == seq.to_bytes(8, "little")

    def message(self, seq: int, write: Callable[[Array, int], None]) -> tuple[Array, int]:
        """Make message `seq`; also the nanoseconds it took to be lent memory for it."""
        loan, content = self.link.loan, self.content
        if loan is None:
            out, spent = content.own(seq), 0
        else:
            start = time.perf_counter_ns()
            out = loan(content.nbytes(seq))
            spent = time.perf_counter_ns() - start
        write(out, seq)
        if seq == self._corrupt:
            out.reshape(-1).view(np.uint8)[-1] ^= 1
        return out, spent


class Asking(Session):
    """The side that sends tensors, waits for answers and takes the time."""

    def rounds(self, n: int, whole: bool) -> Reply:
        """`n` round trips a tensor: the nanoseconds of each, in the order they were made."""
        content, clock = self.content, time.perf_counter_ns
        send, recv = self.link.send, self.link.recv
        write = content.fill if whole else content.stamp
        times, wrong = [], 0
        began = clock()
        for seq in range(self.seq + 1, self.seq + n * content.count + 1):
            out, spent = self.message(seq, write)
            start = clock()
            send(out)
            answer = recv()
            end = clock()
            del out
            times.append(end - start + spent)
            wrong += answer.tobytes() != seq.to_bytes(8, "little")
            del answer
            wrong += not self.answered(seq)
        self.seq += n * content.count
        return {"ns": times, "wall_ns": clock() - began, "wrong": wrong}

    def stream(self, n: int, whole: bool) -> Reply:
        """`n` times every tensor, one after the other, and one answer at the end."""
        content, send = self.content, self.link.send
        write = content.fill if whole else content.stamp
        busy, start = time.process_time_ns(), time.perf_counter_ns()
        for seq in range(self.seq + 1, self.seq + n * content.count + 1):
            out, _ = self.message(seq, write)
            send(out)
            del out
        self.seq += n * content.count
        wrong = int(not self.answered(self.seq))
        end = time.perf_counter_ns()
        return {"ns": end - start, "cpu_ns": time.process_time_ns() - busy, "wrong": wrong}

    def copies(self, n: int, whole: bool) -> Reply:
        """`n` times `send` alone and `np.copyto` into warm memory, in turns."""
        clock, send = time.perf_counter_ns, self.link.send
        out = self.content.own(0)
        warm = np.empty_like(out)
        np.copyto(warm, out)
        sent, copied, wrong = [], [], 0
        for _ in range(n):
            self.seq += 1
            self.content.stamp(out, self.seq)
            start = clock()
            send(out)
            end = clock()
            sent.append(end - start)
            wrong += not self.answered(self.seq)
            wrong += not self.answered(self.seq)
            start = clock()
            np.copyto(warm, out)
            copied.append(clock() - start)
        return {"send_ns": sent, "copy_ns": copied, "wrong": wrong}


class Answering(Session):
    """The side that receives tensors, answers, and checks what it received."""

    def rounds(self, n: int, whole: bool) -> Reply:
        """The other side of `Asking.rounds`."""
        send, recv = self.link.send, self.link.recv
        good = self.content.whole if whole else self.content.sampled
        wrong = 0
        for seq in range(self.seq + 1, self.seq + n * self.content.count + 1):
            answer = self.answer(seq)
            x = recv()
            send(answer)
            wrong += not good(x, seq)
            del x
            send(answer)
        self.seq += n * self.content.count
        return {"wrong": wrong}

    copies = rounds

    def stream(self, n: int, whole: bool) -> Reply:
        """The other side of `Asking.stream`."""
        recv = self.link.recv
        good = self.content.whole if whole else self.content.sampled
        wrong = 0
        busy = time.process_time_ns()
        for seq in range(self.seq + 1, self.seq + n * self.content.count + 1):
            x = recv()
            wrong += not good(x, seq)
            del x
        self.seq += n * self.content.count
        self.link.send(self.answer(self.seq))
        return {"cpu_ns": time.process_time_ns() - busy, "wrong": wrong}


class Worker:
    """Carries out commands; each method `do_NAME` is one."""

    def __init__(self) -> None:
        self._session: Asking | Answering | None = None
        self._die = False

    def do_hello(self) -> Reply:
        """What this container is."""
        from podipc.lab import machine

        return machine.container()

    def do_ports(self, n: int) -> Reply:
        """Numbers of free ports, to be taken by the next link."""
        sockets = [socket.socket() for _ in range(n)]
        try:
            for s in sockets:
                s.bind(("127.0.0.1", 0))
            return {"ports": [s.getsockname()[1] for s in sockets]}
        finally:
            for s in sockets:
                s.close()

    def do_open(
        self,
        *,
        method: str,
        role: methods.Role,
        place: dict[str, Any],
        seed: int,
        input: str | None = None,
        tensors: list[dict[str, Any]] | None = None,
        corrupt: int | None = None,
        die: bool = False,
    ) -> Reply:
        """Open a link; `tensors` and `input` for real ones instead of synthetic ones."""
        self._die = die
        self.do_close()
        where = Place(
            **(
                place
                | {
                    "directory": Path(place["directory"]),
                    "memory": Path(place["memory"]),
                    "ports": tuple(place["ports"]),
                }
            )
        )
        where.memory.mkdir(mode=0o700, parents=True, exist_ok=True)
        what = methods.every()[method]
        if what.open is None:
            raise ValueError(f"{method} has no link")
        content: Content
        if tensors is None:
            content = Payload(where.nbytes, seed)
        else:
            content = Tensors.load(input, tensors, typed=what.typed)
        link = what.open(role, where)
        kind = Asking if role == "ask" else Answering
        self._session = kind(link, content, corrupt)
        return {}

    def do_floor(
        self, mechanism: str, size: int, rounds: int, cpus: list[int | None], stream: bool = False
    ) -> Reply:
        """What `podipc._core.floor` says, in nanoseconds."""
        from podipc._core import floor

        ask, answer = (-1 if cpu is None else cpu for cpu in cpus)
        return {"ns": floor(mechanism, size, rounds, (ask, answer), stream).tolist()}

    def do_rounds(self, n: int, whole: bool, cpu: int | None = None) -> Reply:
        """`n` round trips."""
        with pinned(cpu):
            return self._open().rounds(n, whole)

    def do_stream(self, n: int, whole: bool, cpu: int | None = None) -> Reply:
        """`n` tensors one way."""
        if self._die:
            os.kill(os.getpid(), signal.SIGBUS)
        with pinned(cpu):
            return self._open().stream(n, whole)

    def do_copies(self, n: int, whole: bool, cpu: int | None = None) -> Reply:
        """`n` sends and plain copies."""
        with pinned(cpu):
            return self._open().copies(n, whole)

    def do_close(self) -> Reply:
        """Close the link, if one is open."""
        session, self._session = self._session, None
        if session is not None:
            session.link.close()
            del session
            gc.collect()
        return {}

    def _open(self) -> Asking | Answering:
        if self._session is None:
            raise RuntimeError("the link was closed after an error")
        return self._session

    def carry_out(self, command: Message) -> Reply:
        """One command; what goes wrong in a method is a reply, and closes the link."""
        try:
            do = cast(Callable[..., Reply], getattr(self, f"do_{command.pop('do', None)}"))
            return do(**command)
        except Exception as error:  # whatever a method raises is a result here
            error.__traceback__ = None  # it would keep the arrays of the link alive
            reply = {"error": f"{type(error).__name__}: {error}"}
            with contextlib.suppress(Exception):
                self.do_close()
            return reply


def serve(wire: Wire) -> bool:
    """Carry out commands until the other side closes; whether it said before that it will.

    Raises `Garbled` for what is no command.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this
    gc.disable()
    gc.freeze()
    worker = Worker()
    try:
        while True:
            command = wire.receive()
            if command == {"do": "end"}:
                wire.send({})
                return True
            wire.send(worker.carry_out(command))
    except Ended:
        return False
    finally:
        worker.do_close()


def main() -> int:
    """Serve whoever started this; one of `ENDINGS`."""
    if len(sys.argv) > 1:
        wire = Wire(int(sys.argv[1]), int(sys.argv[1]))
        threading.Thread(target=_end_with_parent, daemon=True).start()
    else:
        wire = Wire(0, os.dup(1))
        os.dup2(2, 1)  # whatever a library prints must not end up among the replies
    try:
        return DONE if serve(wire) else LEFT
    except Garbled as error:
        print(f"podipc: the driver sent what is no command: {error}", file=sys.stderr)
        return GARBLED


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(LEFT)


DONE, LEFT, GARBLED = ENDINGS = 0, 91, 92
"""Exit codes: it was told to end; the driver went away; the driver sent nonsense."""


if __name__ == "__main__":
    sys.exit(main())
