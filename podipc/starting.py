"""Ctrl-C while the command `podipc` still imports what it needs: it ends, and says nothing.

Python would show the traceback of whichever import it was. There is nothing to clear up yet.
A program that imports podipc as a library is left alone.
"""

import os
import sys

_INTERRUPTED = 130


def _is_command() -> bool:
    """Whether this process was started as ``podipc`` or ``python -m podipc``."""
    program = getattr(sys, "argv", [""])[0]
    if program == "-m":  # runpy imports the package before it knows better
        words = sys.orig_argv
        return "-m" in words and words[words.index("-m") + 1 :][:1] == ["podipc"]
    return os.path.basename(str(program)) == "podipc"


def _end(number: int, frame: object) -> None:
    os._exit(_INTERRUPTED)


def begin() -> None:
    """Called by the first import of podipc, which is in the main thread of a command."""
    if _is_command():
        import signal

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end)


def over() -> None:
    """From here on Ctrl-C is ``KeyboardInterrupt`` again."""
    import signal

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


begin()
