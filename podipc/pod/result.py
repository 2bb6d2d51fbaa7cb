"""What came out of code that ran in a container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podipc.pod.errors import RemoteError, ValueStayed


@dataclass(frozen=True)
class Result:
    """The outcome of one run.

    Attributes
    ----------
    stdout, stderr
        What it printed, at most the last 10 MiB of each.
    value
        Of the last expression, if it is JSON (also tuples, and keys that are numbers) or
        NumPy arrays and scalars, nested as one likes; None otherwise, and without one.
    text
        The ``repr()`` of that value, at most 100,000 characters; "" for None.
    error
        The exception that the code raised, or None.
    fresh
        True for the first run of a session: no variable of an earlier run is there. So after
        the container was restarted, or its Python died.
    seconds
        How long it ran.
    reason
        Why `value` is None although there was a value; else "".
    dropped
        Bytes of output that are not in `stdout` and `stderr`, for want of room.
    """

    stdout: str
    stderr: str
    value: Any
    text: str
    error: RemoteError | None
    fresh: bool
    seconds: float
    reason: str = ""
    dropped: int = 0

    def check(self) -> Result:
        """The result itself; raises its `error` if there is one."""
        if self.error is not None:
            raise self.error
        return self

    def unwrap(self) -> Any:
        """The value.

        Raises
        ------
        RemoteError
            The code raised an exception.
        ValueStayed
            There is a value, but it could not be sent; `text` shows it.
        """
        self.check()
        if self.reason:
            raise ValueStayed(f"{self.reason}: {self.text[:200]}")
        return self.value
