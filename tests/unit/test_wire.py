"""Frames and values between a session in a container and us: nothing but what was meant."""

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from podipc.pod.inside import wire

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DTYPES = st_np.boolean_dtypes() | st_np.integer_dtypes() | st_np.complex_number_dtypes()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=10,
)


def sent(message: dict[str, Any], parts: Any = ()) -> bytes:
    return b"".join(bytes(buffer) for buffer in wire.frame(message, parts))


def through(value: object) -> Any:
    tree, parts = wire.pack(value)
    frame = wire.read(io.BytesIO(sent({"value": tree}, parts)))
    assert frame is not None
    return wire.unpack(frame[0]["value"], frame[1])


@given(VALUES)
def test_values_come_out_as_they_went_in(value: object) -> None:
    got = through(value)
    assert got == value
    assert repr(got) == repr(value)


@given(st_np.arrays(DTYPES, st_np.array_shapes(min_dims=1, min_side=0)))
def test_arrays_come_out_as_they_went_in(array: "np.ndarray[Any, Any]") -> None:
    for each in (array, array.T, array[::-1], np.asfortranarray(array)):
        got = through({"k": (each, [each])})["k"][1][0]
        np.testing.assert_array_equal(got, each)
        assert got.dtype == each.dtype
        assert got.shape == each.shape


@given(st.binary(max_size=200))
def test_what_is_no_frame(data: bytes) -> None:
    for start in (b"", b"pod1", b"pod1\0\0\0\2\0\0\0\1"):
        try:
            frame = wire.read(io.BytesIO(start + data))
        except wire.Malformed:
            continue
        assert frame is None or isinstance(frame[0], dict)


@pytest.mark.parametrize(
    "data",
    [
        b"Welcome to this image!\n",
        struct.pack("!4sII", b"pod1", 1 << 31, 0),
        struct.pack("!4sII", b"pod1", 2, 1 << 20),
        struct.pack("!4sIIQ", b"pod1", 2, 1, 1 << 63),
        struct.pack("!4sII", b"pod1", 2, 0) + b"[]",
        struct.pack("!4sII", b"pod1", 2, 0) + b"{]",
        struct.pack("!4sII", b"pod1", 200_000, 0) + b"[" * 200_000,
    ],
    ids=["text", "long", "many", "huge", "list", "wrong", "deep"],
)
def test_malformed_frames(data: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.read(io.BytesIO(data))


def test_a_frame_that_ends_early_is_an_end() -> None:
    data = sent({"a": 1}, [b"xyz", b""])
    for size in range(len(data)):
        assert wire.read(io.BytesIO(data[:size])) is None
    assert wire.read(io.BytesIO(data)) == ({"a": 1}, [b"xyz", b""])


def npy(header: str) -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([None]), allow_pickle=True)


@pytest.mark.parametrize(
    ("tree", "part"),
    [
        ({"a": 1}, b""),
        ({"a": True}, b""),
        ({"a": -1}, b""),
        ({"x": []}, b""),
        ({"t": {}}, b""),
        ({"d": [[1]]}, b""),
        ({"d": [[[], 1]]}, b""),
        ({}, b""),
        ({"t": [], "d": []}, b""),
        ({"a": 0}, b"not an array"),
        ({"a": 0}, OBJECTS.getvalue()),
        ({"a": 0}, npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}")),
        ({"a": 0}, npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}")),
        ({"a": 0}, npy("__import__('os').system('echo')")),
        ({"a": 0}, npy("{'descr': '<f8', 'fortran_order': False, 'shape': ()}") + b"x" * 9),
        ({"s": 0}, npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}") + b"x"),
        (json.loads("[" * 200 + "]" * 200), b""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_values(tree: Any, part: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.unpack(tree, [part])


def test_unsendable_values_say_what_is_wrong() -> None:
    for value, text in [
        (object(), "type object"),
        (1 << 5000, "5001 bits"),
        ({(1, 2): 3}, "key of type tuple"),
        (np.array([None]), "dtype object"),
        (np.ma.array([1], mask=[True]), "MaskedArray"),
        (b"bytes", "type bytes"),
    ]:
        with pytest.raises(wire.Unsendable, match=text):
            wire.pack([value])
