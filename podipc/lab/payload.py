"""Tensors that show what became of them on the way.

Both sides make the same random words from the same seed. A message is checked
in one of two ways:

*whole*
    every word of message number `seq` is the random word plus `seq`, so that no
    two messages agree anywhere; the other side compares every byte. The first
    message of a link and all messages of the pass before the timed ones, which
    runs at full speed, are checked so.
*sampled*
    `seq` is written to four words, the first, the last and two that move from
    message to message; the other side compares these. The timed messages are
    checked so, because a comparison of all bytes would be most of what is timed.
"""

from __future__ import annotations

import numpy as np

from podipc.lab.methods import Array

CHUNK = 1 << 17
"""Words that are compared at a time, so that no second tensor is needed."""


class Payload:
    """The messages of one size. `nbytes` is a positive multiple of 8."""

    dtype = "<u8"
    count = 1

    def __init__(self, nbytes: int, seed: int) -> None:
        words = nbytes // 8
        rng = np.random.default_rng(seed)
        self._base = np.frombuffer(rng.bytes(nbytes), self.dtype)
        self._places = rng.integers(0, words, 64).tolist()
        self._own = np.empty(words, self.dtype)

    def nbytes(self, seq: int) -> int:
        """Bytes of message `seq`."""
        return self._base.nbytes

    def own(self, seq: int) -> Array:
        """Memory for message `seq` where the method lends none."""
        return self._own

    def fill(self, out: Array, seq: int) -> None:
        """Write the whole of message `seq`."""
        np.add(self._base, np.uint64(seq), out=out)

    def whole(self, x: Array, seq: int) -> bool:
        """Whether `x` is message `seq`, every byte."""
        if x.size != self._base.size or x.itemsize != 8:
            return False
        number = np.uint64(seq)
        for start in range(0, x.size, CHUNK):
            part = slice(start, start + CHUNK)
            if not np.array_equal(x[part] - number, self._base[part]):
                return False
        return True

    def stamp(self, out: Array, seq: int) -> None:
        """Write `seq` where `sampled` will look."""
        places = self._places
        out[0] = seq
        out[places[seq & 63]] = seq
        out[places[(seq >> 1) & 63]] = seq
        out[-1] = seq

    def sampled(self, x: Array, seq: int) -> bool:
        """Whether `x` has its size and `seq` at four places."""
        places, item = self._places, x.item
        return bool(
            item(0) == seq
            and item(places[seq & 63]) == seq
            and item(places[(seq >> 1) & 63]) == seq
            and item(-1) == seq
            and x.size == self._base.size
        )
