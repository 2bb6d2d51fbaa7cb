"""Other UIDs, full and read-only file systems, and peers that do not speak as they should."""

import contextlib
import os
import random
import socket
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import payload
import peers
import pytest
from support import Failed, eventually, unique_name

import podipc

root = pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root for other UIDs")


@pytest.fixture
def name():
    return unique_name()


# --- who may join -----------------------------------------------------------


@pytest.fixture
def open_dir(podipc_dir):
    """Any UID may make a channel there, as in /dev/shm."""
    podipc_dir.parent.chmod(0o1777)
    return podipc_dir


@root
@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_two_uids_that_may(spawn, name, open_dir, first):
    options = {"mode": 0o666}
    order = ["sender", "receiver"] if first == "sender" else ["receiver", "sender"]
    children = {}
    for role, uid in zip(order, (10_001, 10_002), strict=True):
        children[role] = spawn(peers.agent, role, name, options, uid=uid)
        assert children[role].answer() == "open"
    children["receiver"].start("recv")
    assert children["sender"].do("send", 1, 0) == 1
    assert children["receiver"].answer() == [1, 0]
    for child in children.values():
        child.do("close")
        child.end()


@root
@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_two_uids_of_a_common_group(spawn, name, open_dir, first):
    options = {"mode": 0o660}
    order = ["sender", "receiver"] if first == "sender" else ["receiver", "sender"]
    children = {}
    for role, uid in zip(order, (10_001, 10_002), strict=True):
        children[role] = spawn(peers.agent, role, name, options, uid=uid, gid=10_000)
        assert children[role].answer() == "open"
    children["receiver"].start("recv")
    assert children["sender"].do("send", 1, 0) == 1
    assert children["receiver"].answer() == [1, 0]
    for child in children.values():
        child.do("close")
        child.end()


@root
@pytest.mark.parametrize("first", ["sender", "receiver"])
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_two_uids_that_may_not(spawn, name, open_dir, first, mode):
    """The second is told at opening or in its first wait: both UIDs, and what to pass."""
    order = ["sender", "receiver"] if first == "sender" else ["receiver", "sender"]
    one = spawn(peers.agent, order[0], name, {"mode": mode}, uid=10_001)
    assert one.answer() == "open"
    two = spawn(peers.agent, order[1], name, {"mode": mode}, uid=10_002)
    with pytest.raises(Failed) as failed:
        two.answer()
        two.do(*(["send", 1, 0, 16, 5] if order[1] == "sender" else ["recv", 5]))
    text = failed.value.text
    assert failed.value.name == "NotPermitted", text
    assert "10001" in text
    assert "10002" in text
    assert "0o666" in text
    with pytest.raises(Failed) as failed:
        one.do(*(["send", 1, 0, 16, 1] if order[0] == "sender" else ["recv", 1]))
    assert failed.value.name in {"Timeout", "NotPermitted"}
    one.do("close")
    one.end()
    two.__exit__(None, None, None)


@root
def test_two_uids_in_a_long_path(spawn, open_dir):
    """However long it is, what to change is said to its end."""
    place = open_dir.parent / ("d" * 180)
    one = spawn(peers.agent, "receiver", f"shm://{place}", {"mode": 0o666}, uid=10_001)
    assert one.answer() == "open"
    two = spawn(peers.agent, "sender", f"shm://{place}", {"mode": 0o600}, uid=10_002)
    assert two.answer() == "open"
    with pytest.raises(Failed) as failed:
        two.do("send", 1, 0, 16, 5)
    assert failed.value.name == "NotPermitted"
    assert failed.value.text.endswith("or give both the same runAsUser")
    for child in (one, two):
        child.do("close")
        child.end()


@root
def test_a_directory_that_may_not_be_written(spawn, name, podipc_dir):
    child = spawn(peers.agent, "sender", name, uid=10_001)
    with pytest.raises(Failed) as failed:
        child.answer()
    assert failed.value.name == "NotPermitted"
    assert str(podipc_dir.parent) in failed.value.text
    child.end()


@root
@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_the_umask_does_not_matter(spawn, name, open_dir, umask):
    code = (
        f"os.umask({umask})\n"
        "endpoint = podipc.sender(args[0], mode=0o666)\n"
        "say('open')\n"
        "say(endpoint.send(np.arange(3), 30))\n"
        "endpoint.close()\n"
    )
    child = spawn(code, name, uid=10_001)
    child.expect("open")
    with podipc.receiver(name, mode=0o666) as rx:
        assert rx.recv(30).tolist() == [0, 1, 2]
    child.expect(1)
    child.end()


def test_permissions_of_what_is_made(name, podipc_dir):
    with podipc.sender(name, mode=0o600):
        for path in (podipc_dir / name).iterdir():
            assert path.stat().st_mode & 0o077 == 0
        assert (podipc_dir / name).stat().st_mode & 0o077 == 0


# --- file systems -----------------------------------------------------------


def in_mounts(script):
    """A wrapper that runs a child in mounts of its own, after `script`."""
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"], check=False, capture_output=True
    )
    if probe.returncode:
        pytest.skip(f"not possible here: mounts of its own ({probe.stderr.decode().strip()})")
    return ("unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh")


def test_a_small_dev_shm_does_not_limit_tensors(spawn, name):
    """/dev/shm of 1 MiB: what is in it is a socket; the bytes are in memfds."""
    wrapper = in_mounts("mount -t tmpfs -o size=1m none /dev/shm")
    child = spawn(
        "tx, rx = podipc.sender(args[0]), podipc.receiver(args[0])\n"
        "tx.send(np.ones(1 << 22), 30)\n"
        "say(int(rx.recv(30).sum()))\n"
        "tx.close(); rx.close()\n"
        "say(os.listdir('/dev/shm'))\n",
        name,
        env={"PODIPC_DIR": ""},
        wrapper=wrapper,
    )
    assert child.hear() == 1 << 22
    child.expect([])
    child.end()


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("inodes", [1, 2, 3])
def test_a_full_dev_shm(spawn, name, role, inodes):
    """Not even room for a name: NoSpace that says where, and nothing is left."""
    wrapper = in_mounts(f"mount -t tmpfs -o size=1m,nr_inodes={inodes} none /dev/shm")
    child = spawn(
        "try:\n"
        "    getattr(podipc, args[1])(args[0])\n"
        "    say('open')\n"
        "except podipc.NoSpace as error:\n"
        "    say([str(error), error.errno])\n"
        "    say(os.listdir('/dev/shm'))\n",
        name,
        role,
        env={"PODIPC_DIR": ""},
        wrapper=wrapper,
    )
    text, number = child.hear()
    assert "/dev/shm" in text or "in the channel's directory" in text
    assert "file system" in text
    assert number == 28
    child.expect([])
    child.end()


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_a_read_only_dev_shm(spawn, name, role):
    wrapper = in_mounts("mount -t tmpfs -o ro,size=1m none /dev/shm")
    child = spawn(peers.agent, role, name, env={"PODIPC_DIR": ""}, wrapper=wrapper)
    with pytest.raises(Failed) as failed:
        child.answer()
    assert failed.value.name == "NotPermitted"
    assert "/dev/shm" in failed.value.text
    child.end()


@pytest.mark.parametrize("what", ["file", "symlink", "fifo"])
@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_something_else_at_the_name(name, podipc_dir, what, role, tmp_path):
    """Refused, and the thing that is there is not touched."""
    podipc_dir.mkdir()
    at = podipc_dir / name
    target = tmp_path / "target"
    target.mkdir()
    match what:
        case "file":
            at.write_text("mine")
        case "symlink":
            at.symlink_to(target)
        case "fifo":
            os.mkfifo(at)
    before = at.lstat()
    try:
        with pytest.raises(podipc.PodipcError) as caught:
            getattr(podipc, role)(name)
        assert str(at) in str(caught.value)
        assert at.lstat().st_ino == before.st_ino
        assert not list(target.iterdir())
    finally:
        at.unlink()
        podipc_dir.rmdir()


def test_foreign_things_in_the_directory_do_no_harm(name, podipc_dir, tmp_path):
    """Files, dead sockets, a FIFO and long names beside the real ones."""
    place = podipc_dir / name
    with podipc.receiver(name) as rx:
        (place / "rx.file").write_text("")
        (place / "rx.0123456789abcdef").write_text("")
        os.mkfifo(place / "rx.fifo")
        (place / ("rx." + "x" * 200)).write_text("")
        (place / "rx.link").symlink_to(tmp_path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.bind(str(place / "rx.stream"))
            stream.listen()
            with podipc.sender(name) as tx:
                tx.send(payload.make(1, 0), 30)
                assert payload.check(rx.recv(30)) == (1, 0)
        for path in place.glob("rx.*"):
            if path.name in {"rx.file", "rx.fifo", "rx.link", "rx.stream"} or len(path.name) != 19:
                path.unlink(missing_ok=True)
        (place / "rx.0123456789abcdef").unlink(missing_ok=True)


def test_few_descriptors(spawn, name):
    """A typed error when descriptors run out, and everything works again afterwards."""
    child = spawn(
        "import resource\n"
        "tx, rx = podipc.sender(args[0]), podipc.receiver(args[0])\n"
        "tx.send(np.arange(2), 30)\n"
        "rx.recv(30)\n"
        "used = len(os.listdir('/proc/self/fd'))\n"
        "met = set()\n"
        "for more in range(0, 12):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, 4096))\n"
        "    for role in (podipc.sender, podipc.receiver):\n"
        "        try:\n"
        "            role(args[0] + '-other').close()\n"
        "        except podipc.PodipcError as error:\n"
        "            met.add(error.errno)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "say(sorted(met))\n"
        "tx.send(np.arange(3), 30)\n"
        "say(rx.recv(30).tolist())\n"
        "say(len(os.listdir('/proc/self/fd')) - used < 6)\n"
        "tx.close(); rx.close()\n",
        name,
    )
    child.expect([24])
    child.expect([0, 1, 2])
    child.expect(True)
    child.end()


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_no_descriptor_to_join(spawn, name, role):
    """The side that has none says so, the other that it gets no answer."""
    call = "tx.send(np.zeros(1), timeout)" if role == "sender" else "rx.recv(timeout)"
    child = spawn(
        "import peers, resource, podipc.tensors\n"
        f"tx = rx = podipc.{role}(args[0])\n"
        f"{'tx.empty(1)' if role == 'sender' else ''}\n"  # memory it then has
        "peers.take_all_descriptors()\n"
        "say('has none')\n"
        "hear()\n"
        "try:\n"
        "    timeout = 2\n"
        f"    {call}\n"
        "except podipc.Timeout as error:\n"
        "    say(str(error))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "timeout = 30\n"
        f"{call}\n"
        "tx.close()\n",
        name,
    )
    child.expect("has none")
    other = podipc.receiver if role == "sender" else podipc.sender
    with other(name) as x:
        child.tell("go on")
        if role == "receiver":
            with pytest.raises(podipc.Timeout, match="One is there and does not answer"):
                x.send(np.zeros(1), 1)
        text = child.hear()
        assert "no descriptors left; raise the limit on open files (ulimit -n)" in text
        if role == "sender":
            x.recv(30)
        else:
            x.send(np.zeros(1), 30)
        child.end()


def test_no_descriptor_for_an_arena(spawn, name):
    """The true reason; nothing is lost, nobody has died, and what is held stays as it is."""
    child = spawn(
        "import peers, resource\n"
        "rx = podipc.receiver(args[0])\n"
        "held = rx.recv(30)\n"
        "say('holds')\n"
        "hear()\n"
        "peers.take_all_descriptors()\n"
        "say('has none')\n"
        "try:\n"
        "    rx.recv(30)\n"
        "except podipc.SystemCallError as error:\n"
        "    say(error.errno)\n"
        "hear()\n"
        "say(bool((held == 1).all()))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "while True:\n"
        "    try:\n"
        "        say(len(rx.recv(30)))\n"
        "        break\n"
        "    except podipc.SystemCallError:\n"
        "        pass\n"
        "say(rx.stats()['peers_died'])\n"
        "rx.close()\n",
        name,
    )
    with podipc.sender(name, max_bytes=2 << 20) as tx:
        tx.send(np.ones(100_000, "u1"), 30)
        child.expect("holds")
        child.tell("go on")
        child.expect("has none")
        tx.send(np.zeros(200_000, "u1"), 30)
        child.expect(24)
        for _ in range(3):  # what the first one has would be used again
            tx.empty(100_000, "u1", timeout=30)[:] = 9
        child.tell("go on")
        child.expect(True)
        child.expect(200_000)
        child.expect(0)
        child.end()
        assert tx.stats()["peers_died"] == 0


def test_more_peers_than_there_may_be(name, podipc_dir):
    """The one too many is told so, and joins when there is room."""
    with podipc.receiver(name) as rx, contextlib.ExitStack() as stack:
        (path,) = (podipc_dir / name).glob("rx.*")
        for _ in range(256):  # who says nothing has a place, too, for some seconds
            s = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            s.connect(str(path))
        with podipc.sender(name) as tx:
            with pytest.raises(podipc.Timeout, match="has 256 peers, which is the most"):
                tx.send(payload.make(1, 0), 1)
            stack.close()
            tx.send(payload.make(1, 0), 30)
            assert payload.check(rx.recv(30)) == (1, 0)


def test_restarts_leave_nothing(name):
    """Descriptors, mappings and threads stay as many as they were."""

    def resources():
        return (
            len(os.listdir("/proc/self/fd")),
            Path("/proc/self/maps").read_text().count("podipc"),
            len(os.listdir("/proc/self/task")),
        )

    with podipc.sender(name) as tx:
        before = None
        for number in range(100):
            with podipc.receiver(name) as rx:
                tx.send(payload.make(1, number), 30)
                assert payload.check(rx.recv(30)) == (1, number)
            del rx
            eventually(lambda: tx.stats()["peers"] == 0, "it has left")
            if number == 10:
                time.sleep(0.1)
                before = resources()
        eventually(lambda: resources() <= before, "as many as before")


@pytest.mark.parametrize("length", [100, 250, 1500])
def test_long_paths(podipc_dir, length):
    """Longer than the address of a socket may be."""
    place = podipc_dir
    while len(str(place)) < length:
        place = place / ("d" * min(100, length - len(str(place))))
    place.parent.mkdir(parents=True, exist_ok=True)
    with podipc.sender(f"shm://{place}") as tx, podipc.receiver(f"shm://{place}") as rx:
        tx.send(payload.make(1, 0), 30)
        assert payload.check(rx.recv(30)) == (1, 0)
    assert not place.exists()
    for parent in place.parents:
        if parent.exists() and parent != podipc_dir.parent:
            parent.rmdir()
        elif parent == podipc_dir.parent:
            break


@pytest.mark.parametrize("method", ["shm", "unix", "fifo", "file"])
@pytest.mark.parametrize("end", [podipc.sender, podipc.receiver])
def test_a_path_too_long_for_the_file_system(tmp_path, method, end):
    with pytest.raises(podipc.AddressError, match="too long"):
        end(f"{method}://{tmp_path}/{'d' * 256}")


# --- peers that do not speak as they should ----------------------------------

MAGIC = 0x0043504944504F50
HELLO, ARENA, GONE, BYE, HERE = 1, 3, 4, 5, 7
HEAD = struct.Struct("=QHHIQ")
REST = struct.Struct("=10IQ")


def hello(role, *, magic=MAGIC, protocol=1, byte_order=0x01020304, page=4096, wait=0, flags=0):
    uid = os.geteuid()
    return HEAD.pack(magic, protocol, HELLO, 0, 0) + REST.pack(
        byte_order, page, 1, wait, role, flags, uid, uid, 0o600, 0, 77
    )


@contextlib.contextmanager
def connected(place):
    """A socket to the receiver that has opened the channel."""
    path = eventually(lambda: list(place.glob("rx.*")), "the receiver is there")[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(str(path))
        s.settimeout(30)
        yield s


def memfds(*sizes):
    """Sealed memfds, as a sender would send them."""
    import fcntl

    fds = []
    for size in sizes:
        fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        fds.append(fd)
    return fds


def still_works(name, rx):
    with podipc.sender(name) as tx:
        tx.send(payload.make(9, 9), 30)
        assert payload.check(rx.recv(30)) == (9, 9)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"protocol": 2}, "version"),
        ({"protocol": 65535}, "version"),
        ({"byte_order": 0x04030201}, "byte order"),
        ({"page": 65536}, "page size"),
    ],
    ids=str,
)
def test_another_version(name, podipc_dir, change, word):
    """Both sides are told, with both values; others are not disturbed."""
    with podipc.receiver(name) as rx:
        with connected(podipc_dir / name) as s:
            s.send(hello(1, **change))
            answer = s.recv(4096)
            assert HEAD.unpack_from(answer)[:3] == (MAGIC, 1, 2)
            text = answer[80:].split(b"\0")[0].decode()
            assert word in text
            assert s.recv(4096) == b""
        with pytest.raises(podipc.VersionMismatch) as caught:
            rx.recv(5)
        assert word in str(caught.value)
        (value,) = change.values()
        assert str(value) in str(caught.value)
        assert "podipc" in str(caught.value)
        still_works(name, rx)


@pytest.mark.parametrize(
    "packet",
    [
        b"x",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(24),
        bytes(4096),
        HEAD.pack(MAGIC, 1, 99, 0, 0),
        HEAD.pack(MAGIC, 1, BYE, 0, 0),
        HEAD.pack(MAGIC, 1, ARENA, 0, 1 << 62),
        hello(1),  # without descriptors
        hello(2),  # the same role
        hello(7),
        hello(1)[:-1],
        hello(1) + b"x",
        hello(1, magic=1),
        hello(1) * 50,
    ],
    ids=lambda packet: repr(packet[:12]),
)
def test_nonsense_from_a_stranger(name, podipc_dir, packet):
    """It is hung up on; the receiver goes on, and nobody is told that a sender died."""
    with podipc.receiver(name) as rx:
        with connected(podipc_dir / name) as s:
            s.send(packet)
            assert s.recv(4096)[:0] == b""
        with pytest.raises(podipc.Timeout):
            rx.recv(0.1)
        still_works(name, rx)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 100])
def test_wrong_descriptors(name, podipc_dir, count):
    """Too few, too many, too small, of the wrong kind: dropped, and none is kept open."""
    with podipc.receiver(name) as rx:
        time.sleep(0.05)
        before = len(os.listdir("/proc/self/fd"))
        with open("/dev/null") as null:
            for fds in ([null.fileno()] * count, memfds(*[1] * count)):
                with connected(podipc_dir / name) as s:
                    socket.send_fds(s, [hello(1)], fds)
                    with contextlib.suppress(ConnectionResetError):
                        while s.recv(4096):
                            pass
                for fd in fds:
                    if fd != null.fileno():
                        os.close(fd)
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, "all are closed")
        still_works(name, rx)


def test_unsealed_memory_is_not_trusted(name, podipc_dir):
    """Of the right size but not sealed: the peer could truncate it under the reader."""
    with podipc.receiver(name) as rx:
        fds = []
        for size in (1 << 20, 4096, 4096):
            fd = os.memfd_create("test", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
            fds.append(fd)
        with connected(podipc_dir / name) as s:
            socket.send_fds(s, [hello(1)], fds)
            with contextlib.suppress(ConnectionResetError):
                assert s.recv(4096) == b"", "it answered with HELLO"
        for fd in fds:
            os.close(fd)
        still_works(name, rx)


def test_a_stranger_that_says_nothing(name, podipc_dir):
    """Connected and silent, many of them: the others are not held up."""
    with podipc.receiver(name) as rx, contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connected(podipc_dir / name))
        still_works(name, rx)


class FakeSender:
    """Shakes hands by the book, then writes whatever it likes into its ring."""

    SLOT = struct.Struct("=QQQIIIBBH24s8q")
    RING_AT = 128

    def __init__(self, place):
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(connected(place))
        import fcntl
        import mmap

        sizes = (self.RING_AT + 256 * 128, 64, 128)
        self.maps = []
        fds = []
        for i, size in enumerate(sizes):
            fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            whole = -(-size // 4096) * 4096
            os.ftruncate(fd, whole)
            self.maps.append(mmap.mmap(fd, whole))
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            if i < 2:
                seals |= 0x10  # F_SEAL_FUTURE_WRITE
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            fds.append(fd)
        socket.send_fds(self.socket, [hello(1)], fds)
        _, got, _, _ = socket.recv_fds(self.socket, 4096, 8)
        assert len(got) == 3, "no HELLO"
        self.socket.send(HEAD.pack(MAGIC, 1, HERE, 0, 0))
        for fd in fds + got:
            os.close(fd)
        self.socket.send(HEAD.pack(MAGIC, 1, HERE, 0, 0))
        self.position = 0

    def arena(self, number, size, really=None):
        import fcntl

        fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size if really is None else really)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | 0x10
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        try:
            socket.send_fds(self.socket, [HEAD.pack(MAGIC, 1, ARENA, number, size)], [fd])
        finally:
            os.close(fd)

    def push(self, **fields):
        d = {
            "offset": 0,
            "nbytes": 8,
            "arena": 0,
            "ticket": 0,
            "generation": 0,
            "ndim": 1,
            "flags": 0,
            "type_len": 3,
            "type": b"<f8",
            "shape": [1],
        } | fields
        shape = [*d["shape"], *[0] * 8][:8]
        at = self.RING_AT + self.position % 256 * 128
        self.position += 1
        text = self.SLOT.pack(
            self.position,
            *(d[k] for k in ("offset", "nbytes", "arena", "ticket", "generation")),
            *(d[k] for k in ("ndim", "flags", "type_len", "type")),
            *shape,
        )
        self.maps[0][at + 8 : at + 128] = text[8:]
        self.maps[0][at : at + 8] = text[:8]

    def close(self):
        self.stack.close()
        for m in self.maps:
            m.close()


@pytest.fixture
def fake(name, podipc_dir):
    with podipc.receiver(name) as rx:
        sender = FakeSender(podipc_dir / name)
        yield rx, sender
        sender.close()


def test_the_fake_sender_is_a_good_one(fake):
    """What follows is about its changes."""
    rx, sender = fake
    sender.arena(0, 4096)
    sender.push()
    x = rx.recv(30)
    assert (x.dtype, x.shape) == (np.dtype("f8"), (1,))


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 4096},
        {"offset": 4090},
        {"offset": 1 << 63},
        {"offset": 2**64 - 8},
        {"offset": 1},
        {"nbytes": 4097, "shape": [4097], "type": b"|u1"},
        {"nbytes": 2**64 - 1},
        {"nbytes": 16},
        {"nbytes": 0},
        {"shape": [-1]},
        {"shape": [2]},
        {"shape": [2**62, 4], "ndim": 2},
        {"shape": [2**61]},
        {"ndim": 65},
        {"ndim": 255},
        {"ndim": 9},
        {"type_len": 65535},
        {"type_len": 25},
        {"type_len": 0},
        {"type": b"|O8"},
        {"type": b"<O8"},
        {"type": b"i4,"},
        {"type": b"\xff\xfe\xfd"},
        {"type": b"<U0", "nbytes": 8, "shape": [8]},
        {"type": b"|S0", "nbytes": 0, "shape": [2**62]},
        {"type": b"|V0", "nbytes": 0, "shape": [2**40, 2**40], "ndim": 2},
        {"flags": 255},
    ],
    ids=str,
)
def test_a_descriptor_that_lies(fake, fields):
    """CorruptSegment, or a valid array within the arena; never a crash, never a wild read."""
    rx, sender = fake
    sender.arena(0, 4096)
    sender.push(**fields)
    try:
        x = rx.recv(30)
    except (podipc.CorruptSegment, podipc.UnsupportedTensor):
        return
    assert x.nbytes <= 4096
    assert x.nbytes == fields.get("nbytes", 8)
    x.tobytes()


def test_an_arena_that_does_not_come(fake):
    """A message in an arena that was not announced is not looked at; then the sender goes."""
    rx, sender = fake
    sender.push(arena=5)
    with pytest.raises(podipc.Timeout):
        rx.recv(0.2)
    sender.socket.close()
    with pytest.raises((podipc.CorruptSegment, podipc.PeerDied)):
        rx.recv(30)


@pytest.mark.parametrize("really", [0, 4095, 4097, 1 << 20])
def test_an_arena_of_another_size(fake, really):
    rx, sender = fake
    sender.arena(0, 4096, really)
    sender.push(offset=4088)
    with contextlib.suppress(podipc.PodipcError):
        x = rx.recv(0.5)
        assert really >= 4096
        x.tobytes()


def test_an_arena_taken_away_while_it_is_held(fake):
    rx, sender = fake
    sender.arena(0, 4096)
    sender.push()
    x = rx.recv(30)
    sender.socket.send(HEAD.pack(MAGIC, 1, GONE, 0, 0))
    with contextlib.suppress(BrokenPipeError):
        sender.arena(1024, 1 << 20)
    with contextlib.suppress(podipc.PodipcError):
        rx.recv(0.2)
    assert x.tolist() == [0.0]


def test_a_position_that_jumps(fake):
    rx, sender = fake
    sender.arena(0, 4096)
    sender.position = 1000
    sender.push()
    with contextlib.suppress(podipc.PodipcError):
        rx.recv(0.2)


def test_descriptors_at_random(fake):
    """Whatever bytes lie in the slots."""
    rx, sender = fake
    rng = random.Random(5)
    sender.arena(0, 1 << 16)
    for _ in range(300):
        sender.push(
            offset=rng.choice([0, 8, 64, 65528, 65536, rng.getrandbits(64)]),
            nbytes=rng.choice([0, 8, 16, 65536, rng.getrandbits(64)]),
            arena=rng.choice([0, 0, 0, 1, 1024, rng.getrandbits(32)]),
            ndim=rng.choice([0, 1, 2, 8, 9, 64, 65, 255]),
            flags=rng.getrandbits(8),
            type_len=rng.choice([0, 3, 3, 24, 25, 65535]),
            type=rng.choice([b"<f8", b"|u1", b"|O8", rng.randbytes(24)]),
            shape=[rng.choice([0, 1, 2, 8, -1, 2**61, -(2**63)]) for _ in range(8)],
        )
        try:
            rx.recv(0).tobytes()
        except (podipc.CorruptSegment, podipc.UnsupportedTensor):
            return
        except podipc.Timeout:
            break
