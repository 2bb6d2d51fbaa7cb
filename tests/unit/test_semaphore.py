"""podipc.Semaphore: a POSIX semaphore between processes, its waits and its ends."""

import contextlib
import ctypes
import gc
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from support import PATIENCE, eventually, took_at_most, unique_name

import podipc

SHM = Path("/dev/shm")
LIBC = ctypes.CDLL(None, use_errno=True)
IS_GLIBC = hasattr(LIBC, "gnu_get_libc_version")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root")

BECOME = "os.setgroups([]); os.setgid({0}); os.setuid({0})\n"
"""Code by which a child becomes another user; its Python may be readable by root alone."""


def path_of(name):
    return SHM / (f"sem.{name}" if IS_GLIBC else name)


@pytest.fixture
def name():
    """The name of a semaphore, free again afterwards."""
    name = unique_name("semaphore")
    yield name
    with contextlib.suppress(FileNotFoundError):
        path_of(name).unlink()


@pytest.fixture
def semaphore(name):
    semaphore = podipc.Semaphore.create(name, 0)
    yield semaphore
    semaphore.unlink()
    semaphore.close()


# ---- what it is ----


def test_it_counts(name):
    semaphore = podipc.Semaphore.create(name, 2)
    assert semaphore.value == 2
    assert semaphore.acquire() is True
    assert semaphore.acquire(timeout=0) is True
    assert semaphore.value == 0
    with took_at_most(5), pytest.raises(podipc.Timeout):
        semaphore.acquire(timeout=0)
    semaphore.release()
    semaphore.release(3)
    assert semaphore.value == 4
    assert repr(semaphore) == f"<podipc.Semaphore {name!r}: value 4>"


def test_it_is_1_unless_said(name):
    assert podipc.Semaphore.create(name).value == 1


def test_a_block_acquires_and_releases(name):
    semaphore = podipc.Semaphore.create(name, 1)
    with semaphore as same:
        assert same is semaphore
        assert semaphore.value == 0
    assert semaphore.value == 1
    with pytest.raises(LookupError), semaphore:
        raise LookupError
    assert semaphore.value == 1


def test_two_processes_share_a_name(semaphore, spawn):
    child = spawn("s = Semaphore.open(args[0]); say(s.acquire()); s.release(5)", semaphore.name)
    semaphore.release()
    child.expect(True)
    child.end()
    assert semaphore.value == 5


@pytest.mark.skipif(not hasattr(LIBC, "sem_open"), reason="not possible here: no sem_open in libc")
def test_it_is_what_the_c_library_opens(name):
    LIBC.sem_open.restype = ctypes.c_void_p
    theirs_of = f"/{name}".encode()

    ours = podipc.Semaphore.create(name, 3)
    theirs = ctypes.c_void_p(LIBC.sem_open(theirs_of, 0))
    assert theirs.value
    assert LIBC.sem_trywait(theirs) == 0
    assert LIBC.sem_trywait(theirs) == 0
    assert ours.value == 1
    LIBC.sem_post(theirs)
    assert ours.value == 2
    LIBC.sem_close(theirs)
    assert LIBC.sem_unlink(theirs_of) == 0
    ours.close()

    theirs = ctypes.c_void_p(LIBC.sem_open(theirs_of, os.O_CREAT | os.O_EXCL, 0o600, 1))
    assert theirs.value
    ours = podipc.Semaphore.open(name)
    assert ours.value == 1
    waiter = threading.Thread(target=ours.acquire)
    waiter.start()
    waiter.join(PATIENCE)
    value = ctypes.c_int(-1)
    assert LIBC.sem_getvalue(theirs, ctypes.byref(value)) == 0
    assert value.value == 0
    LIBC.sem_close(theirs)
    ours.unlink()
    assert LIBC.sem_open(theirs_of, 0) is None


# ---- waiting ----


def test_a_timeout_says_what_was_waited_for(semaphore):
    start = time.monotonic()
    with took_at_most(0.3 + 5), pytest.raises(podipc.Timeout, match=r"0\.3 s") as caught:
        semaphore.acquire(0.3)
    assert time.monotonic() - start >= 0.3
    assert semaphore.name in str(caught.value)
    assert "stands at 0" in str(caught.value)
    assert isinstance(caught.value, TimeoutError)


def test_release_wakes_as_many_as_it_gives(semaphore):
    woken = []

    def wait(i):
        semaphore.acquire()
        woken.append(i)

    threads = [threading.Thread(target=wait, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    semaphore.release(3)
    eventually(lambda: len(woken) == 3, "three were woken")
    time.sleep(0.1)
    assert len(woken) == 3
    semaphore.release(2)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(woken) == list(range(5))
    assert semaphore.value == 0


def test_a_wait_costs_no_cpu_and_lets_other_threads_run(semaphore):
    waiter = threading.Thread(target=semaphore.acquire)
    waiter.start()
    before = time.process_time()
    time.sleep(1)
    used = time.process_time() - before
    semaphore.release()
    waiter.join(PATIENCE)
    assert used < 0.2


@pytest.mark.parametrize("timeout", [None, 60])
def test_ctrl_c_ends_a_wait(semaphore, spawn, timeout):
    child = spawn(
        textwrap.dedent("""
        s = Semaphore.open(args[0])
        say("waiting")
        try:
            s.acquire(args[1])
        except KeyboardInterrupt:
            say(time.monotonic())
        say(s.acquire(args[1]))
        """),
        semaphore.name,
        timeout,
    )
    child.expect("waiting")
    time.sleep(0.3)
    sent = time.monotonic()
    child.signal(signal.SIGINT)
    assert child.hear() - sent < 5
    semaphore.release()
    child.expect(True)
    child.end()
    assert semaphore.value == 0


def test_a_thousand_signals_a_second_do_not_shorten_a_wait(semaphore, spawn):
    child = spawn(
        textwrap.dedent("""
        import signal
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        s = Semaphore.open(args[0])
        start = time.monotonic()
        try:
            s.acquire(0.5)
        except Timeout:
            took = time.monotonic() - start
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(took)
        """),
        semaphore.name,
    )
    assert 0.5 <= child.hear() < 5
    child.end()


def test_an_exception_of_a_signal_handler_comes_out(semaphore, spawn):
    child = spawn(
        textwrap.dedent("""
        import signal
        def handler(*_):
            raise LookupError
        signal.signal(signal.SIGUSR1, handler)
        s = Semaphore.open(args[0])
        say(1)
        try:
            s.acquire()
        except LookupError:
            say(2)
        """),
        semaphore.name,
    )
    child.expect(1)
    time.sleep(0.2)
    child.signal(signal.SIGUSR1)
    child.expect(2)
    child.end()


def test_who_is_killed_while_holding_does_not_give_back(name, spawn):
    semaphore = podipc.Semaphore.create(name, 1)
    child = spawn("s = Semaphore.open(args[0]); s.acquire(); say(1); hear()", name)
    child.expect(1)
    child.kill()
    with pytest.raises(podipc.Timeout, match="killed between"):
        semaphore.acquire(0.2)
    semaphore.release()
    assert semaphore.acquire(0)


def test_who_is_killed_while_waiting_takes_nothing(semaphore, spawn):
    child = spawn("s = Semaphore.open(args[0]); say(1); s.acquire()", semaphore.name)
    child.expect(1)
    time.sleep(0.2)
    child.kill()
    semaphore.release()
    assert semaphore.acquire(0)


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan")])
def test_a_timeout_that_makes_no_sense(semaphore, bad):
    with pytest.raises(ValueError, match="timeout"):
        semaphore.acquire(bad)


@pytest.mark.parametrize("bad", [True, False, "1", [1]])
def test_a_timeout_of_another_type(semaphore, bad):
    # acquire(False) means "try" elsewhere, and acquire(True) would wait for a second.
    with pytest.raises(TypeError) as caught:
        semaphore.acquire(bad)
    if isinstance(bad, bool):
        assert str(caught.value) == (
            f"timeout is a number of seconds or None, not {bad}: "
            "acquire(timeout=0) tries, acquire() waits"
        )


def test_mutual_exclusion(name, spawn):
    semaphore = podipc.Semaphore.create(name, 1)
    counter = unique_name("counter")
    with podipc.Segment.create(8, counter) as segment:
        children = [
            spawn(
                textwrap.dedent("""
                s = Semaphore.open(args[0])
                segment = Segment.open(args[1], writable=True)
                count = np.frombuffer(segment, np.int64)
                hear()
                for _ in range(3000):
                    with s:
                        value = int(count[0])
                        if _ % 100 == 0:
                            time.sleep(0)
                        count[0] = value + 1
                say("done")
                """),
                name,
                counter,
            )
            for _ in range(3)
        ]
        for child in children:
            child.tell("go")
        for child in children:
            child.expect("done")
            child.end()
        assert memoryview(segment).cast("q")[0] == 9000
    assert semaphore.value == 1


# ---- values ----


def test_the_value_cannot_overflow(name):
    semaphore = podipc.Semaphore.create(name, 2**31 - 4)
    with pytest.raises(podipc.SystemCallError):
        semaphore.release(4)
    assert semaphore.value == 2**31 - 4, "nothing is released"
    semaphore.release(3)
    assert semaphore.value == 2**31 - 1
    for n in (1, 2**31 - 1, 2**31, 2**62):
        with pytest.raises(podipc.SystemCallError, match="2147483647") as caught:
            semaphore.release(n)
        assert caught.value.errno == 75
        assert semaphore.value == 2**31 - 1


@pytest.mark.parametrize("value", [-1, 2**31, 2**62])
def test_a_start_value_that_makes_no_sense(name, value):
    with pytest.raises(ValueError, match="from 0 to 2147483647"):
        podipc.Semaphore.create(name, value)
    assert not path_of(name).exists()


@pytest.mark.parametrize("n", [0, -1])
def test_a_release_that_makes_no_sense(semaphore, n):
    with pytest.raises(ValueError, match="at least 1"):
        semaphore.release(n)
    assert semaphore.value == 0


# ---- names ----


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "empty"),
        (".", "directory"),
        ("..", "directory"),
        ("a/b", "slash"),
        ("/a", "slash"),
        ("/shared/a", "slash"),
        ("x" * 252, "252 bytes"),
        ("a\0b", "null byte"),
    ],
)
def test_a_bad_name_says_why(bad, why):
    with pytest.raises(podipc.AddressError, match=why):
        podipc.Semaphore.create(bad)
    with pytest.raises(ValueError, match=why):
        podipc.Semaphore.open(bad)


def test_a_name_that_is_taken_or_free(name):
    with pytest.raises(podipc.NotFound, match="not created yet"):
        podipc.Semaphore.open(name)
    podipc.Semaphore.create(name, 7)
    with pytest.raises(podipc.AlreadyExists, match="already there"):
        podipc.Semaphore.create(name, 1)
    assert podipc.Semaphore.open(name).value == 7


def test_what_is_not_a_semaphore_is_not_opened(name, tmp_path):
    path = path_of(name)
    target = tmp_path / "target"
    target.write_bytes(b"x" * ctypes.sizeof(ctypes.c_long) * 4)

    def refused(what):
        with took_at_most(5), pytest.raises(podipc.AddressError, match=what):
            podipc.Semaphore.open(name)
        with pytest.raises(podipc.AlreadyExists, match="already there"):
            podipc.Semaphore.create(name)

    path.symlink_to(target)
    refused("symbolic link")
    path.unlink()
    os.mkfifo(path)
    refused("FIFO")
    path.unlink()
    path.mkdir()
    refused("directory")
    path.rmdir()
    path.write_bytes(b"")
    refused("0 bytes")
    path.write_bytes(b"x" * 1000)
    refused("1000 bytes")
    assert target.read_bytes() == b"x" * ctypes.sizeof(ctypes.c_long) * 4


def test_64_creators_race_for_one_name(name, spawn):
    child = spawn(
        textwrap.dedent("""
        start_read, start_write = os.pipe()
        result_read, result_write = os.pipe()
        for i in range(64):
            if os.fork() == 0:
                os.close(start_write)
                os.read(start_read, 1)
                try:
                    Semaphore.create(args[0], 1000 + i)
                    os.write(result_write, bytes([i]))
                except AlreadyExists:
                    os.write(result_write, b"\\xff")
                os._exit(0)
        os.close(start_write)
        os.close(result_write)
        results = b""
        while more := os.read(result_read, 64):
            results += more
        for _ in range(64):
            os.wait()
        say(sorted(results))
        """),
        name,
    )
    results = child.hear()
    child.end()
    assert results[1:] == [255] * 63
    assert podipc.Semaphore.open(name).value == 1000 + results[0]


def test_an_opener_never_sees_a_half_made_semaphore(name, spawn):
    child = spawn(
        textwrap.dedent("""
        say(1)
        os.umask(0o777)
        while True:
            s = Semaphore.create(args[0], 77, mode=0o666)
            s.unlink()
        """),
        name,
    )
    child.expect(1)

    def opened():
        with contextlib.suppress(podipc.NotFound):
            assert podipc.Semaphore.open(name).value == 77
            return True
        return False

    for _ in range(50):
        eventually(opened, "one was seen")
    child.kill()


# ---- who may ----


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_is_as_asked_whatever_the_umask(name, spawn, mode):
    child = spawn(
        BECOME.format(1001)
        + "os.umask(0o077); s = Semaphore.create(args[0], mode=args[1]); say(1); hear()",
        name,
        mode,
    )
    child.expect(1)
    assert stat.S_IMODE(path_of(name).stat().st_mode) == mode
    stranger = spawn(
        BECOME.format(1002)
        + textwrap.dedent("""
        try:
            s = Semaphore.open(args[0])
            s.acquire()
            say("acquired")
            try:
                s.unlink()
            except NotPermitted as e:
                say(str(e))
        except NotPermitted as e:
            say(str(e))
        """),
        name,
    )
    heard = stranger.hear()
    if mode == 0o666:
        assert heard == "acquired"
        assert "UID 1001" in stranger.hear()
    else:
        for part in ("UID 1001", "UID 1002", f"mode {mode:04o}", "mode=0o666"):
            assert part in heard
    stranger.end()


# ---- its end ----


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.acquire(),
        lambda s: s.acquire(0),
        lambda s: s.release(),
        lambda s: s.value,
        lambda s: s.__enter__(),
    ],
)
def test_use_after_close(semaphore, use):
    semaphore.close()
    semaphore.close()
    assert semaphore.closed
    with pytest.raises(podipc.Closed, match="closed"):
        use(semaphore)
    assert "closed" in repr(semaphore)


def test_close_ends_the_wait_of_another_thread(name):
    semaphore = podipc.Semaphore.create(name, 0)
    raised = []

    def wait():
        try:
            semaphore.acquire()
        except podipc.Closed as e:
            raised.append(e)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    with took_at_most(5):
        semaphore.close()
        for thread in threads:
            thread.join(PATIENCE)
    assert len(raised) == 4


def test_the_name_stays_until_unlink(name):
    semaphore = podipc.Semaphore.create(name, 3)
    semaphore.close()
    del semaphore
    gc.collect()
    semaphore = podipc.Semaphore.open(name)
    assert semaphore.value == 3
    semaphore.close()
    semaphore.unlink()
    semaphore.unlink()
    assert not path_of(name).exists()


def test_unlink_leaves_a_later_semaphore_of_the_same_name_alone(name):
    old = podipc.Semaphore.create(name, 1)
    old.unlink()
    podipc.Semaphore.create(name, 2)
    old.unlink()
    assert podipc.Semaphore.open(name).value == 2
    old.release()  # still a semaphore, for who has it
    assert old.value == 2


def test_a_forked_child_goes_on_using_it(semaphore, spawn):
    child = spawn(
        textwrap.dedent("""
        s = Semaphore.open(args[0])
        if os.fork() == 0:
            s.release(2)
            os._exit(0)
        os.wait()
        say([s.acquire(), s.acquire()])
        """),
        semaphore.name,
    )
    child.expect([True, True])
    child.end()


def test_the_interpreter_ends_while_a_daemon_thread_waits(semaphore):
    code = textwrap.dedent(f"""
        import threading, podipc
        s = podipc.Semaphore.open({semaphore.name!r})
        threading.Thread(target=s.acquire, daemon=True).start()
        """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: podipc.Semaphore.create(5), TypeError),
        (lambda: podipc.Semaphore.create(None), TypeError),
        (lambda: podipc.Semaphore.create("x", 1.5), TypeError),
        (lambda: podipc.Semaphore.create("x", mode=0o777), ValueError),
        (podipc.Semaphore, TypeError),
    ],
)
def test_arguments_that_make_no_sense(call, error):
    with pytest.raises(error):
        call()
