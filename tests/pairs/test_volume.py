"""Files on a volume: what holds for shm holds here too; and full, damaged, foreign directories."""

import contextlib
import os
import random
import subprocess
import time

import numpy as np
import payload
import peers
import pytest
from support import Failed, eventually, memory_limit, unique_name

# What no method may do differently. They take `name` from here.
from test_deaths import (  # noqa: F401
    test_a_forked_child_does_not_hide_the_death,
    test_dead_receiver_among_two,
    test_dead_sender,
    test_dead_sender_ends_the_wait,
    test_held_arrays_outlive_a_dead_sender,
    test_iteration_over_a_dead_sender_raises,
    test_sender_killed_at_random,
)
from test_shm import (  # noqa: F401
    test_a_late_receiver_gets_its_share,
    test_any_start_order,
    test_channels_do_not_mix,
    test_closed_before_anything_was_sent,
    test_closed_only_when_all_have_closed,
    test_closing_sender_ends_the_iteration,
    test_many_in_order,
    test_n_by_m,
    test_restart_of_either_side,
    test_the_handle_goes_on_after_closed,
    test_threads_that_receive,
    test_threads_that_send,
    test_what_a_closing_receiver_left_goes_to_the_next,
    test_what_a_timed_out_send_had_is_not_sent,
)

import podipc

MIB = 1 << 20


@pytest.fixture
def directory(tmp_path):
    """The directory of a channel: it goes with the last endpoint."""
    path = tmp_path / "channel"
    yield path
    assert not path.exists(), f"left behind: {sorted(os.listdir(path))}"


@pytest.fixture
def name(tmp_path):
    return f"file://{tmp_path}/channel"


def agent(spawn, role, name, **options):
    child = spawn(peers.agent, role, name, options)
    assert child.answer() == "open"
    return child


def agent_of(uid, spawn, role, name, **options):
    """The same as another user, who may not be able to reach the interpreter's files."""
    return spawn(
        "import peers, podipc.tensors\n"
        "os.setgroups([])\n"
        "os.setgid(args[0])\n"
        "os.setuid(args[0])\n"
        "peers.agent(*args[1:])\n",
        *(uid, role, name, options),
    )


def test_dead_receiver(spawn, name, directory):
    """PeerDied once; what it had not taken goes to the next; what it had is counted."""
    with podipc.sender(name) as tx:
        child = agent(spawn, "receiver", name)
        for number in range(5):
            assert tx.send(payload.make(1, number), 30) == 1
        assert child.do("hold") == [1, 0]
        assert child.do("hold") == [1, 1]
        assert child.do("recv") == [1, 2]
        child.kill()
        eventually(lambda: tx.stats()["peers"] == 0, "the death is noticed")
        with pytest.raises(podipc.PeerDied, match=r"receiver of file://.* died.*holding 2 tensors"):
            tx.send(payload.make(1, 5), 30)
        with pytest.raises(podipc.Timeout, match="No receiver has opened"):
            tx.send(payload.make(1, 5), 0.2)
        stats = tx.stats()
        assert (stats["peers_died"], stats["lost_taken"], stats["queued"]) == (1, 2, 2)
        with podipc.receiver(name) as rx:
            tx.send(payload.make(1, 5), 30)
            assert [payload.check(rx.recv(30))[1] for _ in range(3)] == [3, 4, 5]


def test_receiver_killed_at_random(spawn, name, directory):
    """Each tensor at most once; those that nobody reports were held by one that died."""
    rng = random.Random(6)
    got = []
    number = 0

    def swallow():
        child = spawn(
            "import payload\n"
            "with podipc.receiver(args[0]) as rx:\n"
            "    say('open')\n"
            "    for x in rx:\n"
            "        say(payload.check(x)[1])\n"
            "say('end')\n",
            name,
        )
        child.expect("open")
        return child

    def said(child):
        with contextlib.suppress(AssertionError):  # that it ended, or died in mid-word
            while (word := child.hear()) != "end":
                got.append(word)

    with podipc.sender(name, max_bytes=MIB) as tx:
        for _ in range(12):
            child = swallow()
            at = time.monotonic() + rng.uniform(0.0, 0.1)
            while time.monotonic() < at:
                tx.send(payload.make(1, number, rng.choice([3, 100, 10_000])), 30)
                number += 1
            child.kill()
            eventually(lambda: tx.stats()["peers"] == 0, "the death is noticed")
            with pytest.raises(podipc.PeerDied):
                tx.send(payload.make(1, number), 30)
            said(child)
        child = swallow()
        tx.send(payload.make(1, number), 30)
        eventually(lambda: tx.stats()["queued"] == 0, "everything is taken")
        lost = tx.stats()["lost_taken"]
    said(child)
    assert got[-1] == number
    assert len(set(got)) == len(got)
    assert number + 1 - len(got) <= lost <= 24


def test_both_killed_and_restarted(spawn, name, directory):
    """Nothing old comes as new."""
    for life in range(5):
        rx, tx = agent(spawn, "receiver", name), agent(spawn, "sender", name)
        for number in range(3):
            tx.do("send", life, number)
        assert rx.do("recv") == [life, 0]
        tx.kill()
        rx.kill()
        assert len([f for f in os.listdir(directory) if f.startswith("m.")]) == 2
    podipc.receiver(name).close()


def test_back_pressure(spawn, name, directory):
    """Bytes that wait in the directory stay within max_bytes, and nothing is dropped."""
    with podipc.sender(name, max_bytes=MIB) as tx, podipc.receiver(name) as rx:
        sent = 0
        with pytest.raises(podipc.Timeout, match=r"wait in .* max_bytes is 1048576"):
            while True:
                tx.send(payload.make(1, sent, 12_000), 0.2)
                sent += 1
        assert sent == 10
        assert sum(f.stat().st_size for f in directory.iterdir()) <= MIB
        assert payload.check(rx.recv(30)) == (1, 0)
        tx.send(payload.make(1, sent, 12_000), 30)
        assert [payload.check(rx.recv(30))[1] for _ in range(10)] == list(range(1, 11))
        with pytest.raises(podipc.MemoryLimit, match="max_bytes is 1048576") as caught:
            tx.send(np.zeros(MIB), 30)
        assert (caught.value.need > 8 * MIB, caught.value.have) == (True, MIB)


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root for a cgroup")
def test_small_tensors_stay_within_the_memory_limit(spawn, podipc_dir):
    """Files in /dev/shm count against the sender's: it waits, and is not killed."""
    address = f"file://{podipc_dir.parent}/files"
    with memory_limit(96 << 20) as procs, podipc.receiver(address) as rx:
        child = spawn(
            "with open(args[0], 'w') as f:\n"
            "    f.write(str(os.getpid()))\n"
            "tx = podipc.sender(args[1], max_bytes=1 << 30)\n"
            "sent = 0\n"
            "try:\n"
            "    while sent < 600:\n"
            "        tx.send(np.full(1 << 18, sent % 256, 'u1'), 1)\n"
            "        sent += 1\n"
            "except podipc.Timeout:\n"
            "    pass\n"
            "say(sent)\n"
            "hear()\n"
            "tx.close()\n",
            str(procs),
            address,
        )
        sent = child.hear()
        assert 20 < sent < 400
        for number in range(sent):
            assert rx.recv(30)[0] == number % 256
        child.tell("close")
        child.end()


def test_too_large_for_this_receiver(name):
    """The user's own figures; it stays for one that takes it."""
    with podipc.sender(name) as tx, podipc.receiver(name, max_bytes=1000) as rx:
        tx.send(np.zeros(1000, "u1"), 30)
        assert rx.recv(30).nbytes == 1000
        tx.send(np.zeros(200_000, "u1"), 30)
        for _ in range(2):
            with pytest.raises(podipc.MemoryLimit, match="max_bytes of this receiver is 1000"):
                rx.recv(30)
        with podipc.receiver(name) as other:
            assert other.recv(30).nbytes == 200_000
        tx.send(np.zeros(10, "u1"), 30)
        assert rx.recv(30).nbytes == 10


def test_received_is_private_memory(name, directory):
    """A read-only array by default; it may outlive everything."""
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        for words in (3, 100, 1 << 18):
            tx.send(payload.make(1, words, words), 30)
            x = rx.recv(30)
            assert not x.flags.writeable
            assert x.ctypes.data % 64 == 0
            assert rx.stats()["held"] == 1
            tx.send(payload.make(2, words, words), 30)
            y = rx.recv(30, writable=True)
            y[-1] = 5
            tx.send(payload.make(3, words, words), 30)
            z = rx.recv(30, copy=True)
            assert z.flags.owndata or z.base is not None
            assert payload.check(x) == (1, words)
            assert payload.check(z) == (3, words)
            del x, y, z
            assert rx.stats()["held"] == 0
        with tx.loan((4, 5), "i2") as out:
            out[...] = np.arange(20).reshape(4, 5)
        x = rx.recv(30)
    assert not directory.exists()
    assert np.array_equal(x, np.arange(20, dtype="i2").reshape(4, 5))


def test_a_damaged_file(name, directory):
    """CorruptSegment once, naming the file; it is gone then, and the rest comes."""
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        for number in range(4):
            tx.send(payload.make(1, number), 30)
        files = sorted(f for f in directory.iterdir() if f.name.startswith("m."))
        os.truncate(files[1], 100)
        with open(files[2], "r+b") as file:
            file.seek(20)
            file.write(b"\xff\xff\xff\xff")
        assert payload.check(rx.recv(30)) == (1, 0)
        with pytest.raises(podipc.CorruptSegment, match=files[1].name):
            rx.recv(30)
        with pytest.raises(podipc.CorruptSegment, match=files[2].name + ".*dimensions"):
            rx.recv(30)
        assert payload.check(rx.recv(30)) == (1, 3)
        assert not [f for f in directory.iterdir() if f.name.startswith("m.")]


def test_another_version(name, directory):
    tx = podipc.sender(name)
    with podipc.receiver(name) as rx:
        tx.send(payload.make(1, 0), 30)
        (file,) = (f for f in directory.iterdir() if f.name.startswith("m."))
        with open(file, "r+b") as stream:
            stream.seek(8)
            stream.write((9).to_bytes(4, "little"))
        with pytest.raises(podipc.VersionMismatch, match=r"version 9.*reads version 1"):
            rx.recv(30)
        assert file.exists(), "it may be for somebody else"
    with pytest.warns(RuntimeWarning, match="1 tensors .* will reach nobody"):
        tx.close()


def test_what_is_not_ours_is_left_alone(name, directory, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    with podipc.receiver(name) as rx:
        ours = "m.0000000000000000000{}.00000000000000aa"
        (directory / ours.format(0)).symlink_to(precious)
        os.mkfifo(directory / ours.format(1))
        (directory / ours.format(2)).mkdir()
        (directory / ours.format(3)).hardlink_to(precious)
        (directory / "tx.00000000000000aa").symlink_to(precious)
        (directory / "notes.txt").write_text("mine")
        with pytest.raises(podipc.CorruptSegment, match="hard link"):
            rx.recv(0.3)
        with podipc.sender(name) as tx:
            tx.send(payload.make(1, 0), 30)
        assert payload.check(rx.recv(30)) == (1, 0)
        with pytest.raises(podipc.Closed):
            rx.recv(30)
    assert precious.read_text() == "precious"
    assert (directory / "notes.txt").read_text() == "mine"
    subprocess.run(["rm", "-r", str(directory)], check=True)


def test_not_a_directory(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("x")
    link.symlink_to(tmp_path)
    for path, error, text in [
        (file, podipc.AddressError, "is a file, and file:// needs a directory"),
        (link, podipc.AddressError, "is a symbolic link"),
        (tmp_path / "no" / "such", podipc.NotFound, "mount the volume there"),
    ]:
        for opener in (podipc.sender, podipc.receiver):
            with pytest.raises(error, match=text):
                opener(f"file://{path}")
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_a_directory_that_was_there_stays(tmp_path):
    with podipc.sender(f"file://{tmp_path}") as tx, podipc.receiver(f"file://{tmp_path}") as rx:
        tx.send(np.arange(3), 30)
        assert list(rx.recv(30)) == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_volume(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "volume"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", unique_name("tmpfs"), str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("not possible here: needs to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_volume(small_volume):
    directory = small_volume / "channel"
    with podipc.sender(f"file://{directory}") as tx, podipc.receiver(f"file://{directory}") as rx:
        with pytest.raises(podipc.NoSpace, match="sizeLimit") as caught:
            tx.send(np.zeros(2 * MIB, "u1"), 30)
        assert caught.value.need > 2 * MIB
        assert 0 < caught.value.have <= MIB
        # It fits, but not twice: the second waits until the first is taken.
        tx.send(payload.make(1, 0, 75_000), 30)
        with pytest.raises(podipc.Timeout):
            tx.send(payload.make(1, 1, 75_000), 0.3)
        assert payload.check(rx.recv(30)) == (1, 0)
        tx.send(payload.make(1, 1, 75_000), 30)
        assert payload.check(rx.recv(30)) == (1, 1)
        # Full of what others put there: no wait would help.
        with pytest.raises(OSError, match="No space"), open(small_volume / "x", "wb", 0) as other:
            while True:
                other.write(bytes(4096))
        with pytest.raises(podipc.NoSpace):
            tx.send(payload.make(1, 2, 5000), 30)
        (small_volume / "x").unlink()
        tx.send(payload.make(1, 2, 5000), 30)
        assert payload.check(rx.recv(30)) == (1, 2)
        assert not [f for f in directory.iterdir() if f.name.startswith(".t.")]
    assert list(small_volume.iterdir()) == []


def test_filled_up_by_a_flood(spawn, small_volume):
    """A sender that is faster than its receiver fills the volume, and loses nothing."""
    name = f"file://{small_volume}/channel"
    child = spawn(peers.flood, name, 1, 3000)
    child.expect("open")
    with podipc.receiver(name) as rx:
        for number in range(300):
            assert payload.check(rx.recv(30)) == (1, number)
            if number % 50 == 0:
                time.sleep(0.05)
        child.kill()
        number = 300
        with pytest.raises(podipc.PeerDied):
            while True:
                assert payload.check(rx.recv(30)) == (1, number)
                number += 1
    assert list(small_volume.iterdir()) == []


def _users():
    if os.geteuid() != 0:
        pytest.skip("not possible here: needs root to be two users")


@pytest.fixture
def shared(tmp_path_factory):
    """A directory that every user reaches, as the mount point of a volume."""
    import shutil
    import tempfile

    place = tempfile.mkdtemp(prefix=unique_name("volume"))
    os.chmod(place, 0o777)
    yield place
    left = sorted(os.listdir(place))
    shutil.rmtree(place)
    assert not left, f"left behind: {left}"


def test_another_user_is_refused(spawn, shared):
    _users()
    name = f"file://{shared}/channel"
    tx = agent_of(1001, spawn, "sender", name)
    assert tx.answer() == "open"
    other = agent_of(1002, spawn, "receiver", name)
    with pytest.raises(Failed, match="NotPermitted") as failed:
        other.answer()
    for part in ("UID 1001", "UID 1002", "mode 0700", "mode=0o666"):
        assert part in str(failed.value)
    tx.do("close")
    tx.end()


@pytest.mark.parametrize("size", [10, 1 << 18])
def test_another_user_is_let_in(spawn, shared, size):
    _users()
    name = f"file://{shared}/channel"
    tx = agent_of(1001, spawn, "sender", name, mode=0o666)
    rx = agent_of(1002, spawn, "receiver", name, mode=0o666)
    assert (tx.answer(), rx.answer()) == ("open", "open")
    for number in range(3):
        tx.do("send", 1, number, size)
        assert rx.do("recv") == [1, number]
    # Each clears up what the other left.
    tx.do("send", 1, 3)
    tx.kill()
    assert rx.do("recv") == [1, 3]
    with pytest.raises(Failed, match="PeerDied"):
        rx.do("recv")
    rx.do("close")
    rx.end()


def test_an_idle_wait_costs_nothing(spawn, name, directory):
    for role in ("receiver", "sender"):
        child = spawn(
            "endpoint = getattr(podipc, args[0])(args[1])\n"
            "start = time.process_time()\n"
            "try:\n"
            "    endpoint.recv(2.0) if args[0] == 'receiver' else endpoint.send(np.zeros(3), 2.0)\n"
            "except podipc.Timeout:\n"
            "    say(time.process_time() - start)\n"
            "endpoint.close()\n",
            role,
            name,
        )
        assert child.hear() < 0.1
        child.end()
