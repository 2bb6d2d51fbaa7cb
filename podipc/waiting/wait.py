"""Wait until somebody is there."""

from __future__ import annotations

import time
from typing import Final

from podipc.address import Address
from podipc.waiting.look import RECEIVER, Watch
from podipc.waiting.sight import Sight

SHORTEST: Final = 0.005
LONGEST: Final = 0.1
"""Seconds between two looks: few at first, more when it takes long."""


def wait(address: Address, who: str = RECEIVER, timeout: float | None = None) -> Sight:
    """Look until somebody is there, or `timeout` seconds are over; the last sight.

    Looks at least once. See `Watch` for the parameters and errors. Joins nothing and leaves
    nothing.
    """
    watch = Watch(address, who)
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = SHORTEST
    while True:
        left = 2.0 if deadline is None else deadline - time.monotonic()
        sight = watch.look(min(2.0, max(0.1, left)))
        if sight.there:
            return sight
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                return sight
            pause = min(pause, left)
        time.sleep(pause)
        pause = min(LONGEST, max(SHORTEST, pause * 1.5))
