"""Whose memory it is, how long it lives, and what happens when it runs out."""

import gc
import threading
import time

import numpy as np
import payload
import peers
import pytest
from support import eventually, took_at_most, unique_name

import podipc

MIB = 1 << 20
STRUCT = [("a", "i4"), ("b", "f8", (2,))]

# A sender that closes after its last receiver says so; only one test looks at that.
pytestmark = pytest.mark.filterwarnings("ignore:.*will reach nobody:RuntimeWarning")


@pytest.fixture
def name():
    return unique_name()


@pytest.fixture
def pair(name):
    """Both ends in one process: the memory is just as shared."""
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        yield tx, rx


# --- received arrays --------------------------------------------------------


def test_received_is_read_only(pair):
    tx, rx = pair
    tx.send(np.arange(1000), 30)
    x = rx.recv(30)
    assert type(x) is np.ndarray
    assert not x.flags.writeable
    assert not x.flags.owndata
    assert x.flags.aligned
    assert x.flags.c_contiguous
    assert x.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        x.flags.writeable = True
    with pytest.raises(ValueError, match="WRITEABLE"):
        x[1:].flags.writeable = True


@pytest.mark.parametrize("words", [3, 100, 1 << 18])
def test_copy(pair, words):
    tx, rx = pair
    tx.send(payload.make(1, 0, words), 30)
    x = rx.recv(30, copy=True)
    assert x.flags.writeable
    assert payload.check(x) == (1, 0)
    assert rx.stats()["held"] == 0
    x[:] = 0
    tx.send(payload.make(1, 1, words), 30)
    assert payload.check(rx.recv(30)) == (1, 1)
    assert not x.any()


@pytest.mark.parametrize("words", [3, 100, 1 << 18])
def test_writable_is_private(pair, words):
    tx, rx = pair
    tx.send(payload.make(1, 0, words), 30)
    x = rx.recv(30, writable=True)
    assert x.flags.writeable
    assert payload.check(x) == (1, 0)
    payload.fill(x, 8, 8)
    tx.send(payload.make(1, 1, words), 30)
    assert payload.check(rx.recv(30)) == (1, 1)
    assert payload.check(x) == (8, 8)
    del x
    gc.collect()
    assert rx.stats()["held"] == 0


def test_writes_to_writable_do_not_reach_the_next_message(pair):
    """The same memory is used again: what was written to the private view must not show."""
    tx, rx = pair
    for number in range(50):
        tx.send(payload.make(1, number, 1000), 30)
        x = rx.recv(30, writable=True)
        assert payload.check(x) == (1, number)
        x[:] = 0xDEAD


def test_writable_with_torch(pair):
    torch = pytest.importorskip("torch", reason="not possible here: torch is large")
    tx, rx = pair
    tx.send(torch.arange(12.0).reshape(3, 4), 30)
    t = torch.from_numpy(rx.recv(30, writable=True))
    t.mul_(2)
    assert t.sum() == 132
    tx.send(t.T, 30)
    assert np.array_equal(rx.recv(30), t.T.numpy())


def test_copy_and_writable_together(pair):
    tx, rx = pair
    tx.send(payload.make(1, 0), 30)
    x = rx.recv(30, copy=True, writable=True)
    assert x.flags.writeable
    assert payload.check(x) == (1, 0)


def test_memory_returns_with_the_last_view(name):
    with podipc.sender(name, max_bytes=4 * MIB) as tx, podipc.receiver(name) as rx:
        tx.send(np.arange(1000.0), 30)
        x = rx.recv(30)
        view = memoryview(x[10:20])
        again = np.asarray(view)[::2]
        del x, view
        gc.collect()
        assert rx.stats()["held"] == 1
        for _ in range(100):
            tx.send(np.zeros(MIB // 8), 30)
            rx.recv(30)
        assert np.array_equal(again, np.arange(10.0, 20.0, 2))
        del again
        gc.collect()
        assert rx.stats()["held"] == 0
        assert tx.stats()["held"] == 0


def test_arrays_outlive_everything(name):
    tx, rx = podipc.sender(name), podipc.receiver(name)
    kept = []
    for number in range(10):
        tx.send(payload.make(1, number, 10_000), 30)
        kept.append(rx.recv(30, writable=number % 2 == 1))
    rx.close()
    assert [payload.check(x)[1] for x in kept] == list(range(10))
    tx.close()
    del rx, tx
    gc.collect()
    assert [payload.check(x)[1] for x in kept] == list(range(10))
    # Their memory goes with them: the fixture looks for mappings that are left.


def test_array_that_outlives_the_interpreter(spawn, name):
    """Module globals die in any order at the end; no crash, and the sender sees an orderly end."""
    child = spawn(
        "rx = podipc.receiver(args[0])\nx = rx.recv(30)\nv = x[1:]\n"
        "import sys; sys.keep = rx, v\nsay('has it')\nhear()",
        name,
    )
    with podipc.sender(name) as tx:
        tx.send(payload.make(1, 0), 30)
        child.expect("has it")
        child.end()


# --- loan and empty ---------------------------------------------------------


def test_loan(pair):
    tx, rx = pair
    with tx.loan((3, 4), "int16") as out:
        assert type(out) is np.ndarray
        assert out.shape == (3, 4)
        assert out.dtype == np.int16
        assert out.flags.writeable
        assert out.flags.c_contiguous
        assert out.ctypes.data % 64 == 0
        out[:] = np.arange(12).reshape(3, 4)
    x = rx.recv(30)
    assert np.array_equal(x, np.arange(12).reshape(3, 4))
    assert x.dtype == np.int16
    assert not out.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        out[0, 0] = 1


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        (5, None, ((5,), np.float64)),
        ((), "f4", ((), np.float32)),
        ((0, 3), np.uint8, ((0, 3), np.uint8)),
        ([2, 3], bool, ((2, 3), np.bool_)),
        (np.int64(4), np.dtype(">i4"), ((4,), np.dtype(">i4"))),
        ((2,), STRUCT, ((2,), np.dtype(STRUCT))),
        ((2,), np.dtype(("i4", (3,))), ((2, 3), np.int32)),
        ((2,), "M8[ns]", ((2,), np.dtype("M8[ns]"))),
        ((3,), "S5", ((3,), np.dtype("S5"))),
    ],
    ids=str,
)
def test_shapes_and_dtypes_of_loans(pair, shape, dtype, expected):
    tx, rx = pair
    args = (shape,) if dtype is None else (shape, dtype)
    for a in (tx.empty(*args), tx.loan(*args).__enter__()):
        assert a.shape == expected[0]
        assert a.dtype == expected[1]
        a[...] = np.zeros((), a.dtype)
    tx.send(tx.empty(*args), 30)
    x = rx.recv(30)
    assert x.shape == expected[0]


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (-1, "f8", ValueError),
        ((2, -3), "f8", ValueError),
        ((2**40, 2**40), "f8", podipc.UnsupportedTensor),
        ((1,) * 65, "f8", ValueError),
        ("x", "f8", TypeError),
        (None, "f8", TypeError),
        (2.5, "f8", TypeError),
        (3, "no such type", TypeError),
        (3, object, podipc.UnsupportedTensor),
        (3, [("a", "O")], podipc.UnsupportedTensor),
        (2**50, "u1", podipc.MemoryLimit),
    ],
    ids=str,
)
def test_bad_loans(pair, shape, dtype, error):
    tx, _ = pair
    with pytest.raises(error):
        tx.empty(shape, dtype, timeout=5)
    with pytest.raises(error):
        tx.loan(shape, dtype, timeout=5).__enter__()
    assert tx.stats()["reserved"] == 0


def test_loan_is_dropped_on_exception(name):
    with podipc.sender(name, max_bytes=2 * MIB) as tx, podipc.receiver(name) as rx:
        for _ in range(10):
            with pytest.raises(ZeroDivisionError), tx.loan(MIB // 8) as out:
                out[:] = 1
                raise ZeroDivisionError
        with pytest.raises(podipc.Timeout):
            rx.recv(0.1)
        tx.send(payload.make(1, 0), 30)
        assert payload.check(rx.recv(30)) == (1, 0)


def test_an_array_kept_after_its_loan_keeps_its_values(pair):
    """Also when the receiver has long let go: the memory is not used again under it."""
    tx, rx = pair
    with tx.loan(100, "u8") as out:
        payload.fill(out, 1, 0)
    assert payload.check(rx.recv(30)) == (1, 0)
    for number in range(1, 300):
        tx.send(payload.make(1, number, 100), 30)
        rx.recv(30)
    assert payload.check(out) == (1, 0)


def test_an_array_kept_after_a_dropped_loan_is_harmless(pair):
    """It may be written to, but what is written is never seen by a receiver."""
    tx, rx = pair
    with pytest.raises(ZeroDivisionError), tx.loan(100, "u8") as out:
        raise ZeroDivisionError
    for number in range(300):
        tx.send(payload.make(1, number, 100), 30)
        if out.flags.writeable:
            out[:] = 7
        assert payload.check(rx.recv(30)) == (1, number)


def test_one_loan_used_twice(pair):
    """Each block has memory of its own."""
    tx, rx = pair
    loan = tx.loan(3)
    with loan as first:
        first[:] = 1
    with loan as second:
        second[:] = 2
    assert [rx.recv(30)[0] for _ in range(2)] == [1, 2]
    assert first[0] == 1


def test_loan_that_is_never_entered(pair):
    tx, _ = pair
    for _ in range(10):
        tx.loan(1000)
    gc.collect()
    assert tx.stats()["messages"] == 0


def test_nested_loans_are_sent_in_the_order_of_their_ends(pair):
    tx, rx = pair
    with tx.loan(3) as outer:
        outer[:] = 1
        with tx.loan(3) as inner:
            inner[:] = 2
        tx.send(np.full(3, 3.0), 30)
    assert [rx.recv(30)[0] for _ in range(3)] == [2, 3, 1]


def test_empty_is_sent_without_a_copy(pair):
    tx, rx = pair
    a = tx.empty((100, 3), "f4")
    a[:] = 1.5
    before = tx.stats()["reserved"]
    assert tx.send(a, 30) == 1
    assert tx.stats()["reserved"] == before
    assert not a.flags.writeable
    x = rx.recv(30)
    assert x.shape == (100, 3)
    assert (x == 1.5).all()
    assert (a == 1.5).all()


def test_views_of_empty(pair):
    """A view of a part is copied; one of the whole is sent as the array would be."""
    tx, rx = pair
    a = tx.empty(10, "i4")
    a[:] = range(10)
    tx.send(a[::2], 30)
    tx.send(a[:3], 30)
    tx.send(a[1:], 30)
    assert a.flags.writeable
    a[9] = -1
    tx.send(a.reshape(2, 5), 30)
    assert not a.flags.writeable
    tx.send(a.view("u4"), 30)
    assert rx.recv(30).tolist() == [0, 2, 4, 6, 8]
    assert rx.recv(30).tolist() == [0, 1, 2]
    assert rx.recv(30).tolist() == list(range(1, 10))
    assert rx.recv(30).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, -1]]
    assert rx.recv(30).dtype == np.uint32


def test_empty_sent_twice(pair):
    """The second time it is an ordinary read-only array, and copied."""
    tx, rx = pair
    a = tx.empty(3)
    a[:] = 4
    tx.send(a, 30)
    tx.send(a, 30)
    assert [rx.recv(30).tolist() for _ in range(2)] == [[4] * 3] * 2


def test_empty_of_another_sender(pair, name):
    tx, rx = pair
    with podipc.sender(f"{name}-other") as other:
        a = other.empty(3)
        a[:] = 5
        tx.send(a, 30)
        assert rx.recv(30).tolist() == [5] * 3
        assert a.flags.writeable


def test_empty_that_was_changed_in_form(pair):
    """The shape of an ndarray can be set in place: what is sent is what it is now."""
    tx, rx = pair
    a = tx.empty(6, "i4")
    a[:] = range(6)
    a.shape = (3, 2)
    tx.send(a, 30)
    x = rx.recv(30)
    assert x.shape == (3, 2)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_empty_with_new_strides(pair):
    tx, rx = pair
    a = tx.empty((2, 3), "i4")
    a[:] = [[0, 1, 2], [3, 4, 5]]
    b = a.T
    tx.send(b, 30)
    assert rx.recv(30).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_unsent_empties_return_their_memory(name):
    with podipc.sender(name, max_bytes=2 * MIB) as tx:
        for _ in range(20):
            a = tx.empty(MIB, "u1", timeout=5)
            a[0] = 1
            del a
        gc.collect()


def test_empty_after_close(pair):
    tx, rx = pair
    a = tx.empty(1000)
    a[:] = 3
    tx.close()
    assert a.sum() == 3000
    a[:] = 4
    with pytest.raises(podipc.Closed):
        tx.send(a)
    del tx
    gc.collect()
    assert a.sum() == 4000
    assert rx


def test_close_within_a_loan(name):
    tx = podipc.sender(name)
    with pytest.raises(podipc.Closed), tx.loan(10) as out:
        out[:] = 1
        tx.close()


# --- sending from odd places ------------------------------------------------


def test_received_arrays_may_be_sent_on(pair):
    tx, rx = pair
    tx.send(payload.make(1, 0, 1000), 30)
    x = rx.recv(30)
    tx.send(x, 30)
    assert payload.check(rx.recv(30)) == (1, 0)


def test_the_dtype_of_a_received_array_is_its_own(pair):
    """Names of fields can be set in place: that must not reach later messages."""
    tx, rx = pair
    a = np.zeros(3, [("a", "i4"), ("b", "f8")])
    tx.send(a, 30)
    x = rx.recv(30, copy=True)
    x.dtype.names = ("c", "d")
    tx.send(a, 30)
    assert rx.recv(30).dtype.names == ("a", "b")
    a.dtype.names = ("e", "f")
    tx.send(a, 30)
    assert rx.recv(30).dtype.names == ("e", "f")


def test_sent_array_may_be_changed_at_once(pair):
    tx, rx = pair
    a = np.zeros(1 << 18, "u8")
    for number in range(5):
        payload.fill(a, 1, number)
        tx.send(a, 30)
    a[:] = 0
    assert [payload.check(rx.recv(30))[1] for _ in range(5)] == list(range(5))


@pytest.mark.parametrize("obj", [[1, 2], None, "text", 3, np.array([object()]), object()])
def test_refused(pair, obj):
    tx, rx = pair
    with pytest.raises(podipc.UnsupportedTensor):
        tx.send(obj, 30)
    with pytest.raises(podipc.Timeout):
        rx.recv(0.05)
    assert tx.stats()["messages"] == 0


def test_masked_array_is_refused(pair):
    with pytest.raises(podipc.UnsupportedTensor, match="mask"):
        pair[0].send(np.ma.array([1, 2], mask=[0, 1]), 30)


@pytest.mark.parametrize("obj", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_buffers(pair, obj):
    tx, rx = pair
    tx.send(obj, 30)
    x = rx.recv(30)
    assert x.dtype == np.uint8
    assert x.tobytes() == b"abc"


# --- the budget -------------------------------------------------------------


def test_back_pressure(name):
    """Waits when the budget is held, goes on when it is given back; nothing is dropped."""
    with podipc.sender(name, max_bytes=4 * MIB) as tx, podipc.receiver(name) as rx:
        assert tx.stats()["max_bytes"] == 4 * MIB
        sent = 0
        with pytest.raises(podipc.Timeout) as caught:
            while sent < 20:
                tx.send(payload.make(1, sent, MIB // 8), 0.3)
                sent += 1
        assert 2 <= sent <= 4
        assert "budget" in str(caught.value) or "max_bytes" in str(caught.value)
        assert tx.stats()["reserved"] <= 4 * MIB
        got = 0
        for _ in range(50):
            assert payload.check(rx.recv(30)) == (1, got)
            got += 1
            tx.send(payload.make(1, sent, MIB // 8), 30)
            sent += 1
        while got < sent:
            assert payload.check(rx.recv(30)) == (1, got)
            got += 1


def test_back_pressure_by_held_arrays(name):
    with podipc.sender(name, max_bytes=4 * MIB) as tx, podipc.receiver(name) as rx:
        held = []
        with pytest.raises(podipc.Timeout):
            while len(held) < 20:
                tx.send(payload.make(1, len(held), MIB // 8), 0.3)
                held.append(rx.recv(30))
        assert 2 <= len(held) <= 4
        assert [payload.check(x)[1] for x in held] == list(range(len(held)))

        def give_back():
            time.sleep(0.2)
            held.clear()

        worker = threading.Thread(target=give_back)
        worker.start()
        tx.send(payload.make(1, 99, MIB // 8), 30)
        worker.join()
        assert payload.check(rx.recv(30)) == (1, 99)


def test_ring_full(name):
    """Thousands of small ones that nobody takes: waits in the end, and keeps the order."""
    with podipc.sender(name, max_bytes=64 * MIB) as tx, podipc.receiver(name) as rx:
        sent = 0
        with pytest.raises(podipc.Timeout):
            while sent < 2_000_000:
                tx.send(payload.make(1, sent, 3), 0.2)
                sent += 1
        for number in range(sent):
            assert payload.check(rx.recv(30)) == (1, number)
        assert tx.stats()["queued"] == 0


def test_held_by_the_thousand(name):
    """A receiver may hold many small ones at once."""
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        held = []
        for number in range(20_000):
            tx.send(payload.make(1, number, 3), 30)
            held.append(rx.recv(30))
            assert not held[-1].flags.writeable
        assert [payload.check(x)[1] for x in held] == list(range(20_000))
        held.clear()
        assert tx.stats()["held"] == 0


@pytest.mark.parametrize("joined", [False, True])
def test_larger_than_the_budget(name, joined):
    """Said at once, with both figures, whether or not anybody is there."""
    with podipc.sender(name, max_bytes=MIB) as tx:
        rx = podipc.receiver(name) if joined else None
        for call in (
            lambda: tx.send(np.zeros(2 * MIB, "u1"), 60),
            lambda: tx.empty(2 * MIB, "u1", timeout=60),
            lambda: tx.loan(2 * MIB, "u1", timeout=60).__enter__(),
        ):
            with took_at_most(10), pytest.raises(podipc.MemoryLimit) as caught:
                call()
            assert isinstance(caught.value, MemoryError)
            assert caught.value.need >= 2 * MIB
            assert caught.value.have == MIB
            assert "max_bytes" in str(caught.value)
        if rx:
            tx.send(payload.make(1, 0), 30)
            assert payload.check(rx.recv(30)) == (1, 0)
            rx.close()


def test_exactly_the_budget(name):
    with podipc.sender(name, max_bytes=4 * MIB) as tx, podipc.receiver(name) as rx:
        for number in range(3):
            tx.send(payload.make(1, number, 4 * MIB // 8), 30)
            assert payload.check(rx.recv(30)) == (1, number)


def test_sizes_up_and_down(name):
    """Arenas grow with the tensors, and a budget that was used by small ones fits a large one."""
    with podipc.sender(name, max_bytes=8 * MIB) as tx, podipc.receiver(name) as rx:
        sizes = [3, 1000, 100_000, 3, 900_000, 3, 500_000, 900_000, 10, 1_000_000, 3] * 3
        for number, words in enumerate(sizes):
            tx.send(payload.make(1, number, words), 30)
            assert payload.check(rx.recv(30)) == (1, number)
            assert tx.stats()["reserved"] <= 8 * MIB


def test_a_peer_that_dies_gives_the_memory_back(spawn, name):
    with podipc.sender(name, max_bytes=4 * MIB) as tx:
        for life in range(5):
            child = spawn(peers.agent, "receiver", name)
            assert child.answer() == "open"
            for number in range(2):
                tx.send(payload.make(life, number, MIB // 8), 30)
                assert child.do("hold") == [life, number]
            child.kill()
            eventually(lambda: tx.stats()["peers"] == 0, "the death is noticed")
            with pytest.raises(podipc.PeerDied):
                tx.send(np.zeros(3), 30)
            assert tx.stats()["held"] == 0
