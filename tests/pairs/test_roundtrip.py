"""Any array comes back from a real process as it went: dtype, shape, order, every byte."""

import numpy as np
import peers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from payload import same_values
from strategies import dtypes
from support import Child, free_port

import podipc

KEEPS_CHANNELS = True
METHODS = ["shm", "tcp", "unix", "fifo", "file", "http"]


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """Opens echo processes, one a method, kept for all examples."""
    opened = {}

    def get(method):
        if method not in opened:
            there, back = _addresses(method, tmp_path_factory.mktemp(method))
            child = Child(peers.echo, there, back)
            tx, rx = podipc.sender(there), podipc.receiver(back)
            child.expect("open")
            opened[method] = child, tx, rx
        return opened[method][1:]

    yield get
    for child, tx, rx in opened.values():
        tx.close()
        child.end()
        rx.close()
        child.__exit__(None, None, None)


def _addresses(method, place):
    if method in {"tcp", "http"}:
        ends = (f"{method}://127.0.0.1:{free_port()}" for _ in range(2))
        return tuple(end + ("/x" if method == "http" else "") for end in ends)
    return f"{method}://{place}/there", f"{method}://{place}/back"


@st.composite
def arrays(draw):
    """Of any dtype; 0-d to 32-d, empty, Fortran, strided, reversed, broadcast, transposed."""
    dtype = draw(dtypes())
    many = draw(st.integers(0, 9)) == 0
    shape = (
        tuple(draw(st.lists(st.sampled_from([1, 1, 1, 2]), min_size=4, max_size=32)))
        if many
        else draw(npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5))
    )
    while np.prod(shape, dtype=object) * dtype.itemsize > 1 << 16:
        shape = shape[:-1]
    size = int(np.prod(shape)) * dtype.itemsize
    seed = draw(st.integers(0, 2**32 - 1))
    raw = np.random.default_rng(seed).bytes(size)
    a = np.ndarray(shape, dtype, buffer=bytearray(raw or b"\0"), order=draw(st.sampled_from("CF")))
    for axis in range(min(a.ndim, 4)):
        match draw(st.integers(0, 5)):
            case 0:
                a = np.flip(a, axis)
            case 1:
                a = a[(slice(None),) * axis + (slice(None, None, 2),)]
            case 2:
                a = np.swapaxes(a, axis, draw(st.integers(0, a.ndim - 1)))
            case 3 if a.shape[axis] == 1 and a.size < 1000:
                a = np.broadcast_to(a, (*a.shape[:axis], 3, *a.shape[axis + 1 :]))
    return a


def check(echo, method, a, **how):
    tx, rx = echo(method)
    before = a.copy(order="K")
    tx.send(a, 30)
    b = rx.recv(30, **how)
    assert type(b) is np.ndarray
    # NumPy cannot copy text of width 0: it makes it wider. Some methods need no copy.
    widened = how.get("copy") and not a.dtype.itemsize and b.dtype == before.dtype
    assert b.dtype == a.dtype or widened
    assert b.dtype.fields == a.dtype.fields
    assert b.dtype.isalignedstruct == a.dtype.isalignedstruct
    assert b.shape == a.shape
    assert b.flags.c_contiguous or b.flags.f_contiguous
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        assert b.flags.f_contiguous, "Fortran order is kept"
    if b.dtype == a.dtype:
        assert same_values(a, b)
    if before.dtype == a.dtype:
        assert same_values(before, a)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=200)
@given(arrays(), st.sampled_from([{}, {"copy": True}, {"writable": True}]))
@example(np.zeros(()), {})
@example(np.zeros((0,)), {})
@example(np.zeros((3, 0, 2), order="F"), {"writable": True})
@example(np.zeros((1,) * 32), {})
@example(np.zeros((2, 1) * 8 + (1,) * 16, "u1", order="F"), {})
@example(np.array(["NaT", "2024-02-29"], "M8[D]"), {})
@example(np.array([np.nan, -0.0, np.inf], ">f2"), {})
@example(np.array([1 + 2j], "c16").conj(), {})
@example(np.zeros(3, [("a", "u1"), ("b", "f8", (2, 2))])["b"], {})
@example(np.zeros(5, [("a", "S0"), ("b", "i4")])["a"], {})
@example(np.zeros(5, [("a", "U0"), ("b", "i4")])["a"], {"copy": True})
@example(np.zeros(5, [("a", "S0"), ("b", "i4")]), {})
@example(np.zeros(4, "V0") if np.dtype("V0").itemsize == 0 else np.zeros(4), {})
@example(np.zeros(3, []), {})
@example(np.zeros((2, 3), {"names": ["a"], "formats": ["i4"], "offsets": [3], "itemsize": 9}), {})
@example(np.arange(10)[::-1], {})
@example(np.broadcast_to(np.int16(7), (3, 4)), {})
@example(np.lib.stride_tricks.sliding_window_view(np.arange(9), 3), {})
@example(np.asarray([True, False]), {"writable": True})
@example(np.frombuffer(b"\1" * 41, "u1")[1:].view("f8"), {})  # not aligned
def test_any_array(echo, method, a, how):
    check(echo, method, a, **how)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 65, 4095, 4096, 4097, 65536, 1 << 20, (9 << 20) + 5]
)
def test_sizes(echo, method, size):
    a = np.random.default_rng(size).integers(0, 256, size, "u1")
    check(echo, method, a)
    check(echo, method, a[::-1])
    check(echo, method, a[: size // 2 * 2].reshape(2, -1).T)


def test_what_else_can_be_sent(echo):
    """Array-likes come as the array that they are."""
    torch = pytest.importorskip("torch", reason="not possible here: torch is large")
    tx, rx = echo("shm")
    for obj, expected in [
        (b"bytes", np.frombuffer(b"bytes", "u1")),
        (np.float16(1.5), np.array(1.5, "f2")),
        (memoryview(b"123456").cast("H"), np.frombuffer(b"123456", "u2")),
        (torch.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T),
        (np.arange(4).reshape(2, 2).view(np.matrix), np.arange(4).reshape(2, 2)),
    ]:
        tx.send(obj, 30)
        x = rx.recv(30)
        assert x.dtype == expected.dtype
        assert np.array_equal(x, expected)
        assert x.shape == expected.shape


def test_real_pictures(echo):
    """The photographs and the digits that scikit-learn brings along."""
    datasets = pytest.importorskip("sklearn.datasets", reason="not possible here: scikit-learn")
    for image in [*datasets.load_sample_images().images, datasets.load_digits().images]:
        check(echo, "shm", image)
        check(echo, "shm", image[:, ::-1])
