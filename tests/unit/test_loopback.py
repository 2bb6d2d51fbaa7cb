"""podipc.LoopbackListener and LoopbackStream: whole tensors, both ways, and every end."""

import contextlib
import gc
import os
import select
import signal
import socket
import struct
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from strategies import dtypes
from support import PATIENCE, eventually, free_port, took_at_most

import podipc
from podipc import LoopbackListener, LoopbackStream


@pytest.fixture
def pair():
    with LoopbackListener() as listener:
        a = LoopbackStream.connect(listener.port, timeout=PATIENCE)
        b = listener.accept(timeout=PATIENCE)
    yield a, b
    a.close()
    b.close()


@contextlib.contextmanager
def running(function, *args):
    """The function in a thread; what it raises comes out at the end."""
    raised = []

    def run():
        try:
            function(*args)
        except BaseException as e:
            raised.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


LARGE = np.random.default_rng(1).integers(0, 256, 40_000_000, dtype=np.uint8)
"""More than the buffers of a socket hold."""


def same(a, b):
    """Equal to the last byte, padding of structures too, which copying does not keep."""
    if a.flags.f_contiguous and b.flags.f_contiguous:
        a, b = a.T, b.T
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# ---- tensors ----


@given(
    dtypes(),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    st.sampled_from("CF"),
    st.integers(0, 2**32 - 1),
)
def test_any_array_round_trips(pair, dtype, shape, order, seed):
    a, b = pair
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).bytes(size)
    x = np.ndarray(shape, dtype, buffer=bytearray(raw or b"\0"), order=order)
    a.send(x, timeout=PATIENCE)
    y = b.recv(timeout=PATIENCE)
    b.send(y, timeout=PATIENCE)
    z = a.recv(timeout=PATIENCE)
    assert same(x, y)
    assert same(x, z)


@pytest.mark.parametrize(
    "x",
    [
        np.float32(1.5),
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.arange(100)[::3],
        np.arange(100)[::-1],
        np.arange(24).reshape(4, 6)[1:3, ::2].T,
        np.broadcast_to(np.arange(3), (4, 3)),
        np.zeros((1,) * 32),
        np.array(["a", "帧"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("x", "<f4"), ("y", "u1", (3,))]),
    ],
    ids=lambda x: f"{x.dtype}-{x.shape}"[:40],
)
def test_layouts(pair, x):
    a, b = pair
    a.send(x)
    y = b.recv(timeout=PATIENCE)
    assert same(np.asarray(x), y)
    assert y.flags.writeable
    assert y.flags.aligned
    if np.asarray(x).flags.f_contiguous and not np.asarray(x).flags.c_contiguous:
        assert y.flags.f_contiguous


def test_what_is_not_an_array_but_like_one(pair):
    torch = pytest.importorskip("torch", reason="not possible here: torch is large")
    a, b = pair
    a.send(b"bytes")
    a.send(torch.arange(5))
    assert b.recv(timeout=PATIENCE).tobytes() == b"bytes"
    assert b.recv(timeout=PATIENCE).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("x", [np.array([object()]), [1, 2], None, "text", 5])
def test_what_cannot_be_sent(pair, x):
    a, b = pair
    with pytest.raises(podipc.UnsupportedTensor):
        a.send(x)
    a.send(np.arange(3))
    assert b.recv(timeout=PATIENCE).tolist() == [0, 1, 2]


def test_large_tensors_both_ways_at_once(pair):
    a, b = pair
    other = LARGE[::-1].copy()
    with running(a.send, LARGE), running(b.send, other):
        assert same(b.recv(timeout=PATIENCE), LARGE)
        assert same(a.recv(timeout=PATIENCE), other)


def test_many_in_order(pair):
    a, b = pair

    def send():
        for i in range(5000):
            a.send(np.full(i % 700, i, np.int32))

    with running(send):
        for i in range(5000):
            assert same(b.recv(timeout=PATIENCE), np.full(i % 700, i, np.int32))


def test_threads_take_turns(pair):
    a, b = pair
    got = []

    def send(k):
        for _ in range(200):
            a.send(np.full(k * 10_000, k, np.uint8))

    def recv():
        for _ in range(400):
            got.append(b.recv(timeout=PATIENCE))

    with contextlib.ExitStack() as stack:
        for k in range(1, 5):
            stack.enter_context(running(send, k))
        for _ in range(2):
            stack.enter_context(running(recv))
    assert len(got) == 800
    for x in got:
        assert (x == x[0]).all()
        assert x.size == 10_000 * int(x[0])


def test_two_processes(spawn):
    with LoopbackListener() as listener:
        child = spawn(
            textwrap.dedent("""
            with LoopbackStream.connect(args[0]) as stream:
                while True:
                    try:
                        x = stream.recv()
                    except Closed:
                        break
                    stream.send(x * 2)
            say("closed")
            """),
            listener.port,
        )
        with listener.accept(timeout=PATIENCE) as stream:
            for n in (0, 1, 1000, 3_000_000):
                x = np.arange(n, dtype=np.float64)
                with running(stream.send, x):
                    assert same(stream.recv(timeout=PATIENCE), x * 2)
        child.expect("closed")
        child.end()


# ---- connecting ----


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "::1"])
def test_hosts(host):
    try:
        listener = LoopbackListener(host=host)
    except podipc.SystemCallError:
        if host == "::1":
            pytest.skip("not possible here: no IPv6 loopback")
        raise
    with (
        listener,
        LoopbackStream.connect(listener.port, host, timeout=PATIENCE) as a,
        listener.accept(timeout=PATIENCE) as b,
    ):
        a.send(np.arange(3))
        assert b.recv(timeout=PATIENCE).size == 3


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.com", "128.0.0.1"])
def test_only_loopback(host):
    with pytest.raises(podipc.AddressError, match="not a loopback address"):
        LoopbackListener(host=host)
    with pytest.raises(podipc.AddressError, match="one Pod"):
        LoopbackStream.connect(7001, host, timeout=0)


@pytest.mark.parametrize("port", [-1, 65536, 2**40])
def test_ports_that_do_not_exist(port):
    with pytest.raises(podipc.AddressError, match="65535"):
        LoopbackListener(port)
    with pytest.raises(podipc.AddressError, match="from 1 to 65535"):
        LoopbackStream.connect(port)


def test_port_0_is_none_to_connect_to():
    with pytest.raises(podipc.AddressError, match="from 1 to 65535"):
        LoopbackStream.connect(0)


def test_a_port_in_use():
    with LoopbackListener() as listener:
        with pytest.raises(podipc.AddressInUse, match=f"port {listener.port} is taken"):
            LoopbackListener(listener.port)
        port = listener.port
    LoopbackListener(port).close()


def test_a_port_is_free_again_at_once_after_connections():
    port = None
    for _ in range(3):
        with LoopbackListener(port or 0) as listener:
            port = listener.port
            with LoopbackStream.connect(port, timeout=PATIENCE) as a:
                with listener.accept(timeout=PATIENCE) as b:
                    b.send(np.arange(3))
                a.recv(timeout=PATIENCE)


def test_connect_waits_for_the_listener():
    port = free_port()
    streams = []
    with running(lambda: streams.append(LoopbackStream.connect(port))):
        time.sleep(0.3)
        with LoopbackListener(port) as listener, listener.accept(timeout=PATIENCE) as b:
            b.send(np.arange(3))
    assert streams[0].recv(timeout=PATIENCE).size == 3
    streams[0].close()


def test_connect_gives_up():
    start = time.monotonic()
    with pytest.raises(podipc.Timeout, match=r"no LoopbackListener on port \d+ of 127.0.0.1"):
        LoopbackStream.connect(free_port(), timeout=0.3)
    assert time.monotonic() - start >= 0.3
    with pytest.raises(podipc.Timeout):
        LoopbackStream.connect(free_port(), timeout=0)


def test_accept_gives_up():
    with LoopbackListener() as listener:
        start = time.monotonic()
        with pytest.raises(podipc.Timeout, match=f"port {listener.port} within 0.2 s"):
            listener.accept(0.2)
        assert time.monotonic() - start >= 0.2
        with pytest.raises(podipc.Timeout):
            listener.accept(timeout=0)


def test_descriptors(pair):
    a, b = pair
    with LoopbackListener() as listener:
        for x in (a, b, listener):
            assert not os.get_inheritable(x.fileno())
        assert select.select([b], [], [], 0)[0] == [b], "the greeting"
        a.send(np.arange(3))
        b.recv(timeout=PATIENCE)
        assert select.select([b], [], [], 0)[0] == []
        a.send(np.arange(3))
        assert select.select([b], [], [], PATIENCE)[0] == [b]
        assert repr(b) == f"<podipc.LoopbackStream fd={b.fileno()}>"
        assert repr(listener) == f"<podipc.LoopbackListener on port {listener.port}>"


# ---- waits ----


def test_recv_gives_up_and_goes_on(pair):
    a, b = pair
    with took_at_most(5), pytest.raises(podipc.Timeout, match=r"within 0\.2 s"):
        b.recv(0.2)
    with pytest.raises(podipc.Timeout):
        b.recv(timeout=0)
    a.send(np.arange(3))
    assert b.recv(timeout=PATIENCE).size == 3


def test_recv_keeps_what_has_come(pair):
    a, b = pair
    with running(a.send, LARGE):
        timeouts = 0
        while True:
            try:
                x = b.recv(timeout=0.0001)
                break
            except podipc.Timeout:
                timeouts += 1
    assert timeouts
    assert same(x, LARGE)


def test_a_tensor_that_was_given_up_is_never_received(pair):
    a, b = pair
    for _ in range(3):
        with pytest.raises(podipc.Timeout, match="40000000 bytes"):
            a.send(LARGE, timeout=0.05)
        with running(a.send, np.arange(5)):
            assert b.recv(timeout=PATIENCE).tolist() == [0, 1, 2, 3, 4]
    a.close()
    with pytest.raises(podipc.Closed):
        b.recv(timeout=PATIENCE)


@pytest.mark.parametrize("what", ["recv()", "send(np.zeros(40_000_000))", "accept()"])
def test_ctrl_c_ends_a_wait_and_all_goes_on(spawn, what):
    child = spawn(
        textwrap.dedent(f"""
        listener = LoopbackListener()
        say(listener.port)
        stream = listener.accept()
        say("waiting")
        try:
            ({"listener" if what == "accept()" else "stream"}).{what}
        except KeyboardInterrupt:
            say("interrupted")
        stream.send(np.arange(7))
        say(int(stream.recv().sum()))
        stream.close()
        """)
    )
    with LoopbackStream.connect(child.hear(), timeout=PATIENCE) as stream:
        child.expect("waiting")
        time.sleep(0.3)
        sent = time.monotonic()
        child.signal(signal.SIGINT)
        child.expect("interrupted")
        assert time.monotonic() - sent < 5
        assert stream.recv(timeout=PATIENCE).size == 7
        stream.send(np.arange(5))
        child.expect(10)
        with pytest.raises(podipc.Closed):
            stream.recv(timeout=PATIENCE)
        child.end()


def test_a_signal_handler_may_close(spawn):
    child = spawn(
        textwrap.dedent("""
        import signal
        listener = LoopbackListener()
        say(listener.port)
        stream = listener.accept()
        signal.signal(signal.SIGTERM, lambda *_: (stream.close(), listener.close()))
        say("waiting")
        try:
            stream.recv()
        except Closed:
            say("closed")
        """)
    )
    with LoopbackStream.connect(child.hear(), timeout=PATIENCE) as stream:
        child.expect("waiting")
        time.sleep(0.2)
        child.signal(signal.SIGTERM)
        child.expect("closed")
        with pytest.raises(podipc.Closed):
            stream.recv(timeout=PATIENCE)
    child.end()


def test_an_idle_wait_costs_no_cpu(pair):
    a, b = pair
    with running(b.recv):
        before = time.process_time()
        time.sleep(1)
        used = time.process_time() - before
        a.send(np.arange(3))
    assert used < 0.2


# ---- ends ----


def test_what_was_sent_before_close_arrives(pair):
    a, b = pair
    b.send(np.arange(1000))  # never received: must not make the kernel break the rest off
    for i in range(50):
        a.send(np.full(10_000, i, np.uint8))
    a.close()
    for i in range(50):
        assert (b.recv(timeout=PATIENCE) == i).all()
    for _ in range(2):
        with pytest.raises(podipc.Closed, match="other end has closed"):
            b.recv(timeout=PATIENCE)
    with pytest.raises((podipc.Closed, podipc.PeerDied)):
        for _ in range(100):
            b.send(LARGE[:1_000_000], timeout=PATIENCE)


def test_a_stream_that_is_dropped_says_goodbye(pair):
    with LoopbackListener() as listener:
        a = LoopbackStream.connect(listener.port)
        b = listener.accept(PATIENCE)
        a.send(np.arange(3))
        del a
        gc.collect()
        assert b.recv(PATIENCE).size == 3
        with pytest.raises(podipc.Closed):
            b.recv(PATIENCE)
        b.close()


@pytest.mark.parametrize("state", ["idle", "halfway"])
def test_a_peer_that_is_killed(spawn, state):
    with LoopbackListener() as listener:
        child = spawn(
            "s = LoopbackStream.connect(args[0])\n"
            "s.send(np.arange(3))\n"
            + ("say(1); s.send(np.zeros(40_000_000))" if state == "halfway" else "say(1); hear()"),
            listener.port,
        )
        with listener.accept(timeout=PATIENCE) as stream:
            child.expect(1)
            time.sleep(0.2)
            child.kill()
            assert stream.recv(timeout=PATIENCE).size == 3
            with took_at_most(5), pytest.raises(podipc.PeerDied) as caught:
                stream.recv(timeout=PATIENCE)
            assert ("in the middle of a tensor" in str(caught.value)) == (state == "halfway")
            with pytest.raises(ConnectionError):
                for _ in range(100):
                    stream.send(LARGE[:1_000_000], timeout=PATIENCE)


def test_a_dead_peer_is_no_sigpipe(spawn):
    child = spawn(
        textwrap.dedent("""
        import signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        s = LoopbackStream.connect(args[0])
        say(1)
        hear()
        try:
            while True:
                s.send(np.zeros(1_000_000))
        except PeerDied:
            say("peer died")
        """),
        (listener := LoopbackListener()).port,
    )
    with listener:
        stream = listener.accept(PATIENCE)
        child.expect(1)
        # Without a goodbye, as if this process had died.
        raw = socket.socket(fileno=os.dup(stream.fileno()))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.shutdown(socket.SHUT_RDWR)
        raw.close()
        child.tell("go")
        child.expect("peer died")
        child.end()
        stream.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.send(np.arange(3)),
        lambda s: s.recv(),
        lambda s: s.recv(0),
        lambda s: s.fileno(),
        lambda s: s.__enter__(),
    ],
)
def test_use_of_a_stream_after_close(pair, use):
    a, _ = pair
    a.close()
    a.close()
    assert a.closed
    assert repr(a) == "<podipc.LoopbackStream, closed>"
    with pytest.raises(podipc.Closed, match="closed"):
        use(a)


@pytest.mark.parametrize(
    "use",
    [lambda s: s.accept(), lambda s: s.accept(0), lambda s: s.fileno(), lambda s: s.__enter__()],
)
def test_use_of_a_listener_after_close(use):
    listener = LoopbackListener()
    port = listener.port
    listener.close()
    listener.close()
    assert listener.closed
    assert listener.port == port
    with pytest.raises(podipc.Closed, match="closed"):
        use(listener)


def test_close_ends_the_waits_of_other_threads(pair):
    a, _ = pair
    listener = LoopbackListener()
    ended = []

    def until_closed(function, *args):
        try:
            function(*args)
        except podipc.Closed:
            ended.append(function)

    with (
        running(until_closed, a.recv),
        running(until_closed, a.recv),
        running(until_closed, a.send, LARGE),
        running(until_closed, a.send, LARGE),
        running(until_closed, listener.accept),
        running(until_closed, listener.accept),
    ):
        time.sleep(0.2)
        with took_at_most(10):
            a.close()
            listener.close()
    assert len(ended) == 6


def test_close_waits_a_second_at_most_for_a_peer_that_reads_nothing(pair):
    a, _b = pair
    with pytest.raises(podipc.Timeout):
        a.send(LARGE, timeout=0.1)
    with took_at_most(1 + 5):
        a.close()


def test_descriptors_are_given_back():
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    with LoopbackListener() as listener:
        for i in range(50):
            a = LoopbackStream.connect(listener.port)
            b = listener.accept(PATIENCE)
            if i % 2:
                a.send(np.arange(3))
                a.close()
            del a, b
    gc.collect()
    assert count() == before


def test_no_descriptors_left(spawn):
    child = spawn(
        textwrap.dedent("""
        import resource
        listener = LoopbackListener()
        a = LoopbackStream.connect(listener.port)
        listener.accept().close()
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
        opened = []
        try:
            while True:
                opened.append(LoopbackStream.connect(listener.port))
        except SystemCallError as e:
            say([e.errno, str(e)])
        """)
    )
    errno_, text = child.hear()
    assert errno_ == 24
    assert "Too many open files" in text
    child.end()


# ---- fork ----


def test_a_forked_child_cannot_use_them(spawn):
    child = spawn(
        textwrap.dedent("""
        listener = LoopbackListener()
        a = LoopbackStream.connect(listener.port)
        b = listener.accept()
        read, write = os.pipe()
        if os.fork() == 0:
            errors = []
            for use in (
                lambda: a.send(np.arange(3)), a.recv, a.fileno, listener.accept, listener.fileno,
                a.__enter__,
            ):
                try:
                    use()
                    errors.append("none")
                except ForkedHandle:
                    errors.append("ForkedHandle")
                except BaseException as e:
                    errors.append(repr(e))
            a.close()
            b.close()
            listener.close()
            os.write(write, json.dumps(errors).encode())
            # Outlives the parent's streams, and must not keep them open.
            time.sleep(60)
            os._exit(0)
        say(json.loads(os.read(read, 10000)))
        a.send(np.arange(4))
        say(b.recv(5).size)
        a.close()
        try:
            b.recv(5)
        except Closed:
            say("closed")
        port = listener.port
        listener.close()
        LoopbackListener(port).close()
        say("free")
        hear()
        """)
    )
    child.expect(["ForkedHandle"] * 6)
    child.expect(4)
    child.expect("closed")
    child.expect("free")
    grandchildren = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    child.kill()
    for pid in grandchildren:
        os.kill(int(pid), signal.SIGKILL)


def test_the_death_of_a_parent_shows_although_its_forked_child_lives(spawn):
    with LoopbackListener() as listener:
        child = spawn(
            textwrap.dedent("""
            s = LoopbackStream.connect(args[0])
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            say(pid)
            hear()
            """),
            listener.port,
        )
        grandchild = child.hear()
        with listener.accept(PATIENCE) as stream:
            child.kill()
            try:
                with took_at_most(5), pytest.raises(podipc.PeerDied):
                    stream.recv(timeout=PATIENCE)
            finally:
                os.kill(grandchild, signal.SIGKILL)


# ---- who is not podipc ----


@contextlib.contextmanager
def stranger():
    """A stream, and the raw socket at its other end."""
    with (
        LoopbackListener() as listener,
        socket.create_connection(("127.0.0.1", listener.port)) as s,
        listener.accept(PATIENCE) as stream,
    ):
        yield stream, s


GREETING = struct.Struct("=8sIHHIIQQ24x")
HEAD = struct.Struct("=IHHIIQQ")


def greeting(**changes):
    fields = {
        "magic": b"podipc\r\n",
        "order": 0x01020304,
        "version": 1,
        "head_size": HEAD.size,
        "role": 3,
        "reserved": 0,
        "id": 1,
        "max_bytes": 0,
    }
    return GREETING.pack(*(fields | changes).values())


def head(*, kind=1, flags=0, ndim=1, type_len=3, nbytes=24, sequence=0, magic=0x46494450):
    return HEAD.pack(magic, kind, flags, ndim, type_len, nbytes, sequence)


def frame(**changes):
    shape = changes.pop("shape", struct.pack("=q", 3))
    text = changes.pop("text", b"<i8")
    payload = changes.pop("payload", np.arange(3).tobytes())
    trailer = changes.pop("trailer", b"pdiend:C")
    return head(**changes) + shape + text + payload + trailer


def test_the_frame_of_this_test_is_right():
    with stranger() as (stream, s):
        s.sendall(greeting() + frame() + frame(trailer=b"pdiend:A", sequence=1))
        s.sendall(frame(sequence=2))
        for _ in range(2):
            assert stream.recv(PATIENCE).tolist() == [0, 1, 2]
        s.sendall(head(kind=2, ndim=0, type_len=0, nbytes=0, sequence=3))
        with pytest.raises(podipc.Closed):
            stream.recv(PATIENCE)
        theirs = s.recv(GREETING.size)
        assert theirs == greeting(id=GREETING.unpack(theirs)[6])


def test_a_byte_at_a_time():
    with stranger() as (stream, s):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def trickle():
            for byte in greeting() + frame():
                s.sendall(bytes([byte]))

        with running(trickle):
            assert stream.recv(PATIENCE).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("bytes_", "error", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b" " * 64, podipc.CorruptSegment, "not a podipc"),
        (greeting(magic=b"PODIPC\r\n"), podipc.CorruptSegment, "not a podipc LoopbackStream"),
        (greeting(role=1), podipc.CorruptSegment, "LoopbackStream"),
        (greeting(version=99), podipc.VersionMismatch, "version 99"),
        (greeting(order=0x04030201), podipc.VersionMismatch, "another byte order"),
        (greeting() + frame(magic=1), podipc.CorruptSegment, "begin"),
        (greeting() + frame(sequence=1), podipc.CorruptSegment, "number 1"),
        (greeting() + frame(kind=7), podipc.CorruptSegment, "kind of frame 7"),
        (greeting() + frame(ndim=65), podipc.CorruptSegment, "65 dimensions"),
        (greeting() + frame(type_len=2**31), podipc.CorruptSegment, "bytes of type"),
        (greeting() + frame(nbytes=2**63), podipc.CorruptSegment, "bytes of data"),
        (greeting() + frame(flags=0x8000), podipc.CorruptSegment, "flags"),
        (greeting() + frame(shape=struct.pack("=q", -3)), podipc.CorruptSegment, "negative"),
        (greeting() + frame(shape=struct.pack("=q", 7)), podipc.CorruptSegment, "7 elements"),
        (greeting() + frame(text=b"|O8"), podipc.CorruptSegment, "dtype"),
        (greeting() + frame(text=b"<f4"), podipc.CorruptSegment, "dtype"),
        (greeting() + frame(text=b"\xff\0\1"), podipc.CorruptSegment, "dtype"),
        (greeting() + frame(trailer=b"pdiend:X"), podipc.CorruptSegment, "does not end"),
    ],
)
def test_what_does_not_hold_together(bytes_, error, text):
    with stranger() as (stream, s):
        s.sendall(bytes_)
        with pytest.raises(error, match=text):
            stream.recv(PATIENCE)
        with contextlib.suppress(podipc.PodipcError):
            stream.recv(0)


def test_a_frame_that_claims_more_than_there_is_memory():
    with stranger() as (stream, s):
        huge = 1 << 55
        s.sendall(greeting() + head(nbytes=huge) + struct.pack("=q", huge // 8) + b"<i8")
        for _ in range(2):
            with pytest.raises(podipc.MemoryLimit, match=r"resources\.limits\.memory") as caught:
                stream.recv(PATIENCE)
            assert caught.value.need == huge


def test_a_stranger_that_says_nothing_or_leaves():
    with stranger() as (stream, s):
        with pytest.raises(podipc.Timeout):
            stream.recv(0.1)
        s.close()
        with pytest.raises(podipc.PeerDied):
            stream.recv(PATIENCE)


def test_a_tcp_sender_is_told_apart():
    def send(tx):
        with contextlib.suppress(podipc.PodipcError):
            tx.send(np.arange(3), timeout=1)

    with (
        LoopbackListener() as listener,
        podipc.sender(f"tcp://127.0.0.1:{listener.port}") as tx,
        running(send, tx),
        listener.accept(PATIENCE) as stream,
        pytest.raises(podipc.CorruptSegment, match="LoopbackStream"),
    ):
        stream.recv(PATIENCE)


def test_arguments_that_make_no_sense():
    for bad in (-1, float("nan")):
        with LoopbackListener() as listener, pytest.raises(ValueError, match="timeout"):
            listener.accept(bad)
    for call in (
        lambda: LoopbackListener("x"),
        lambda: LoopbackListener(0, 5),
        lambda: LoopbackStream.connect("x"),
        LoopbackStream,
        lambda: type("Mine", (LoopbackListener,), {}),
    ):
        with pytest.raises(TypeError):
            call()


def test_the_interpreter_ends_with_streams_open(spawn):
    child = spawn(
        textwrap.dedent("""
        import threading
        listener = LoopbackListener()
        a = LoopbackStream.connect(listener.port)
        b = listener.accept()
        threading.Thread(target=a.recv, daemon=True).start()
        threading.Thread(target=listener.accept, daemon=True).start()
        b.send(np.arange(3))
        say(1)
        """)
    )
    child.expect(1)
    child.end()
    eventually(lambda: child.process.poll() == 0, "it ended")
