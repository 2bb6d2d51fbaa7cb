"""What is to be measured, as options of the command line and as an object."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from podipc.pod import RUNTIMES as POD_RUNTIMES

if TYPE_CHECKING:
    from podipc.lab.methods import Method

RUNTIMES = (*(name for name in POD_RUNTIMES if name != "auto"), "plain")
"""What can run a comparison: those of a Pod, and plain processes of this machine."""
SHM_BYTES = 1 << 30
"""Of a Pod's /dev/shm, where one can choose: enough for every method at every size."""

SIZES = (64, 1 << 10, 16 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
QUICK_SIZES = (64, 4 << 10, 256 << 10, 4 << 20)
BIGGEST = 4 << 30
T = TypeVar("T")


class WrongPlan(ValueError):
    """What was asked for cannot be measured; the text says what can."""


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
    limit: float = 240.0
    """Seconds after which no further repetition is begun."""
    corrupt: int | None = None
    """For tests: the number of the message of each link that is damaged on the way."""
    die: str | None = None
    """For tests, as ``consumer:mp-shm``: whose worker kills itself in the turns of a method."""

    def arguments(self, input: str | None) -> list[str]:
        """Options of `podipc compare` that make this plan; `input` is where the file is there."""
        words = ["--methods", ",".join(method.name for method in self.methods)]
        if input is None:
            words += ["--sizes", ",".join(map(str, self.sizes))]
        else:
            words += ["--input", input]
        words += ["--repeat", str(self.repeat), "--rounds", str(self.rounds)]
        words += ["--seconds", str(self.seconds), "--limit", str(self.limit)]
        for name in ("corrupt", "die"):
            if (value := getattr(self, name)) is not None:
                words += [f"--{name}", str(value)]
        return words


def make(
    methods: Iterable[str] | None = None,
    sizes: Iterable[int | str] | None = None,
    *,
    input: Path | None = None,
    quick: bool = False,
    peers: bool = False,
    floor: bool = False,
    repeat: int | None = None,
    rounds: int | None = None,
    seconds: float | None = None,
    limit: float | None = None,
    corrupt: int | None = None,
    die: str | None = None,
) -> Plan:
    """A plan; what is None is as `quick` or not `quick` says. Raises `WrongPlan`."""
    from podipc.lab import methods as known_methods

    known = known_methods.every()
    if methods is None:
        chosen = [m for m in known_methods.ours().values() if not m.extra]
    else:
        chosen = [known[name] for name in names(_each(methods))]
    if peers:
        chosen += [m for m in known_methods.peers().values() if m not in chosen and not m.extra]
    if floor:
        chosen += [m for m in known_methods.floor().values() if m not in chosen]
    for name, count in (("repeat", repeat), ("rounds", rounds)):
        if count is not None and count < 1:
            raise WrongPlan(f"{name}={count!r}: a whole number from 1 is needed")
    if input is not None and sizes is not None:
        raise WrongPlan("sizes are for synthetic tensors; with input the file says what is sent")
    asked = None if sizes is None else sorted({nbytes(size) for size in _each(sizes)})
    if asked == []:
        raise WrongPlan("no sizes; write bytes, or 4K, 1M, 2G (powers of 1024)")
    default = QUICK_SIZES if quick else SIZES
    return Plan(
        methods=chosen,
        sizes=default if asked is None else asked,
        input=input,
        repeat=repeat or (3 if quick else 5),
        rounds=rounds or 2000,
        seconds=seconds or (0.015 if quick else 0.1),
        limit=limit or (13.0 if quick else 240.0),
        corrupt=corrupt,
        die=die,
    )


def names(methods: Iterable[str]) -> list[str]:
    """Names of methods, each once. Raises `WrongPlan` for what is none."""
    from podipc.lab import methods as known_methods

    known = list(known_methods.every())
    chosen = list(dict.fromkeys(methods))
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise WrongPlan(f"no method {name!r}{hint}; there are {', '.join(known)}")
    if not chosen:
        raise WrongPlan(f"no methods; there are {', '.join(known)}")
    return chosen


def _each(given: Iterable[T]) -> Iterable[T | str]:
    """One text is taken as on the command line, and not letter by letter."""
    return given.split(",") if isinstance(given, str) else given


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMG])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def nbytes(size: int | str) -> int:
    """Bytes of a size, as 4096 or 4K. Raises `WrongPlan`."""
    match = _SIZE.fullmatch(str(size).strip())
    if not match:
        raise WrongPlan(f"{size!r} is not a size; write bytes, or 4K, 1M, 2G (powers of 1024)")
    number = float(match[1]) * _UNITS[(match[2] or "").upper()]
    if number % 8 or not 8 <= number <= BIGGEST:
        raise WrongPlan(f"{size!r}: a size is a multiple of 8 bytes, from 8 bytes to 4 GiB")
    return int(number)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a plan."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--methods", metavar="A,B", type=_names, help="these only (default: all of podipc's own)"
    )
    what.add_argument(
        "--sizes", metavar="N,N", type=_sizes, help="bytes, as 64,4K,1M (default: 64 to 64M)"
    )
    what.add_argument(
        "--input", metavar="FILE", type=Path, help="tensors of a .npy, .npz or .safetensors file"
    )
    what.add_argument("--peers", action="store_true", help="also what a user would pick instead")
    what.add_argument(
        "--floor", action="store_true", help="also what the machine can do at best, in plain C"
    )
    what.add_argument("--list", action="store_true", help="only say which methods there are")
    how = parser.add_argument_group("how long")
    how.add_argument("--quick", action="store_true", help="fewer sizes and rounds; under 20 s")
    how.add_argument("--rounds", metavar="N", type=positive, help="at most N round trips a turn")
    how.add_argument("--repeat", metavar="N", type=positive, help="N turns for each method")
    for name in ("--seconds", "--limit"):
        parser.add_argument(name, type=float, help=argparse.SUPPRESS)
    parser.add_argument("--corrupt", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--die", help=argparse.SUPPRESS)


def of(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for. Raises `WrongPlan`."""
    if options.input is not None and options.sizes is not None:
        raise WrongPlan("--sizes is for synthetic tensors; with --input the file says what is sent")
    return make(
        options.methods,
        options.sizes,
        input=options.input,
        quick=options.quick,
        peers=options.peers,
        floor=options.floor,
        repeat=options.repeat,
        rounds=options.rounds,
        seconds=options.seconds,
        limit=options.limit,
        corrupt=options.corrupt,
        die=options.die,
    )


def _names(text: str) -> list[str]:
    try:
        return names(text.split(","))
    except WrongPlan as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sizes(text: str) -> list[int]:
    return sorted({one_size(word) for word in text.split(",")})


def one_size(text: str) -> int:
    """An option that is one size."""
    try:
        return nbytes(text)
    except WrongPlan as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """An option that is a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
