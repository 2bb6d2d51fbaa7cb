"""The main job: two containers, every method, every size, in turns.

Methods take turns at each size, and the whole is repeated, so that whatever
else the machine does falls on all of them alike. Each turn opens the method
anew: a first round trip (cold), a pass in which every byte of every tensor is
checked, round trips against the clock, and a one-way stream against the clock.

This runs in the container of the producer; who started it, and with what, it
does not know.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from podipc.lab import inputs, machine
from podipc.lab.methods import FLOOR, SIZELESS, Method
from podipc.lab.pair import Failed, Pair, WorkerDied, Wrong
from podipc.lab.plan import Plan
from podipc.lab.results import Repetition, Results, Row

Progress = Callable[[int, int, str], None]


def measure(
    plan: Plan,
    memory: Path,
    disk: Path,
    wait: float,
    progress: Progress = lambda done, total, text: None,
) -> Results:
    """Measure between this container and the consumer.

    Parameters
    ----------
    memory, disk, wait
        As for `Pair`.

    Raises
    ------
    InputError, ControlError, WorkerDied
        Whatever else fails is in a row.
    """
    tensors = None if plan.input is None else inputs.describe(inputs.read(plan.input))
    started, clock = datetime.now(UTC), time.monotonic()
    table = _Table(plan, tensors)
    host = machine.host()
    with Pair(
        memory, disk, wait=wait, input=plan.input, corrupt=plan.corrupt, die=plan.die
    ) as pair:
        places = {"memory": machine.place(memory), "disk": machine.place(disk)}
        table.run(pair, progress, clock)
        # The worker of this side is a child; the container is what this process is in.
        ours, theirs = machine.container(), pair.consumer
        namespaces = _namespaces(ours, theirs)
        about = {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 3),
            "runtime": None,  # whoever started the Pod knows
            "isolation": _isolation(namespaces),
            "namespaces": namespaces,
            "notes": _notes(places),
            "places": places,
            "pinned": pair.cpus,
            "host": host,
            "versions": machine.versions(),
            "containers": {"producer": ours, "consumer": theirs},
            "plan": {
                "methods": [m.name for m in plan.methods],
                "sizes": None if tensors else list(plan.sizes),
                "input": None if plan.input is None else plan.input.name,
                "tensors": tensors,
                "repeat": plan.repeat,
                "repeated": table.repeated,
                "rounds": plan.rounds,
                "seconds": plan.seconds,
                "shm_bytes": (ours["shm"] or {}).get("size"),
            },
        }
    return Results(about, table.rows)


def _namespaces(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str | None]:
    """Of each kind, whether the two containers have one together, as they see it themselves."""
    pairs = {name: (seen, theirs["namespaces"][name]) for name, seen in ours["namespaces"].items()}
    pairs["shm"] = (ours["shm"] or {}).get("device"), (theirs["shm"] or {}).get("device")
    return {
        name: None if None in (a, b) else "shared" if a == b else "own"
        for name, (a, b) in pairs.items()
    }


def _isolation(namespaces: dict[str, str | None]) -> dict[str, bool]:
    """Whether there is what a Pod has: some parts of each container, some of both together.

    What plain processes have together they have with the whole machine.
    """
    own = {part: namespaces[name] == "own" for part, name in OWN.items()}
    return own | {part: any(own.values()) and namespaces[part] == "shared" for part in TOGETHER}


OWN = {"pid": "pid", "mount": "mnt", "uts": "uts"}
TOGETHER = ("net", "ipc", "shm")
IN_MEMORY = ("tmpfs", "ramfs")


def _notes(places: dict[str, dict[str, str | None]]) -> list[str]:
    """Where a directory is not what the name of a method says of it."""
    notes = []
    memory, disk = places["memory"], places["disk"]
    if memory["filesystem"] not in IN_MEMORY:
        notes.append(f"{memory['path']}, for file, is on {memory['filesystem']}, not in memory")
    if disk["filesystem"] in (*IN_MEMORY, None):
        notes.append(f"{disk['path']}, for file-disk, is on {disk['filesystem']}, not on a disk")
    return notes


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
        total, done = plan.repeat * len(self._cells), 0
        for repetition in range(plan.repeat):
            before = time.monotonic()
            for at, size in enumerate(self.sizes):
                shift = (repetition + at) % len(plan.methods)
                turn = [*plan.methods[shift:], *plan.methods[:shift]]
                for method in turn:
                    if (method.name, size) not in self._cells:
                        continue
                    progress(done, total, f"{method.name}, {size} bytes")
                    self._turn(pair, method, size)
                    done += 1
            self.repeated = repetition + 1
            now = time.monotonic()
            if now - clock + (now - before) > plan.limit:
                break
        progress(total, total, "done")

    def _turn(self, pair: Pair, method: Method, size: int) -> None:
        rows = self._cells[method.name, size]
        if rows[0].error is not None:
            return
        try:
            if method.kind == "floor":
                self._floor(pair, rows, mechanism(method))
                return
            biggest = size if self.tensors is None else max(t["nbytes"] for t in self.tensors)
            with pair.open(method, biggest, self.tensors):
                self._measure(pair, rows, biggest)
        except (Failed, Wrong) as error:
            _fail(rows, str(error), wrong=isinstance(error, Wrong))
        except WorkerDied as error:
            _fail(rows, pair.again(error), died=True)

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
                sent=sent if stream else 0,
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


def _fail(rows: list[Row], error: str, *, wrong: bool = False, died: bool = False) -> None:
    for row in rows:
        row.error, row.wrong, row.died = error, wrong, died
        row.repetitions, row.times_ns = [], []


def mechanism(method: Method) -> str:
    """Of the floor: what is measured."""
    return method.name.removeprefix(FLOOR)


def _mine(times: list[int], number: int, count: int) -> list[int]:
    """Of times of messages 1, 2, ... (or any whole number of rounds later) those of a tensor."""
    return times[(number - 1) % count :: count]


def often(seconds: float, each_ns: float, least: int, most: int) -> int:
    """How often something can be done in a time."""
    return max(least, min(most, int(seconds * 1e9 / max(1.0, each_ns))))
