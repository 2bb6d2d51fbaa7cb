"""Points in time by which calls have to end."""

import math
import threading

import pytest

from podipc.deadline import Deadline


@pytest.mark.parametrize("never", [None, math.inf])
def test_never_is_never(never: float | None) -> None:
    deadline = Deadline(never)
    assert deadline.left_or_never() is None
    assert not deadline.passed


@pytest.mark.parametrize("seconds", [20.0 * 24 * 3600, 1e300])
def test_what_is_far_away_can_be_waited_for(seconds: float) -> None:
    left = Deadline(seconds).left_or_never()
    assert left is not None
    assert min(seconds, 1e9) - 60 < left <= threading.TIMEOUT_MAX
