"""How fast podipc has to be, and is: `python -m podipc.lab.bars`. For developers.

Every promise about speed is a ratio of two things measured side by side, in one
run, on one machine: all are measured in turn, the whole is repeated, and the
ratio is that of the medians. Beside it stands the range of the ratio over the
repetitions, without which nobody can tell a miss from noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from podipc import console
from podipc.lab import machine, methods, table
from podipc.lab.driver import often
from podipc.lab.pair import Failed, Pair, alone

KI, MI = 1 << 10, 1 << 20
Probe = tuple[Any, ...]
"""What is measured: the name of a function of `Probes` and its arguments."""


@dataclass(frozen=True)
class Bar:
    """One promise: `measured` is at least, or at most, `bound` times `against`."""

    group: str
    text: str
    measured: Probe
    against: Probe | None
    """None: the bound is an absolute one."""
    bound: float
    at_least: bool = False


def bars() -> Iterator[Bar]:
    """All promises. Times are to be small, so "8 times faster" is at most an eighth."""
    rtt = ("rtt", "shm", 64)
    yield Bar("latency", "shm 64 B / iceoryx2", rtt, ("rtt", "iceoryx2", 64), 1 / 8)
    yield Bar("latency", "shm 64 B / cache line, C", rtt, ("floor", "cache-line", 64), 10)
    block = ("rtt", "shm-block", 64)
    yield Bar("block", "shm-block 64 B / futex, C", block, ("floor", "futex", 64), 1.25)
    yield Bar("block", "shm-block 64 B / mp-pipe", block, ("rtt", "mp-pipe", 64), 1.25)
    loan = ("rtt", "shm-loan", 64)
    yield Bar("loan", "shm-loan 64 MiB / 64 B", ("rtt", "shm-loan", 64 * MI), loan, 1.5)
    for size, bound in ((16 * MI, 0.95), (64 * MI, 1.25)):
        sent, copied = ("send", size), ("copyto", size)
        yield Bar("copy", f"send {console.size(size)} / np.copyto", sent, copied, bound, True)
    for size, bound in ((MI, 2.0), (16 * MI, 1.5)):
        for other, least in (("iceoryx2", bound), ("zmq-ipc", 4.0), ("zmq-tcp", 4.0)):
            text = f"stream {console.size(size)}: shm / {other}"
            ours, theirs = ("stream", "shm", size), ("stream", other, size)
            yield Bar("stream", text, ours, theirs, least, True)
    for name, raw in (("tcp", "tcp"), ("unix", "unix"), ("fifo", "pipe")):
        for size in (64, 64 * KI, MI):
            ours = ("rtt", name, size)
            text = f"{name} {console.size(size)}"
            yield Bar(name, f"{text} / by hand, Python", ours, ("rtt", f"py-{name}", size), 1)
            yield Bar(name, f"{text} / raw C", ours, ("floor", raw, size), 1.3)
        ours, text = ("stream", name, MI), f"{name} stream 1 MiB"
        yield Bar(
            name, f"{text} / by hand, Python", ours, ("stream", f"py-{name}", MI), 1, at_least=True
        )
        yield Bar(name, f"{text} / raw C", ours, ("floor_stream", raw, MI), 1 / 1.3, at_least=True)
    for wait in ("adaptive", "block"):
        yield Bar("idle", f"share of a core, waiting, {wait}", ("idle", wait), None, 0.01)
    yield Bar("import", "import podipc beyond numpy, ms", ("imported",), None, 20)


class Probes:
    """Each method measures one thing once; times in nanoseconds, streams in bytes per second."""

    def __init__(self, pair: Pair, seconds: float) -> None:
        self._pair = pair
        self._seconds = seconds

    def rtt(self, name: str, size: int) -> float:
        """The median round trip of a method."""
        with self._open(name, size):
            n = self._rounds(size)
            return float(statistics.median(self._pair.timed("rounds", n)[0]["ns"]))

    def stream(self, name: str, size: int) -> float:
        """Throughput of a method, one way."""
        with self._open(name, size):
            probe = self._pair.timed("stream", 5)[0]["ns"] / 5
            n = often(self._seconds, probe, 10, 20_000)
            return n * size / float(self._pair.timed("stream", n)[0]["ns"]) * 1e9

    def send(self, size: int) -> float:
        """Bytes per second of `send` alone into warm memory."""
        return self._copying(size)[0]

    def copyto(self, size: int) -> float:
        """Bytes per second of `np.copyto` into warm memory, in turns with `send`."""
        return self._copying(size)[1]

    def floor(self, name: str, size: int) -> float:
        """The median round trip in C."""
        probe = min(self._pair.floor(name, size, 5))
        n = often(self._seconds, 2 * probe, 20, 5000)
        return statistics.median(self._pair.floor(name, size, n))

    def floor_stream(self, name: str, size: int) -> float:
        """Throughput in C, one way."""
        n = often(self._seconds, min(self._pair.floor(name, size, 5)), 20, 20_000)
        return n * size / self._pair.floor(name, size, n, stream=True)[0] * 1e9

    def idle(self, wait: str) -> float:
        """CPU seconds per second of a receiver whose sender has nothing to say."""
        text = _python(IDLE, f"shm://{self._pair.name}-idle?wait={wait}")
        return float(text)

    def imported(self) -> float:
        """Milliseconds."""
        return float(_python(IMPORT))

    def _open(self, name: str, size: int) -> Any:
        return self._pair.open(methods.every()[name], size)

    def _rounds(self, size: int) -> int:
        """Warm up, every byte checked; how many rounds there is time for."""
        self._pair.timed("stream", 16 if size < MI else 6, whole=True)
        probe = self._pair.timed("rounds", 5)[0]["ns"]
        return often(self._seconds, 2 * statistics.median(probe), 20, 5000)

    def _copying(self, size: int) -> tuple[float, float]:
        with self._open("shm", size):
            self._pair.timed("stream", 6, whole=True)
            asked = self._pair.timed("copies", often(self._seconds, size / 4, 15, 60))[0]
            send, copy = (statistics.median(asked[key]) for key in ("send_ns", "copy_ns"))
            return size / send * 1e9, size / copy * 1e9


IDLE = """
import sys, time, podipc
tx, rx = podipc.sender(sys.argv[1]), podipc.receiver(sys.argv[1])
tx.send(b"x")
rx.recv(timeout=5)
time.sleep(0.2)
start, busy = time.monotonic(), time.process_time()
try:
    rx.recv(timeout=2)
except podipc.Timeout:
    print((time.process_time() - busy) / (time.monotonic() - start))
"""
IMPORT = """
import time, numpy
start = time.perf_counter()
import podipc
print((time.perf_counter() - start) * 1e3)
"""


def _python(code: str, *args: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code, *args], check=False, capture_output=True, text=True
    )
    if ran.returncode != 0:
        raise Failed(ran.stderr.strip().splitlines()[-1])
    return ran.stdout


@dataclass
class Reached:
    """What came of a promise."""

    group: str
    text: str
    bound: float
    at_least: bool
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    measured: float | None = None
    against: float | None = None
    error: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the ratio of the medians is on the right side."""
        if self.ratio is None:
            return False
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


def measure(
    chosen: Sequence[Bar],
    repeat: int,
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
    best: bool = False,
) -> list[Reached]:
    """Measure every probe of the bars in turn, `repeat` times.

    With `best` the ratio is that of the best repetitions, not of the medians.
    """
    probes = list(dict.fromkeys(p for bar in chosen for p in (bar.measured, bar.against) if p))
    found: dict[Probe, list[float]] = {probe: [] for probe in probes}
    failed: dict[Probe, str] = {}
    with alone() as pair:
        ways = Probes(pair, seconds)
        for number in range(repeat):
            for probe in probes if number % 2 == 0 else reversed(probes):
                if probe in failed:
                    continue
                progress(f"{number + 1}/{repeat} {' '.join(map(str, probe))}")
                try:
                    found[probe].append(getattr(ways, probe[0])(*probe[1:]))
                except Failed as error:
                    failed[probe] = str(error)
    return [_reached(bar, found, failed, best) for bar in chosen]


def _reached(
    bar: Bar, found: dict[Probe, list[float]], failed: dict[Probe, str], best: bool
) -> Reached:
    typical: Callable[[list[float]], float] = statistics.median
    if best:
        typical = max if bar.at_least else min
    out = Reached(bar.group, bar.text, bar.bound, bar.at_least)
    for probe in (bar.measured, bar.against):
        if probe in failed:
            out.error = failed[probe]
            return out
    ours = found[bar.measured]
    theirs = found[bar.against] if bar.against else [1.0] * len(ours)
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    out.measured = typical(ours)
    out.against = typical(theirs) if bar.against else None
    out.ratio = out.measured / typical(theirs)
    out.low, out.high = min(each), max(each)
    return out


def line(one: Reached) -> str:
    """One promise, one line."""
    if one.ratio is None:
        return f"{one.text:36} not measured: {one.error}"
    ask = f"{'>=' if one.at_least else '<='} {one.bound:.4g}"
    spread = f"({one.low:.3g} to {one.high:.3g})"
    figures = ""
    if one.measured is not None and one.against is not None:
        show = table.rate if one.at_least else table.duration
        figures = f"{show(one.measured)} / {show(one.against)}"
    verdict = "ok" if one.kept else "MISSED"
    return f"{one.text:36} {ask:9} {one.ratio:7.3g} {spread:17} {figures:17} {verdict}".rstrip()


def main() -> int:
    """Exit code 1 if a promise is not kept."""
    everything = list(bars())
    groups = list(dict.fromkeys(bar.group for bar in everything))
    parser = argparse.ArgumentParser(prog="python -m podipc.lab.bars", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(groups)} (default: all)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.15, help="for each measurement")
    parser.add_argument(
        "--best",
        action="store_true",
        help="of the best repetitions instead of the medians, for a machine that others use too",
    )
    parser.add_argument("--json", type=Path, help="save figures and machine")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(groups):
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(groups)}")
    chosen = [b for b in everything if not options.groups or b.group in options.groups]

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    start = time.monotonic()
    host = machine.host()
    reached = measure(chosen, options.repeat, options.seconds, progress, options.best)
    progress("")
    kind = "best" if options.best else "medians"
    print(f"{'':36} {'asked':9} {'reached':>7} {'(over the runs)':17} {kind}")
    for one in reached:
        print(line(one))
    print(
        f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']}, load at the start "
        f"{host['load']:.1f}; {options.repeat} times, {time.monotonic() - start:.0f} s"
    )
    if options.json:
        saved = {"host": host, "versions": machine.versions(), "bars": [asdict(r) for r in reached]}
        options.json.write_text(json.dumps(saved, indent=1) + "\n")
    return 0 if all(one.kept for one in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
