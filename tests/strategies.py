"""Hypothesis strategies: any dtype that can be sent, any array of it."""

import numpy as np
from hypothesis import strategies as st

SIMPLE = [
    *(order + kind for order in "<>" for kind in ("i2", "i4", "i8", "u2", "u4", "u8")),
    *(order + kind for order in "<>" for kind in ("f2", "f4", "f8", "c8", "c16")),
    *(order + kind for order in "<>" for kind in ("M8[ns]", "M8[25s]", "m8[D]", "m8", "M8")),
    "?",
    "i1",
    "u1",
    "g",
    "G",
]


def simple_dtypes():
    return st.one_of(
        st.sampled_from(SIMPLE),
        st.builds("{}{}".format, st.sampled_from("SV"), st.integers(1, 9)),
        st.builds("{}U{}".format, st.sampled_from("<>"), st.integers(1, 5)),
    ).map(np.dtype)


@st.composite
def structs(draw, inner):
    """Fields in any order, with gaps, overlaps, titles, subarrays; aligned or not."""
    names = draw(st.lists(st.text(max_size=4), min_size=0, max_size=4, unique=True))
    formats = [
        np.dtype((draw(inner), tuple(shape))) if shape else draw(inner)
        for shape in (draw(st.lists(st.integers(0, 3), max_size=2)) for _ in names)
    ]
    if draw(st.booleans()):
        fields = zip(names, formats, strict=True)
        # A tuple list would replace empty names.
        return np.dtype(
            dict(zip(("names", "formats"), zip(*fields, strict=True), strict=True))
            if names
            else [],
            align=draw(st.booleans()),
        )
    offsets = [draw(st.integers(0, 20)) for _ in names]
    end = max((o + f.itemsize for o, f in zip(offsets, formats, strict=True)), default=0)
    spec = {
        "names": names,
        "formats": formats,
        "offsets": offsets,
        "itemsize": end + draw(st.integers(0, 9)),
    }
    if draw(st.booleans()):
        spec["titles"] = [draw(st.none() | st.just(f"title {i}")) for i in range(len(names))]
    return np.dtype(spec)


def dtypes():
    return st.recursive(simple_dtypes(), structs, max_leaves=6)
