"""What the commands of `podipc` have in common: exit codes, wrong arguments, how things look."""

import argparse
import io
import os
import sys

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

EXIT_CODES = """\
exit codes:
  0    done
  1    it did not work: the reason is on standard error
  2    a wrong option, argument or input file
  130  interrupted (Ctrl-C); 143: told to end. Nothing is left running
"""


class Usage(Exception):
    """A wrong argument; the text is for the user."""


def printable(text: str) -> str:
    """The text with a question mark for whatever could do something to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def size(nbytes: float | None) -> str:
    """Bytes for people, to three digits: ``64 B``, ``1 KiB``, ``63.9 MiB``; "?" for None."""
    if nbytes is None:
        return "?"
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if round(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


def count(number: int, what: str) -> str:
    """``no senders``, ``1 sender``, ``2 senders``."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def open_streams() -> None:
    """Let what is printed have somewhere to go, whatever became of the standard streams.

    One that is closed leads to nowhere: Python has None for it, and what is meant for
    standard error would come on standard output. What an encoding lacks is shown escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (as long as we run)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leads_nowhere(stream: object) -> bool:
    """Whether it was closed when this process started; see `open_streams`."""
    return stream is None or getattr(stream, "name", "") == os.devnull


def seconds(text: str) -> float:
    """Seconds, from 0; a type of arguments."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return value
