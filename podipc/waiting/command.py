"""The command `podipc wait`."""

from __future__ import annotations

import argparse
import math
import sys
import time

from podipc.console import FAILED, OK, Usage, printable

EXAMPLES = """\
examples:
  podipc wait shm://frames                    until a receiver is in the channel
  podipc wait frames --for sender             until a sender is
  podipc wait http://127.0.0.1:8080/healthz   until it answers with 2xx or 3xx
  podipc wait unix:///shared/x.sock --timeout 5

As a startup probe, which tells a Pod when its native sidecar is ready:

  startupProbe:
    exec: {command: [podipc, wait, "shm://frames", --timeout, "0"]}
    timeoutSeconds: 10

What counts as being there:
  shm, file  a living receiver (--for sender, --for any: see above)
  tcp        a listener, podipc's or another
  unix       a socket that takes connections
  fifo       somebody reads it
  http       an answer to GET: 2xx or 3xx; of a path to which one POSTs also the
             refusal of a GET, any 4xx but 404. Any HTTP server will do
It joins nothing: the one it waits for does not take it for a peer.

"""
EXIT_CODES = """\
exit codes:
  0    somebody is there
  1    nobody was, in time: what there was instead is on standard error
  2    a wrong option or address
  130  interrupted (Ctrl-C); 143: told to end
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``wait`` to the commands of `podipc`."""
    parser = commands.add_parser(
        "wait",
        help="wait until somebody is there at an address",
        description="Wait until somebody is there at an address: for startup probes, init\n"
        "containers and scripts.",
        epilog=EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_wait, parser=parser)
    parser.add_argument("address", metavar="ADDRESS", help="as for podipc.receiver")
    parser.add_argument(
        "--for",
        dest="who",
        choices=("receiver", "sender", "any"),
        default="receiver",
        help="who has to be there (default: a receiver)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="seconds; 0 looks once, inf waits for ever (default: 30)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing if it is there")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return value


def _wait(options: argparse.Namespace) -> int:
    from podipc._core import AddressError
    from podipc.address import parse
    from podipc.waiting.wait import wait

    began = time.monotonic()
    timeout = None if math.isinf(options.timeout) else options.timeout
    try:
        address = parse(options.address)
        sight = wait(address, options.who, timeout)
    except (AddressError, ValueError) as error:
        raise Usage(str(error)) from None
    took = time.monotonic() - began
    if sight.there:
        if not options.quiet:
            print(f"{address.text}: {printable(sight.text)} (after {took:.1f} s)")
        return OK
    who = "anybody" if options.who == "any" else f"a {options.who}"
    print(
        f"podipc wait: {address.text}: waited {took:.1f} s for {who}; {printable(sight.text)}",
        file=sys.stderr,
    )
    return FAILED
