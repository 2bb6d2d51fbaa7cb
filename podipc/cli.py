"""The command line. A command is registered here; what it does is in the module of its area."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import podipc
from podipc import starting
from podipc.console import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    TERMINATED,
    USAGE,
    Usage,
    count,
    open_streams,
    printable,
)
from podipc.doctor import command as doctor_command
from podipc.lab import command as lab_command
from podipc.lab import plot_command
from podipc.logs import command as logs_command
from podipc.pod import command as pod_command
from podipc.waiting import command as waiting_command

if TYPE_CHECKING:
    from pathlib import Path

    from podipc.leftovers import Channel


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    try:
        starting.over()
        open_streams()
        options, rest = _parser().parse_known_args(argv)
        if rest:  # with the usage of the command, not of all of them
            options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        with _ended_by_sigterm():
            code: int = options.run(options)
            sys.stdout.flush()
            return code
    except Usage as error:
        print(f"{options.parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("podipc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads our output has had enough; keep the interpreter from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        print(f"podipc: {error}", file=sys.stderr)
        return FAILED


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that containers end with us."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="podipc",
        description="Move tensors between the containers of one Kubernetes Pod, and see how the\n"
        "ways of doing it compare.",
        epilog="podipc COMMAND --help has the options and examples of each.\n\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"podipc {podipc.__version__}")
    parser.set_defaults(run=_nothing, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    lab_command.add(commands)
    plot_command.add(commands)
    _add_ls(commands)
    _add_rm(commands)
    doctor_command.add(commands)
    waiting_command.add(commands)
    pod_command.add(commands)
    logs_command.add(commands)
    return parser


def _nothing(options: argparse.Namespace) -> int:
    options.parser.print_help(sys.stderr)
    return USAGE


WHERE = """\
Channels are looked for where a bare name is: in $PODIPC_DIR, else in
/dev/shm/podipc.

"""


def _add_ls(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "ls",
        help="list the channels of shared memory in this Pod",
        description="List the channels of shared memory in this Pod: who lives, and what a crash\n"
        "left.",
        epilog=WHERE + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_ls, parser=parser)


def _add_rm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "rm",
        help="remove what a crash left of channels",
        description="Remove what a crash left of channels. One in which somebody lives is never\n"
        "removed.",
        epilog="examples:\n  podipc rm frames\n  podipc rm --dead\n\n" + WHERE + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_rm, parser=parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in shm://NAME")
    parser.add_argument(
        "--dead", action="store_true", help="all that a crash left and in which nobody lives"
    )


def _ls(options: argparse.Namespace) -> int:
    from podipc import leftovers

    found = leftovers.channels(_place())
    if not found:
        print(f"no channels in {leftovers.place()}", file=sys.stderr)
        return OK
    names = [printable(channel.name) for channel in found]  # others have chosen them
    width = max(7, *map(len, names))
    print(f"{'CHANNEL':{width}}  SENDERS  RECEIVERS  DEAD    UID      AGE")
    for name, channel in zip(names, found, strict=True):
        counts = (
            f"{len(channel.senders):7}  {len(channel.receivers):9}  {len(channel.dead):4}"
            if channel.refused is None
            else f"{'?':>7}  {'?':>9}  {'?':>4}"
        )
        print(f"{name:{width}}  {counts}  {channel.uid:5}  {_age(channel.age):>7}")
    return OK


def _place() -> Path:
    """Where channels with a bare name are. Raises `Usage`: not where sender and receiver look."""
    from podipc import leftovers

    place = leftovers.place()
    if not place.is_absolute():
        raise Usage(
            f"the environment variable PODIPC_DIR is {str(place)!r}, a relative path; it must be "
            "the absolute path of the directory that sender and receiver have"
        )
    return place


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _rm(options: argparse.Namespace) -> int:
    from podipc import leftovers

    if bool(options.names) == options.dead:
        raise Usage("name the channels to remove, or give --dead for all in which nobody lives")
    there = {channel.name: channel for channel in leftovers.channels(_place())}
    if options.dead:
        # An empty directory may be anybody's.
        chosen = [name for name, of in there.items() if of.dead and not of.in_use]
    else:
        chosen = [name.removeprefix("shm://") for name in options.names]
    code = OK
    for name in chosen:
        if problem := _remove(name, there):
            print(f"podipc rm: {printable(name)}: {problem}", file=sys.stderr)
            code = FAILED
    return code


def _remove(name: str, there: dict[str, Channel]) -> str | None:
    """Why it could not be removed, or None."""
    from podipc import leftovers

    channel = there.get(name)
    if channel is None:
        near = difflib.get_close_matches(name, there, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no such channel in {leftovers.place()}{hint}"
    if channel.refused is not None:
        return f"it {channel.refused}"
    if channel.in_use:
        living = " and ".join(
            (count(len(channel.senders), "sender"), count(len(channel.receivers), "receiver"))
        )
        return f"in use, by {living}; end them first"
    try:
        gone = leftovers.remove(channel)
    except OSError as error:
        return f"{error.strerror}"
    print(f"removed {printable(name)} ({len(gone)} left behind)")
    return None
