"""Tensors that say which they are and whether they are whole."""

import numpy as np

_HEAD = 3


def make(sender, number, words=16):
    """`words` words of 8 bytes: who, which, how many, then a pattern of these."""
    assert words >= _HEAD
    a = np.empty(words, np.uint64)
    fill(a, sender, number)
    return a


def fill(a, sender, number):
    a[:_HEAD] = sender, number, len(a)
    a[_HEAD:] = np.arange(_HEAD, len(a), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    a[_HEAD:] ^= np.uint64(number * 1_000_003 + sender)


def check(a):
    """(sender, number); AssertionError if it is torn."""
    assert a.dtype == np.uint64, a.dtype
    assert a.ndim == 1, a.shape
    sender, number, words = (int(x) for x in a[:_HEAD])
    assert words == len(a), f"says {words} words, has {len(a)}"
    assert np.array_equal(a, make(sender, number, words)), f"torn: {sender} {number}"
    return sender, number


def same_values(a, b):
    """Field by field, bit by bit: gaps between fields are nobody's, and NaN is NaN."""
    if a.dtype.names is not None:
        return all(same_values(a[name], b[name]) for name in a.dtype.names)
    return a.tobytes() == b.tobytes()
