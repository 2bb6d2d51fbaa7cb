"""What podipc needs of the kernel, and whether it is let have it: each thing is done."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import platform
import secrets
import socket
import statistics
import sys
from collections.abc import Iterator

import numpy as np

import podipc
from podipc import _core
from podipc.doctor import facts
from podipc.doctor.finding import FAIL, OK, WARN, Finding
from podipc.pod.inside import probe

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SEAL_FUTURE_WRITE = 0x10
_MFD_NOEXEC_SEAL = 0x8
_FILTER = (
    "securityContext.seccompProfile: {type: RuntimeDefault}, or another profile that allows it"
)
ROUNDS = 50


def versions() -> Iterator[Finding]:
    """What runs here."""
    yield Finding(
        OK,
        "versions",
        f"podipc {podipc.__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"{probe.libc()}",
    )
    yield Finding(
        OK,
        "kernel",
        f"Linux {platform.release()}, {platform.machine()}, {sys.byteorder}-endian, pages of "
        f"{os.sysconf('SC_PAGE_SIZE')} bytes",
    )
    if facts.sysctl("fs/protected_regular"):
        yield Finding(
            OK,
            "protected",
            "files of other UIDs in /dev/shm open without O_CREAT only (fs.protected_regular); "
            "podipc does so",
        )


def _memfd() -> int:
    """One as podipc makes it: not executable, where the kernel knows of that."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("podipc-doctor", flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("podipc-doctor", flags)


def memfd() -> Iterator[Finding]:
    """Shared memory that a peer can neither shrink nor write: make it, and try."""
    noexec = facts.sysctl("vm/memfd_noexec")
    shown = "" if noexec is None else f" (vm.memfd_noexec {noexec})"
    try:
        with podipc.Segment.create(mmap.PAGESIZE) as segment:
            broken = _broken_seals(segment.fd, writable=True)
        fd = _memfd()
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | _SEAL_FUTURE_WRITE)
            broken += _broken_seals(fd, writable=False)
        finally:
            os.close(fd)
    except OSError as error:
        reason = {
            errno.ENOSYS: "the kernel or a seccomp filter does not know the call",
            errno.EPERM: "a seccomp filter refuses it",
            errno.EACCES: f"vm.memfd_noexec is {noexec}",
            errno.EINVAL: "the kernel is older than Linux 5.1, which shm needs",
        }.get(error.errno or 0, "see the error")
        yield Finding(FAIL, "memfd", f"sealed memory cannot be made: {error}; {reason}", _FILTER)
        return
    if broken:
        yield Finding(FAIL, "memfd", f"seals do not hold: {', '.join(broken)}; use another method")
    else:
        yield Finding(OK, "memfd", f"sealed: shrinking, growing and writing are refused{shown}")


def _broken_seals(fd: int, *, writable: bool) -> list[str]:
    """What could be done to a sealed page that should be refused."""
    broken = []
    for what, length in (("it was shrunk", 0), ("it was made larger", 2 * mmap.PAGESIZE)):
        with contextlib.suppress(PermissionError):
            os.ftruncate(fd, length)
            broken.append(what)
    if not writable:
        with contextlib.suppress(PermissionError):
            os.pwrite(fd, b"x", 0)
            broken.append("it was written to")
        with contextlib.suppress(PermissionError):
            mmap.mmap(fd, mmap.PAGESIZE).close()
            broken.append("it was mapped to write")
    return broken


def futex() -> Iterator[Finding]:
    """Sleep and be woken by another thread, as often as `ROUNDS`."""
    took = _core.floor("futex", 8, ROUNDS)
    yield Finding(OK, "futex", f"there and back in {statistics.median(took) / 1000:.0f} µs")


def descriptors() -> Iterator[Finding]:
    """A descriptor through a Unix socket, which is how a receiver gets its memory."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        there.settimeout(1.0)
        fd = _memfd()
        try:
            socket.send_fds(here, [b"x"], [fd])
            _, got, _, _ = socket.recv_fds(there, 1, 1)
            same = [os.fstat(one).st_ino == os.fstat(fd).st_ino for one in got]
        finally:
            os.close(fd)
        for one in got:
            os.close(one)
    if same == [True]:
        yield Finding(OK, "descriptors", "passed over a Unix socket (SCM_RIGHTS)")
    else:
        yield Finding(FAIL, "descriptors", "lost on the way through a Unix socket")


def loopback() -> Iterator[Finding]:
    """A connection to 127.0.0.1, and a word through it."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            with socket.create_connection(listener.getsockname(), 2.0) as out:
                incoming, _ = listener.accept()
                with incoming:
                    incoming.settimeout(2.0)
                    out.sendall(b"podipc")
                    heard = incoming.recv(16)
        except OSError as error:
            yield Finding(
                FAIL,
                "loopback",
                f"127.0.0.1 cannot be used ({error}): tcp and http will not work. Is `lo` up? "
                "A Pod's is; that of a bare network namespace has to be set up",
            )
            return
    level = OK if heard == b"podipc" else FAIL
    yield Finding(level, "loopback", "127.0.0.1 listens and connects")


def round_trip() -> Iterator[Finding]:
    """A tensor through shm, from this process to itself: all of the above together."""
    address = f"shm://podipc-doctor-{secrets.token_hex(8)}?wait=block"
    sent = np.arange(1 << 17)
    try:
        with podipc.receiver(address) as rx, podipc.sender(address) as tx:
            tx.send(sent, timeout=10)
            got = rx.recv(timeout=10)
            whole = np.array_equal(got, sent)
            del got
    except podipc.PodipcError as error:
        yield Finding(FAIL, "shm://", f"no tensor goes through shared memory: {error}")
        return
    if whole:
        yield Finding(OK, "shm://", "a tensor of 1 MiB went through shared memory, whole")
    else:
        yield Finding(FAIL, "shm://", "a tensor was damaged on its way: please report it")


def user_namespaces() -> Iterator[Finding]:
    """Of a host: whether the local runtime can make containers. Makes an empty Pod."""
    from podipc.pod.local import namespaces

    with namespaces.Pod("podipc-doctor") as pod:
        made = [part for part, is_made in pod.isolation.items() if is_made]
        notes = list(pod.notes)
    if notes:
        yield Finding(
            WARN,
            "local runtime",
            f"`podipc pod run` has less here: {'; '.join(notes)}",
            "run it as root, or allow user namespaces on this host",
        )
    else:
        yield Finding(OK, "local runtime", f"can make containers: {', '.join(made)}")
