"""The main job: two containers, every method, every size, in turns.

Methods take turns at each size, and the whole is repeated, so that whatever
else the machine does falls on all of them alike. Each turn opens the method
anew: a first round trip (cold), a pass in which every byte of every tensor is
checked, round trips against the clock, and a one-way stream against the clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from podipc.lab import inputs, machine
from podipc.lab.methods import FLOOR, PATIENCE, SIZELESS, Method
from podipc.lab.results import Repetition, Results, Row

Reply = dict[str, Any]
Progress = Callable[[int, int, str], None]

SIZES = (64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
QUICK_SIZES = (64, 4 << 10, 256 << 10, 4 << 20)
SHM_BYTES = 1 << 30


class WorkerDied(RuntimeError):
    """A container ended, or fell silent, in the middle of a measurement."""


@dataclass(frozen=True)
class Plan:
    """What to measure, and for how long."""

    methods: Sequence[Method]
    sizes: Sequence[int] = SIZES
    input: Path | None = None
    """A file of real tensors, in place of `sizes`."""
    repeat: int = 5
    rounds: int = 2000
    """At most so many round trips a turn."""
    seconds: float = 0.1
    """Time for each of the two timed passes of a turn."""
    limit: float = 600.0
    """Seconds after which no further repetition is begun."""
    runtime: Literal["local", "plain"] = "local"
    shm_bytes: int = SHM_BYTES
    corrupt: int | None = None
    """For tests: the number of the message of each link that is damaged on the way."""


class Container:
    """One side, and the commands it is given."""

    def __init__(self, pod: Any, name: str, directory: Path, memory: Path) -> None:
        self.name = name
        self._stderr = directory / f"{name}.stderr"
        self._buffer = b""
        with self._stderr.open("wb") as stderr:
            self._process = pod.start(
                name,
                [sys.executable, "-P", "-m", "podipc.lab.worker"],
                env=dict(
                    os.environ,
                    PYTHONPATH=os.pathsep.join(p for p in sys.path if p),
                    PODIPC_DIR=str(memory),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def order(self, command: dict[str, Any]) -> None:
        """Give a command; `reply` has to be called for it."""
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None

    def reply(self, until: float) -> Reply:
        """What came of the command."""
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, until - time.monotonic())):
                raise WorkerDied(f"container {self.name!r} does not answer{self._tail()}")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: Reply = json.loads(line)
        return found

    def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let it end by itself, unless there was an error; the Pod ends it otherwise."""
        self._selector.close()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if kind is None:
            with contextlib.suppress(Exception):
                self._process.wait(2)
        else:
            self._process.kill()
        self._process.stdout.close()

    def _died(self) -> WorkerDied:
        with contextlib.suppress(Exception):
            self._process.wait(2)
        code = self._process.poll()
        how = "ended" if code is None else f"exit code {code}" if code >= 0 else f"signal {-code}"
        return WorkerDied(f"container {self.name!r} died ({how}){self._tail()}")

    def _tail(self) -> str:
        text = self._stderr.read_text(errors="replace").strip()
        if not text:
            return "; it wrote nothing to stderr"
        return "; the end of its stderr:\n" + "\n".join(text.splitlines()[-12:])


class Wrong(RuntimeError):
    """Tensors arrived, but not as they were sent."""


class Failed(RuntimeError):
    """A method could not do it; the text says why."""


class Pair:
    """The two containers, for as long as they are needed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stack = contextlib.ExitStack()
        self._turn = 0
        self.name = f"podipc-{os.getpid()}-{secrets.token_hex(2)}"

    def __enter__(self) -> Pair:
        with self._stack as stack:
            self._directory = Path(tempfile.mkdtemp(prefix="podipc-compare-"))
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            os.chmod(self._directory, 0o700)
            self._memory = Path("/dev/shm") / self.name
            stack.callback(self._sweep)
            pod = stack.enter_context(_pod(self._plan.runtime, self.name, self._plan.shm_bytes))
            self.isolation, self.notes = pod.isolation, list(pod.notes)
            self.ask = Container(pod, "producer", self._directory, self._memory)
            stack.push(self.ask.close)
            self.answer = Container(pod, "consumer", self._directory, self._memory)
            stack.push(self.answer.close)
            self.hello = self.both({"do": "hello"})
            cpus = self.hello[0]["cpus"]
            self.cpus = cpus[:2] if len(cpus) > 1 else [None, None]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _sweep(self) -> None:
        """Where the Pod has no /dev/shm of its own, what a killed worker left there."""
        shutil.rmtree(self._memory, ignore_errors=True)
        for left in self._memory.parent.glob(f"*{self.name}*"):
            left.unlink(missing_ok=True)

    def both(self, ask: dict[str, Any], answer: dict[str, Any] | None = None) -> list[Reply]:
        """Give each a command and wait for both. Raises `Failed`, `Wrong`, `WorkerDied`."""
        self.answer.order(ask if answer is None else answer)
        self.ask.order(ask)
        until = time.monotonic() + 3 * PATIENCE
        replies = [self.ask.reply(until), self.answer.reply(until)]
        errors = [r["error"] for r in replies if "error" in r]
        if errors:
            raise Failed(_first(errors))
        if wrong := sum(r.get("wrong", 0) for r in replies):
            raise Wrong(f"{wrong} arrived wrong")
        return replies

    def timed(self, do: str, n: int, whole: bool = False) -> list[Reply]:
        """A pass; both sides pinned."""
        command = {"do": do, "n": n, "whole": whole}
        return self.both(command | {"cpu": self.cpus[0]}, command | {"cpu": self.cpus[1]})

    def floor(self, mechanism: str, size: int, rounds: int, stream: bool = False) -> list[int]:
        """Nanoseconds of the raw floor, measured inside a container."""
        command = {"do": "floor", "mechanism": mechanism, "size": max(1, size), "rounds": rounds}
        self.ask.order(command | {"cpus": self.cpus, "stream": stream})
        reply = self.ask.reply(time.monotonic() + 3 * PATIENCE)
        if "error" in reply:
            raise Failed(reply["error"])
        ns: list[int] = reply["ns"]
        return ns

    @contextlib.contextmanager
    def open(self, method: Method, nbytes: int, tensors: Any = None) -> Iterator[None]:
        """Open a method on both sides."""
        self._turn += 1
        ports = self.both({"do": "ports", "n": 2})[1]["ports"]
        place = {
            "name": f"{self.name}-{self._turn}",
            "directory": str(self._directory),
            "memory": str(self._memory),
            "ports": ports,
            "nbytes": nbytes,
            "dtype": "<u8" if tensors is None else "|u1",
        }
        command = {"do": "open", "method": method.name, "place": place, "seed": self._turn}
        if tensors is not None:
            command["tensors"] = tensors
        ask = command | {"role": "ask", "corrupt": self._plan.corrupt}
        if self._plan.input is not None:
            ask["input"] = str(self._plan.input.resolve())
        try:
            self.both(ask, command | {"role": "answer"})
            yield
        except (Failed, Wrong):
            self.both({"do": "close"})
            raise
        self.both({"do": "close"})


def _first(errors: list[str]) -> str:
    """Of the errors of both sides, the one that explains the other."""
    silent = ("TimeoutError", "Timeout", "EOFError", "Closed", "Again", "PeerDied", "Empty")
    return min(errors, key=lambda e: e.startswith(silent))


def _pod(runtime: str, name: str, shm_bytes: int) -> Any:
    from podipc.pod.local import namespaces

    return namespaces.Pod(name, shm_bytes=shm_bytes, isolate=runtime == "local")


def compare(plan: Plan, progress: Progress = lambda done, total, text: None) -> Results:
    """Measure. Raises `inputs.InputError` and `WorkerDied`; whatever else fails is in a row."""
    tensors = None if plan.input is None else inputs.describe(inputs.read(plan.input))
    started, clock = datetime.now(UTC), time.monotonic()
    table = _Table(plan, tensors)
    host = machine.host()
    with Pair(plan) as pair:
        table.run(pair, progress, clock)
        about = {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
            "runtime": plan.runtime if any(pair.isolation.values()) else "plain",
            "isolation": pair.isolation,
            "notes": pair.notes,
            "pinned": pair.cpus,
            "host": host,
            "versions": machine.versions(),
            "containers": {"producer": pair.hello[0], "consumer": pair.hello[1]},
            "plan": {
                "methods": [m.name for m in plan.methods],
                "sizes": None if tensors else list(plan.sizes),
                "input": None if plan.input is None else plan.input.name,
                "tensors": tensors,
                "repeat": plan.repeat,
                "repeated": table.repeated,
                "rounds": plan.rounds,
                "seconds": plan.seconds,
                "shm_bytes": plan.shm_bytes,
            },
        }
    return Results(about, table.rows)


class _Table:
    """The rows while they are being filled."""

    def __init__(self, plan: Plan, tensors: list[dict[str, Any]] | None) -> None:
        self.plan = plan
        self.tensors = tensors
        self.repeated = 0
        self.rows: list[Row] = []
        self._pools: dict[int, list[int]] = {}
        self._cells: dict[tuple[str, int], list[Row]] = {}
        if tensors is None:
            self.sizes = list(plan.sizes)
        else:
            self.sizes = [sum(t["nbytes"] for t in tensors)]
        for size in self.sizes:
            for method in plan.methods:
                if mechanism(method) not in SIZELESS or size == self.sizes[0]:
                    self._cells[method.name, size] = self._make(method, size)

    def _make(self, method: Method, size: int) -> list[Row]:
        """The rows that one turn fills: one, or one a tensor and one for all of them."""
        if self.tensors is None:
            rows = [Row(method.name, method.kind, size)]
        else:
            rows = [Row(method.name, method.kind, t["nbytes"], t["name"]) for t in self.tensors]
            if len(rows) > 1:
                rows.append(Row(method.name, method.kind, size, "*"))
        for row in rows:
            row.error = method.missing
        self.rows += rows
        return rows

    def run(self, pair: Pair, progress: Progress, clock: float) -> None:
        """All repetitions; at least one, and no more than there is time for."""
        plan = self.plan
        total = plan.repeat * len(self._cells)
        for repetition in range(plan.repeat):
            before = time.monotonic()
            for at, size in enumerate(self.sizes):
                shift = (repetition + at) % len(plan.methods)
                turn = [*plan.methods[shift:], *plan.methods[:shift]]
                for number, method in enumerate(turn):
                    done = (repetition * len(self.sizes) + at) * len(turn) + number
                    progress(done, total, f"{method.name}, {size} bytes")
                    self._turn(pair, method, size)
            self.repeated = repetition + 1
            now = time.monotonic()
            if now - clock + (now - before) > plan.limit:
                break
        progress(total, total, "done")

    def _turn(self, pair: Pair, method: Method, size: int) -> None:
        rows = self._cells.get((method.name, size), [])
        if not rows or rows[0].error is not None:
            return
        try:
            if method.kind == "floor":
                self._floor(pair, rows, mechanism(method))
                return
            biggest = size if self.tensors is None else max(t["nbytes"] for t in self.tensors)
            with pair.open(method, biggest, self.tensors):
                self._measure(pair, rows, biggest)
        except (Failed, Wrong) as error:
            for row in rows:
                row.error = str(error)
                row.wrong = isinstance(error, Wrong)
                row.repetitions, row.times_ns = [], []

    def _measure(self, pair: Pair, rows: list[Row], biggest: int) -> None:
        plan, count = self.plan, max(1, len(rows) - 1)
        cold = pair.timed("rounds", 1, whole=True)[0]["ns"]
        # Enough to fill every queue on the way, and to wait for it to empty.
        whole = min(64, (32 << 20) // max(1, biggest) + 4) // count or 2
        pair.timed("stream", whole, whole=True)
        probe = pair.timed("rounds", 3)[0]
        n = often(plan.seconds, 2 * count * statistics.median(probe["ns"]), 3, plan.rounds)
        times = pair.timed("rounds", n)[0]["ns"]
        probe = pair.timed("stream", 3)[0]
        probe = pair.timed("stream", k := often(plan.seconds / 5, probe["ns"] / 3, 3, 100))[0]
        sent = often(plan.seconds, probe["ns"] / k, 3, 50 * plan.rounds)
        asked, answered = pair.timed("stream", sent)
        for number, row in enumerate(rows):
            row.checked_whole += 1 + whole
            row.checked_sampled += 3 + n + 3 + k + sent
            stream = number == len(rows) - 1
            # Message numbers begin at 1, and number `seq` is tensor `seq % count`.
            mine = _mine(times, number, count) if number < count else []
            first = _mine(cold, number, count)[0] if number < count else sum(cold)
            self._add(
                row,
                mine,
                cold=first,
                sent=sent * count if stream else 0,
                bytes_per_s=sent * row.size / asked["ns"] * 1e9 if stream else None,
                cpu=(asked["cpu_ns"], answered["cpu_ns"]) if stream else (0, 0),
            )

    def _floor(self, pair: Pair, rows: list[Row], name: str) -> None:
        seconds = self.plan.seconds / len(rows)
        for row in rows:
            probe = min(pair.floor(name, row.size, 3))
            n = often(seconds, probe, 3, self.plan.rounds)
            times = pair.floor(name, row.size, n)
            sent, rate = 0, None
            if name not in SIZELESS:
                sent = often(seconds, probe, 3, 50 * self.plan.rounds)
                rate = row.size * sent / pair.floor(name, row.size, sent, stream=True)[0] * 1e9
            self._add(row, times, cold=None, sent=sent, bytes_per_s=rate, cpu=(0, 0))

    def _add(
        self,
        row: Row,
        times: list[int],
        *,
        cold: int | None,
        sent: int,
        bytes_per_s: float | None,
        cpu: tuple[int, int],
    ) -> None:
        pool = self._pools.setdefault(id(row), [])
        pool += times
        ordered = sorted(times)
        row.add(
            Repetition(
                cold_ns=cold,
                n=len(times),
                p50_ns=statistics.median(ordered) if ordered else 0.0,
                p99_ns=ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0,
                sent=sent,
                bytes_per_s=bytes_per_s,
                ask_cpu_ns=cpu[0],
                answer_cpu_ns=cpu[1],
            ),
            pool,
        )


def mechanism(method: Method) -> str:
    """Of the floor: what is measured."""
    return method.name.removeprefix(FLOOR)


def _mine(times: list[int], number: int, count: int) -> list[int]:
    """Of times of messages 1, 2, ... (or any whole number of rounds later) those of a tensor."""
    return times[(number - 1) % count :: count]


def often(seconds: float, each_ns: float, least: int, most: int) -> int:
    """How often something can be done in a time."""
    return max(least, min(most, int(seconds * 1e9 / max(1.0, each_ns))))
