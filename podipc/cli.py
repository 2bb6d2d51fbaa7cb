"""The command line. A command is registered here; what it does is in the module of its area."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import podipc
from podipc import starting
from podipc.console import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    TERMINATED,
    USAGE,
    Usage,
    open_streams,
)
from podipc.doctor import command as doctor_command
from podipc.lab import command as lab_command
from podipc.lab import plot_command
from podipc.leftovers import command as leftovers_command
from podipc.logs import command as logs_command
from podipc.pod import command as pod_command
from podipc.waiting import command as waiting_command


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
    leftovers_command.add(commands)
    doctor_command.add(commands)
    waiting_command.add(commands)
    pod_command.add(commands)
    logs_command.add(commands)
    return parser


def _nothing(options: argparse.Namespace) -> int:
    options.parser.print_help(sys.stderr)
    return USAGE
