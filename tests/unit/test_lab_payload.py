"""What is checked at the other side: no wrong byte passes a whole check."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podipc.lab.inputs import Tensors, describe
from podipc.lab.payload import Payload

SIZES = [8, 16, 64, 4096, 1 << 20, (1 << 20) + 8]


@pytest.mark.parametrize("nbytes", SIZES)
def test_both_sides_make_the_same(nbytes):
    sent, expected = Payload(nbytes, 1), Payload(nbytes, 1)
    out = np.empty(nbytes // 8, Payload.dtype)
    for seq in (1, 2, 63, 64, 1000):
        sent.fill(out, seq)
        assert expected.whole(out, seq)
        assert not expected.whole(out, seq + 1)
        sent.stamp(out, seq)
        assert expected.sampled(out, seq)
        assert not expected.sampled(out, seq + 1)


@pytest.mark.parametrize("nbytes", SIZES)
def test_messages_agree_nowhere(nbytes):
    """So that a tensor of which a part is that of the message before is found."""
    payload = Payload(nbytes, 1)
    one, two = np.empty((2, nbytes // 8), Payload.dtype)
    payload.fill(one, 1)
    payload.fill(two, 2)
    assert (one != two).all()


@given(st.sampled_from(SIZES), st.data())
def test_any_flipped_bit_is_found(nbytes, data):
    payload = Payload(nbytes, 3)
    out = np.empty(nbytes // 8, Payload.dtype)
    payload.fill(out, 5)
    bit = data.draw(st.integers(0, nbytes * 8 - 1))
    out.view(np.uint8)[bit // 8] ^= 1 << bit % 8
    assert not payload.whole(out, 5)


def test_another_size_is_found():
    payload = Payload(64, 3)
    out = np.empty(16, Payload.dtype)
    payload.fill(out[:8], 5)
    assert not payload.whole(out, 5)
    payload.stamp(out, 5)
    assert not payload.sampled(out, 5)


ARRAYS = {
    "picture": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "scalar": np.array(2.5),
    "empty": np.empty((0, 3), "f4"),
    "flags": np.array([True, False]),
    "records": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("typed", [True, False])
def test_tensors_in_turn(typed):
    import json

    about = json.loads(json.dumps(describe(ARRAYS)))
    sending = Tensors(list(ARRAYS.values()), about, typed=typed)
    receiving = Tensors(None, about, typed=typed)
    for seq in range(1, 12):
        x = sending.own(seq).copy()
        assert receiving.whole(x, seq)
        assert receiving.sampled(x, seq)
        assert sending.nbytes(seq) == x.nbytes
        other = sending.own(seq + 1)
        assert not receiving.whole(other, seq)


def test_wrong_shape_or_dtype_is_found():
    about = describe(ARRAYS)
    receiving = Tensors(None, about, typed=True)
    number = list(ARRAYS).index("picture") + len(ARRAYS)
    assert receiving.whole(ARRAYS["picture"], number)
    assert not receiving.whole(ARRAYS["picture"].reshape(-1), number)
    assert not receiving.whole(ARRAYS["picture"].view(np.int8), number)


def test_nothing_is_right_before_it_was_seen_whole():
    receiving = Tensors(None, describe(ARRAYS), typed=True)
    assert not receiving.sampled(ARRAYS["scalar"], 1)
