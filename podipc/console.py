"""What the commands of `podipc` have in common: exit codes, and wrong arguments."""

import argparse

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


def seconds(text: str) -> float:
    """Seconds, from 0; a type of arguments."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0")
    return value
