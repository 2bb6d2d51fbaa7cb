"""The floor in C: figures for every mechanism, errors, nothing left behind."""

import os

import numpy as np
import pytest

from podipc._core import MemoryLimit, SystemCallError, floor

CARRIERS = ["pipe", "unix", "tcp", "memcpy"]


@pytest.mark.parametrize("mechanism", [*CARRIERS, "cache-line", "futex"])
def test_round_trips(mechanism):
    ns = floor(mechanism, 64, 50)
    assert ns.shape == (50,)
    assert ns.dtype == np.int64
    assert (ns >= 0).all()
    assert ns.sum() > 0


@pytest.mark.parametrize("mechanism", CARRIERS)
@pytest.mark.parametrize("size", [1, 8, 1 << 20])
def test_streams(mechanism, size):
    (ns,) = floor(mechanism, size, 20, stream=True)
    assert ns > 0


def test_affinity_is_put_back():
    before = os.sched_getaffinity(0)
    floor("pipe", 64, 10, (min(before), max(before)))
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("smoke", 64, 1), "no mechanism 'smoke'"),
        (("pipe", 0, 1), "at least 1"),
        (("pipe", 64, 0), "at least 1"),
        (("futex", 64, 1, (-1, -1), True), "have no stream"),
    ],
)
def test_wrong_arguments(args, says):
    with pytest.raises(ValueError, match=says):
        floor(*args)


@pytest.mark.parametrize("cpus", [(1023, -1), (5000, -1), (-1, 1023)])
def test_a_cpu_that_is_not_there(cpus):
    with pytest.raises(SystemCallError, match="the floor cannot be measured"):
        floor("pipe", 64, 1, cpus)


def test_no_memory():
    with pytest.raises(MemoryLimit):
        floor("memcpy", 1 << 60, 1)
