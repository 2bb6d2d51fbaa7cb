"""A point in time by which a call has to end."""

import math
import time


class Deadline:
    """When a call has to end. `timeout` in seconds; None is never."""

    def __init__(self, timeout: float | None) -> None:
        if timeout is None:
            self.at = math.inf
            return
        if isinstance(timeout, str | bytes | bytearray):  # which float() would take
            raise TypeError(f"timeout must be a real number, not {type(timeout).__name__}")
        seconds = float(timeout)
        if not seconds >= 0:
            raise ValueError(
                "timeout must be a number of seconds >= 0, or None to wait for ever, not "
                f"{timeout!r}"
            )
        self.at = time.monotonic() + seconds

    def left(self, at_most: float = 1e6) -> float:
        """Seconds until then, not below 0."""
        return max(0.0, min(at_most, self.at - time.monotonic()))

    def left_or_never(self) -> float | None:
        """As `left`, for what takes None for never, and takes it for an error if its time is up."""
        return None if self.at == math.inf else self.left(at_most=1e9)

    def at_least(self, seconds: float) -> "Deadline":
        """The same, but not sooner than in so many seconds."""
        later = Deadline(seconds)
        later.at = max(later.at, self.at)
        return later

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self.at
