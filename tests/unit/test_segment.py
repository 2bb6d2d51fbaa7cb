"""podipc.Segment: what is shared, who may, and that nothing about it can kill a process."""

import array
import contextlib
import gc
import os
import signal
import socket
import stat
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from support import PATIENCE, eventually, memory_limit, took_at_most, unique_name

import podipc

SHM = Path("/dev/shm")
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="not possible here: needs root")

BECOME = "os.setgroups([]); os.setgid({0}); os.setuid({0})\n"
"""Code by which a child becomes another user; its Python may be readable by root alone."""

SMALL_SHM = (
    "unshare",
    "-m",
    "sh",
    "-c",
    'mount -t tmpfs -o size=1m,mode=1777 tmpfs /dev/shm && exec "$@"',
    "sh",
)
"""Runs a child with a /dev/shm of its own, of 1 MiB."""


@pytest.fixture
def name():
    """A name in /dev/shm that is free again afterwards."""
    name = unique_name("segment")
    yield name
    path = SHM / name
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


# ---- what it is ----


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 1_000_000])
def test_new_memory_is_zero_writable_and_as_large_as_asked(name, size):
    for segment in (podipc.Segment.create(size), podipc.Segment.create(size, name)):
        with segment:
            a = np.frombuffer(segment, np.uint8)
            assert (a == 0).all()
            a[:] = 255
            assert a.size == segment.size == len(segment) == size
            assert segment.writable
            assert a.ctypes.data % 4096 == 0
            del a


def test_two_processes_share_a_name(name, spawn):
    with podipc.Segment.create(8 * 1000, name) as segment:
        ours = np.frombuffer(segment, np.int64)
        ours[:] = np.arange(1000)
        child = spawn(
            textwrap.dedent("""
            with Segment.open(args[0], writable=True) as segment:
                theirs = np.frombuffer(segment, np.int64)
                say(int(theirs.sum()))
                theirs *= 2
                del theirs
            say("done")
            """),
            name,
        )
        child.expect(499_500)
        child.expect("done")
        child.end()
        assert (ours == 2 * np.arange(1000)).all()
        assert (SHM / name).exists(), "only who created it unlinks it at the end of a with block"
        del ours
    assert not (SHM / name).exists()


def test_a_file_on_a_volume(tmp_path):
    path = tmp_path / "frames"
    with podipc.Segment.create(10_000, path) as segment:
        assert segment.name == str(path)
        memoryview(segment)[:5] = b"hello"
        assert path.read_bytes()[:5] == b"hello"
        with podipc.Segment.open(str(path)) as again:
            assert bytes(memoryview(again)[:5]) == b"hello"
    assert list(tmp_path.iterdir()) == []


def test_anonymous_memory_goes_to_another_process_by_its_descriptor(spawn):
    here, there = socket.socketpair()
    with here, there, podipc.Segment.create(64) as segment:
        assert segment.name is None
        os.set_inheritable(there.fileno(), True)
        socket.send_fds(here, [b"x"], [segment.fileno()])
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        with podipc.Segment.from_fd(fds[0], writable=True) as other:
            os.close(fds[0])  # it has a copy
            memoryview(other)[0] = 7
            assert memoryview(segment)[0] == 7
            assert other.sealed
            assert other.name is None


def test_nobody_can_make_anonymous_memory_shorter():
    with podipc.Segment.create(8192) as segment:
        assert segment.sealed
        for size in (0, 4096, 100_000):
            with pytest.raises(PermissionError):
                os.ftruncate(segment.fileno(), size)


def test_a_named_segment_says_that_it_is_not_sealed(name):
    with podipc.Segment.create(8192, name) as segment:
        assert not segment.sealed


def test_descriptors_do_not_survive_exec(name):
    for segment in (podipc.Segment.create(1), podipc.Segment.create(1, name)):
        with segment:
            assert not os.get_inheritable(segment.fd)


def test_opened_for_reading_it_cannot_be_written(name):
    with podipc.Segment.create(16, name), podipc.Segment.open(name) as segment:
        assert not segment.writable
        view = memoryview(segment)
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1
        view.release()
        a = np.frombuffer(segment, np.uint8)
        assert not a.flags.writeable
        del a
        with podipc.Segment.from_fd(segment.fd) as copy:
            assert not copy.writable
        with pytest.raises(podipc.NotPermitted):
            podipc.Segment.from_fd(segment.fd, writable=True)


def test_repr_says_what_it_is(name):
    with podipc.Segment.create(16, name) as segment:
        assert repr(segment) == f"<podipc.Segment {name!r} of 16 bytes, writable>"
        with podipc.Segment.open(name) as again:
            assert repr(again) == f"<podipc.Segment {name!r} of 16 bytes, read-only>"
        assert repr(again).endswith("read-only, closed>")
    assert repr(podipc.Segment.create(3)) == "<podipc.Segment None of 3 bytes, writable>"


# ---- its end ----


def test_close_refuses_while_the_memory_is_used():
    segment = podipc.Segment.create(4096)
    a = np.frombuffer(segment, np.uint8)
    view = a[10:20]
    del a
    with pytest.raises(BufferError, match=r"1 array\(s\)"):
        segment.close()
    view[:] = 1
    del view
    segment.close()
    segment.close()
    assert segment.closed


def test_an_array_keeps_the_memory_of_a_segment_that_is_gone():
    a = np.frombuffer(podipc.Segment.create(4096), np.uint8)
    gc.collect()
    a[:] = 3
    assert int(a.sum()) == 3 * 4096


def test_a_block_that_ends_with_arrays_alive_raises_but_unlinks(name):
    with pytest.raises(BufferError), podipc.Segment.create(4096, name) as segment:
        a = np.frombuffer(segment, np.uint8)
    assert not (SHM / name).exists()
    a[0] = 1
    del a
    segment.close()


def test_an_exception_in_a_block_is_not_hidden_by_its_arrays(name):
    def block():
        with podipc.Segment.create(4096, name) as segment:
            a = np.frombuffer(segment, np.uint8)
            raise LookupError(a.size)

    with pytest.raises(LookupError):
        block()
    assert not (SHM / name).exists()


@pytest.mark.parametrize(
    "use",
    [
        len,
        memoryview,
        lambda s: np.frombuffer(s, np.uint8),
        lambda s: s.fileno(),
        lambda s: s.fd,
        lambda s: s.__enter__(),
    ],
)
def test_use_after_close(use):
    segment = podipc.Segment.create(1)
    segment.close()
    with pytest.raises(podipc.Closed, match="closed"):
        use(segment)
    assert segment.closed
    assert segment.size == 1


def test_without_a_block_the_name_stays_until_unlink(name):
    segment = podipc.Segment.create(1, name)
    segment.close()
    del segment
    gc.collect()
    with podipc.Segment.open(name) as segment:
        pass
    assert (SHM / name).exists()
    segment.unlink()
    assert not (SHM / name).exists()
    segment.unlink()


def test_unlink_leaves_a_later_segment_of_the_same_name_alone(name):
    old = podipc.Segment.create(1, name)
    old.unlink()
    with podipc.Segment.create(2, name):
        old.unlink()
        assert (SHM / name).stat().st_size == 2
    old.close()


def test_anonymous_memory_has_nothing_to_unlink():
    with podipc.Segment.create(1) as segment:
        segment.unlink()


def test_a_segment_outlives_a_creator_that_is_killed(name, spawn):
    child = spawn("s = Segment.create(100, args[0]); memoryview(s)[0] = 9; say(1); hear()", name)
    child.expect(1)
    child.kill()
    with podipc.Segment.open(name) as segment:
        assert memoryview(segment)[0] == 9
        segment.unlink()


# ---- creating, while others do ----


LARGE = 1 << 30
"""Takes most of a second to reserve."""


def test_a_creator_that_is_killed_halfway_leaves_nothing(name, spawn):
    before = os.statvfs(SHM).f_bfree
    child = spawn(f"say(1); Segment.create({LARGE}, args[0]); say(2)", name)
    child.expect(1)
    time.sleep(0.05)
    assert not (SHM / name).exists(), "not visible before it is whole"
    child.kill()
    assert not (SHM / name).exists()
    page = os.sysconf("SC_PAGESIZE")
    eventually(
        lambda: os.statvfs(SHM).f_bfree > before - LARGE // page // 2, "its memory comes back"
    )


@pytest.mark.parametrize("anonymous", [True, False])
def test_ctrl_c_ends_creating(name, spawn, anonymous):
    child = spawn(
        textwrap.dedent(f"""
        say(1)
        try:
            Segment.create({LARGE}, args[0])
        except KeyboardInterrupt:
            say("interrupted")
        """),
        None if anonymous else name,
    )
    child.expect(1)
    time.sleep(0.05)
    child.signal(signal.SIGINT)
    child.expect("interrupted")
    child.end()
    assert not (SHM / name).exists()


def test_a_storm_of_signals_does_not_keep_it_from_being_created(name, spawn):
    # Some kernels give back what an interrupted fallocate() had got.
    child = spawn(
        textwrap.dedent("""
        import signal
        count = [0]
        def handler(*_):
            count[0] += 1
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for name in (args[0], None):
            Segment.create(256 << 20, name)
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(count[0] > 0)
        """),
        name,
    )
    child.expect(True)
    child.end()


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
                    segment = Segment.create(4096 + i, args[0])
                    memoryview(segment)[:] = bytes([i]) * (4096 + i)
                    os.write(result_write, bytes([i]))
                except AlreadyExists:
                    os.write(result_write, b"\\xff")
                except BaseException:
                    os.write(result_write, b"\\xfe")
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
    assert len(results) == 64
    assert results.count(255) == 63
    winner = results[0]
    with podipc.Segment.open(name) as segment:
        assert bytes(memoryview(segment)) == bytes([winner]) * (4096 + winner)


def test_an_opener_never_sees_a_half_made_segment(name, spawn):
    child = spawn(
        textwrap.dedent("""
        say(1)
        while True:
            with Segment.create(1 << 20, args[0], mode=0o666):
                pass
        """),
        name,
    )
    child.expect(1)

    def opened():
        with (
            contextlib.suppress(podipc.NotFound),
            podipc.Segment.open(name, writable=True) as segment,
        ):
            assert len(segment) == 1 << 20
            return True
        return False

    # It is there for moments only: whoever sleeps between two looks sees few of them.
    deadline, seen = time.monotonic() + PATIENCE, 0
    while seen < 50 and time.monotonic() < deadline:
        seen += opened()
    assert seen == 50
    child.kill()


# ---- no room ----


@needs_root
def test_a_full_dev_shm_is_an_exception(spawn):
    child = spawn(
        textwrap.dedent("""
        try:
            Segment.create(3 << 20, "frames")
        except NoSpace as e:
            say([e.errno, e.need, e.have, str(e)])
        say(os.listdir("/dev/shm"))
        with Segment.create(1 << 20, "exactly") as segment:
            a = np.frombuffer(segment, np.uint8)
            a[:] = 1
            say(int(a.sum()))
            try:
                Segment.create(1, "one more")
            except NoSpace as e:
                say(str(e))
            try:
                Semaphore.create("one more")
            except NoSpace as e:
                say(e.have)
            say(sorted(os.listdir("/dev/shm")))
            with Segment.create(4 << 20) as anonymous:
                b = np.frombuffer(anonymous, np.uint8)
                b[:] = 1
                say(int(b.sum()))
                del b
            del a
        say(os.listdir("/dev/shm"))
        """),
        wrapper=SMALL_SHM,
    )
    errno_, need, have, text = child.hear()
    assert (errno_, need, have) == (28, 3 << 20, 1 << 20)
    assert "3145728" in text
    assert "1048576" in text
    assert "medium: Memory" in text
    child.expect([])
    child.expect(1 << 20)
    assert "0 left" in child.hear()
    child.expect(0)
    child.expect(["exactly"])
    child.expect(4 << 20)
    child.expect([])
    child.end()


@needs_root
@pytest.mark.parametrize("writable", [True, False])
def test_bytes_that_another_program_did_not_reserve_are_an_exception(spawn, writable):
    # What multiprocessing.shared_memory makes: ftruncate() alone. Touching it kills.
    child = spawn(
        textwrap.dedent("""
        with open("/dev/shm/frames", "wb") as f:
            f.truncate(3 << 20)
        try:
            Segment.open("frames", writable=args[0])
        except NoSpace as e:
            say([e.need, e.have])
        os.truncate("/dev/shm/frames", 1 << 20)
        with Segment.open("frames", writable=args[0]) as segment:
            a = np.frombuffer(segment, np.uint8)
            say(int(a.sum()))
            del a
        """),
        writable,
        wrapper=SMALL_SHM,
    )
    child.expect([3 << 20, 1 << 20])
    child.expect(0)
    child.end()


@needs_root
def test_a_small_volume_is_an_exception(spawn, tmp_path):
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    child = spawn(
        textwrap.dedent("""
        try:
            Segment.create(3 << 20, args[0] + "/frames")
        except NoSpace as e:
            say([e.need, e.have, str(e)])
        say(os.listdir(args[0]))
        """),
        str(tmp_path),
        wrapper=("unshare", "-m", "sh", "-c", mount, "sh"),
    )
    need, have, text = child.hear()
    assert (need, have) == (3 << 20, 1 << 20)
    assert "emptyDir.sizeLimit" in text
    child.expect([])
    child.end()


@pytest.mark.parametrize("anonymous", [True, False])
def test_more_than_the_machine_has_is_an_exception(name, anonymous):
    with pytest.raises((podipc.MemoryLimit, podipc.NoSpace)) as caught:
        podipc.Segment.create(1 << 46, None if anonymous else name)
    assert caught.value.need == 1 << 46
    assert 0 < caught.value.have < 1 << 46
    assert not (SHM / name).exists()
    if anonymous:
        assert isinstance(caught.value, MemoryError)
        assert "resources.limits.memory" in str(caught.value)


@needs_root
@pytest.mark.parametrize("anonymous", [True, False])
def test_past_the_memory_limit_is_an_exception_and_not_a_kill(name, spawn, anonymous):
    with memory_limit(96 << 20) as procs:
        child = spawn(
            textwrap.dedent("""
            with open(args[0], "w") as f:
                f.write(str(os.getpid()))
            try:
                Segment.create(256 << 20, args[1])
            except MemoryLimit as e:
                say([e.need, e.have, e.errno])
            with Segment.create(16 << 20, args[1]) as segment:
                a = np.frombuffer(segment, np.uint8)
                a[:] = 1
                say(int(a.sum()))
                del a
            """),
            str(procs),
            None if anonymous else name,
        )
        need, have, errno_ = child.hear()
        assert need == 256 << 20
        assert have <= 96 << 20
        assert errno_ == 12
        child.expect(16 << 20)
        child.end()


# ---- who may ----


@needs_root
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o640, 0o644])
def test_the_mode_is_as_asked_whatever_the_umask(name, spawn, mode):
    child = spawn(
        BECOME.format(1001)
        + "os.umask(0o077); s = Segment.create(1, args[0], mode=args[1]); say(1); hear()",
        name,
        mode,
    )
    child.expect(1)
    assert stat.S_IMODE((SHM / name).stat().st_mode) == mode
    stranger = spawn(
        BECOME.format(1002)
        + textwrap.dedent("""
        for writable in (False, True):
            try:
                Segment.open(args[0], writable=writable).close()
                say("opened")
            except NotPermitted as e:
                say(str(e))
        """),
        name,
    )
    for allowed, verb in ((mode & 0o4, "read"), (mode & 0o2, "write")):
        heard = stranger.hear()
        if allowed:
            assert heard == "opened"
        else:
            for part in ("UID 1001", "UID 1002", f"mode {mode:04o}", f"may not {verb}", "0o666"):
                assert part in heard
    stranger.end()


@needs_root
def test_only_the_owner_and_root_unlink_in_dev_shm(name, spawn):
    child = spawn(
        BECOME.format(1001) + "s = Segment.create(1, args[0], mode=0o666); say(1); hear()", name
    )
    child.expect(1)
    stranger = spawn(
        BECOME.format(1002)
        + textwrap.dedent("""
        segment = Segment.open(args[0])
        try:
            segment.unlink()
        except NotPermitted as e:
            say(str(e))
        """),
        name,
    )
    text = stranger.hear()
    assert "UID 1001" in text
    assert "UID 1002" in text
    stranger.end()
    assert (SHM / name).exists()


@needs_root
def test_an_owner_can_be_required(name, spawn):
    child = spawn(
        BECOME.format(1001) + "s = Segment.create(1, args[0], mode=0o666); say(1); hear()", name
    )
    child.expect(1)
    podipc.Segment.open(name, owner=1001).close()
    with pytest.raises(podipc.NotPermitted, match="UID 1001, not to UID 1002"):
        podipc.Segment.open(name, owner=1002)
    with pytest.raises(ValueError, match="owner"):
        podipc.Segment.open(name, owner=-1)


@needs_root
def test_a_directory_that_is_closed_to_this_uid(tmp_path, spawn):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    os.chown(tmp_path, 1001, 1001)
    for directory in tmp_path.parents:
        if os.stat(directory).st_uid == os.getuid() and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    child = spawn(
        BECOME.format(1001)
        + textwrap.dedent("""
        try:
            Segment.create(1, args[0])
        except NotPermitted as e:
            say(str(e))
        """),
        str(closed / "frames"),
    )
    text = child.hear()
    child.end()
    assert "fsGroup" in text
    assert "UID 1001" in text
    assert "UID 0" in text


# ---- what else may be at the name ----


def test_what_is_not_shared_memory_is_not_opened(name, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path = SHM / name

    def refused(what):
        for writable in (False, True):
            with took_at_most(5), pytest.raises(podipc.AddressError, match=what):
                podipc.Segment.open(name, writable=writable)
        with pytest.raises(podipc.AlreadyExists, match="already there"):
            podipc.Segment.create(100, name)
        with pytest.raises(FileExistsError):
            podipc.Segment.create(100, name)

    path.symlink_to(target)
    refused("symbolic link")
    path.unlink()

    path.symlink_to(tmp_path / "nowhere")
    refused("symbolic link")
    assert not (tmp_path / "nowhere").exists()
    path.unlink()

    os.mkfifo(path)
    refused("FIFO")
    path.unlink()

    path.mkdir()
    refused("directory")
    path.rmdir()

    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    refused("socket")
    path.unlink()

    path.write_bytes(b"")
    refused("no bytes")
    path.write_bytes(b"x")
    os.link(path, SHM / (name + "-2"))
    refused("hard links")
    (SHM / (name + "-2")).unlink()
    path.unlink()

    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "empty"),
        (".", "directory"),
        ("..", "directory"),
        ("a/b", "absolute"),
        ("./b", "absolute"),
        ("/frames", "root directory"),
        ("/", "root directory"),
        ("/shared/", "directory"),
        ("/shared/..", "directory"),
        ("sem.x", "semaphores"),
        ("podipc", "channels"),
        ("x" * 256, "256 bytes"),
        ("/shared/" + "x" * 5000, "too long"),
        ("a\0b", "null byte"),
    ],
)
def test_a_bad_name_says_why(bad, why):
    with pytest.raises(podipc.AddressError, match=why):
        podipc.Segment.open(bad)
    with pytest.raises(ValueError, match=why):
        podipc.Segment.create(1, bad)


def test_names_in_other_scripts_and_bytes_that_are_no_text(name):
    for odd in (name + "-帧", name + "-\udcff", name + "x" * (255 - len(name))):
        with podipc.Segment.create(1, odd) as segment:
            assert segment.name == odd
            assert odd in os.listdir(SHM)
            podipc.Segment.open(odd).close()


def test_what_is_not_there(name, tmp_path):
    with pytest.raises(podipc.NotFound, match="not created yet") as caught:
        podipc.Segment.open(name)
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == 2
    with pytest.raises(podipc.NotFound, match="both containers mount"):
        podipc.Segment.open(tmp_path / "frames")
    with pytest.raises(podipc.NotFound, match="mount a volume"):
        podipc.Segment.create(1, tmp_path / "nowhere" / "frames")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: podipc.Segment.create(0), ValueError),
        (lambda: podipc.Segment.create(-1), ValueError),
        (lambda: podipc.Segment.create(1 << 70), OverflowError),
        (lambda: podipc.Segment.create(1.5), TypeError),
        (lambda: podipc.Segment.create(1, 5), TypeError),
        (lambda: podipc.Segment.create(1, mode=0o777), ValueError),
        (lambda: podipc.Segment.create(1, mode=-1), ValueError),
        (lambda: podipc.Segment.create(1, mode=0o4600), ValueError),
        (lambda: podipc.Segment.open(None), TypeError),
        (lambda: podipc.Segment.from_fd(-1), podipc.SystemCallError),
        (lambda: podipc.Segment.from_fd(1_000_000), podipc.SystemCallError),
        (podipc.Segment, TypeError),
        (lambda: type("Mine", (podipc.Segment,), {}), TypeError),
    ],
)
def test_arguments_that_make_no_sense(call, error):
    with pytest.raises(error):
        call()


def test_descriptors_that_are_no_memory(tmp_path):
    read, write = os.pipe()
    try:
        with pytest.raises(podipc.AddressError, match="not a memfd or a regular file"):
            podipc.Segment.from_fd(read)
    finally:
        os.close(read)
        os.close(write)
    with (tmp_path / "empty").open("wb") as f, pytest.raises(podipc.AddressError, match="no bytes"):
        podipc.Segment.from_fd(f.fileno())


def test_a_file_with_holes_from_elsewhere_gets_its_bytes(tmp_path):
    with (tmp_path / "file").open("w+b") as f:
        f.write(b"kept")
        f.truncate(100_000)
        f.flush()
        with podipc.Segment.from_fd(f.fileno(), writable=True) as segment:
            assert bytes(memoryview(segment)[:6]) == b"kept\0\0"
            assert os.fstat(f.fileno()).st_blocks * 512 >= 100_000


# ---- fork ----


def test_a_forked_child_shares_it_and_does_not_unlink_it(name, spawn):
    child = spawn(
        textwrap.dedent("""
        pid = None
        with Segment.create(16, args[0]) as named, Segment.create(16) as anonymous:
            pid = os.fork()
            if pid == 0:
                memoryview(named)[0] = 5
                memoryview(anonymous)[0] = 6
            else:
                os.waitpid(pid, 0)
                say([memoryview(named)[0], memoryview(anonymous)[0]])
                say(os.path.exists("/dev/shm/" + args[0]))
        if pid == 0:
            os._exit(0)
        say(os.path.exists("/dev/shm/" + args[0]))
        """),
        name,
    )
    child.expect([5, 6])
    child.expect(True)
    child.expect(False)
    child.end()


def test_numbers_of_every_kind_fit(name):
    with podipc.Segment.create(64, name) as segment:
        view = memoryview(segment).cast("d")
        view[:] = array.array("d", range(8))
        assert np.frombuffer(segment, np.float64).tolist() == list(range(8))
        view.release()
