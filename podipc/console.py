"""What the commands of `podipc` have in common: exit codes, and wrong arguments."""

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
