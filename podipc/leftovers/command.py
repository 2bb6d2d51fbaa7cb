"""``podipc ls`` and ``podipc rm``: who lives in the channels of this Pod, what a crash left."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import Any

from podipc import leftovers
from podipc.console import EXIT_CODES, FAILED, OK, Usage, count, printable
from podipc.leftovers import Channel

_WHERE = """\
Channels are looked for where a bare name is: in $PODIPC_DIR, else in
/dev/shm/podipc.

"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register both."""
    _add_ls(commands)
    _add_rm(commands)


def _add_ls(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "ls",
        help="list the channels of shared memory in this Pod",
        description="List the channels of shared memory in this Pod: who lives, and what a crash\n"
        "left.",
        epilog="examples:\n  podipc ls\n  podipc ls --json | jq '.[].name'\n\n"
        + _WHERE
        + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_ls, parser=parser)
    parser.add_argument("--json", action="store_true", help="with the names of the sockets")


def _add_rm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "rm",
        help="remove what a crash left of channels",
        description="Remove what a crash left of channels. One in which somebody lives is never\n"
        "removed.",
        epilog="examples:\n  podipc rm frames\n  podipc rm --dead\n\n" + _WHERE + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_rm, parser=parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in shm://NAME")
    parser.add_argument(
        "--dead", action="store_true", help="all that a crash left and in which nobody lives"
    )


def _ls(options: argparse.Namespace) -> int:
    found = leftovers.channels(_place())
    if options.json:
        print(json.dumps([_described(channel) for channel in found], indent=2))
        return OK
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


def _described(channel: Channel) -> dict[str, Any]:
    return {
        "name": channel.name,
        "path": str(channel.path),
        "uid": channel.uid,
        "age_seconds": channel.age,
        "senders": channel.senders,
        "receivers": channel.receivers,
        "dead": channel.dead,
        "refused": channel.refused,
    }


def _place() -> Path:
    """Where channels with a bare name are. Raises `Usage`: not where sender and receiver look."""
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
