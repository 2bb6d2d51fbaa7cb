"""Where peers meet: /dev/shm, the directory of channels, the place an address names."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from podipc import leftovers
from podipc.address import Address
from podipc.console import count, size
from podipc.doctor import facts
from podipc.doctor.finding import FAIL, OK, WARN, Finding
from podipc.waiting import ANY, Watch

SHM = "/dev/shm"
TIGHT = 1 << 20
"""Bytes or less free: no room for a segment or a semaphore of one's own."""
_A_TMPFS = (
    "spec.volumes: + {name: shm, emptyDir: {medium: Memory, sizeLimit: 256Mi}}, and in every "
    "container volumeMounts: + {name: shm, mountPath: /dev/shm}"
)
_OWN = "podipc-doctor"
"""Channels of doctors begin with this."""


def shm() -> Iterator[Finding]:
    """Size, room, kind and permissions of /dev/shm."""
    try:
        about, room = os.stat(SHM), os.statvfs(SHM)
    except OSError as error:
        yield Finding(FAIL, SHM, f"is not there: {error}", _A_TMPFS)
        return
    mount = facts.mount_of(SHM)
    kind = mount["type"] if mount else "unknown"
    yield judge_shm(
        size_=room.f_blocks * room.f_frsize,
        free=room.f_bavail * room.f_frsize,
        inodes=room.f_favail if room.f_files else None,
        kind=kind,
        writable=os.access(SHM, os.W_OK | os.X_OK, effective_ids=True),
        mode=stat.S_IMODE(about.st_mode),
    )


def judge_shm(
    *, size_: int, free: int, inodes: int | None, kind: str, writable: bool, mode: int
) -> Finding:
    """`inodes`: those free, None if they are not counted. `kind`: of file system."""
    text = f"{size(size_)}, {size(free)} free"
    if not writable:
        return Finding(
            FAIL,
            SHM,
            f"{text}; not for UID {os.geteuid()} to write to (mode {mode:04o}, or mounted "
            "read-only)",
            "volumeMounts[mountPath: /dev/shm].readOnly: false, and the volume's mode 1777",
        )
    if inodes is not None and inodes < 16:
        return Finding(
            FAIL, SHM, f"{text}, {inodes} inodes free: no room for another channel", _A_TMPFS
        )
    if free < TIGHT:
        return Finding(
            WARN,
            SHM,
            f"{text}: tensors of shm:// do not need it, but a named Segment and a Semaphore do",
            _A_TMPFS,
        )
    if kind not in ("tmpfs", "ramfs", "rootfs"):
        return Finding(
            WARN,
            SHM,
            f"{text}, but it is {kind} and no memory: named Segments are written to disk",
            _A_TMPFS,
        )
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return Finding(
            WARN,
            SHM,
            f"{text}; not sticky (mode {mode:04o}): any UID of the Pod may remove what another "
            "has made",
            "none of a Pod's own /dev/shm; of a volume mounted there: mode 1777",
        )
    return Finding(OK, SHM, text)


def rendezvous() -> Iterator[Finding]:
    """Make a file as podipc does, where it does, and see what became of its mode."""
    place = leftovers.place()
    given = "PODIPC_DIR" in os.environ and bool(os.environ["PODIPC_DIR"])
    if not place.is_absolute():
        yield Finding(
            FAIL,
            "PODIPC_DIR",
            f"is {str(place)!r}, a relative path, which is another one in each container",
            "env: {name: PODIPC_DIR, value: /dev/shm/podipc}, the same in every container",
        )
        return
    above = place if place.exists() else place.parent
    if place.exists() and not place.is_dir():
        yield Finding(
            FAIL,
            "channels",
            f"PODIPC_DIR is {place}, which is there and is no directory",
            "env: {name: PODIPC_DIR, value: /dev/shm/podipc}, the same in every container",
        )
        return
    if not above.is_dir():
        yield Finding(
            FAIL,
            "channels",
            f"PODIPC_DIR is {place}, and there is no directory {above}: podipc makes the last "
            "part of the path only",
            f"volumeMounts: + {{name: podipc, mountPath: {above}}} in both containers, of one "
            "volume",
        )
        return
    problem = _mode_problem(above)
    mount = facts.mount_of(str(above)) or {"type": "unknown", "target": "/"}
    if problem:
        yield Finding(
            FAIL,
            "channels",
            f"{place}: {problem}",
            "env: PODIPC_DIR on a volume that both containers mount and may write to",
        )
    elif given and facts.is_private(mount):
        yield Finding(
            WARN,
            "channels",
            f"PODIPC_DIR, {place}, is in the container's own file system: nobody else sees it",
            f"spec.volumes: + {{name: podipc, emptyDir: {{}}}}, and in both containers "
            f"volumeMounts: + {{name: podipc, mountPath: {above}}}",
        )
    else:
        yield Finding(OK, "channels", f"in {place}, on {mount['type']}")


def _mode_problem(directory: Path) -> str:
    """Why a file for others could not be made in there, or ""."""
    path = directory / f".{_OWN}.{secrets.token_hex(8)}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return f"UID {os.geteuid()} cannot make a file in {directory}: {error.strerror}"
    try:
        os.fchmod(fd, 0o666)
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
    except OSError as error:
        return f"the mode of a file in {directory} cannot be set: {error.strerror}"
    finally:
        os.close(fd)
        os.unlink(path)
    return "" if mode == 0o666 else f"mode 0666 of a file in {directory} became {mode:04o}"


def living() -> Iterator[Finding]:
    """Who lives in the channels there are, and what the dead have left."""
    try:
        # Doctors that are at work just now are none of the matter.
        found = [c for c in leftovers.channels() if not (c.name.startswith(_OWN) and c.in_use)]
    except OSError as error:
        yield Finding(FAIL, "channels", f"cannot be listed: {error}")
        return
    for channel in found:
        if channel.refused:
            yield Finding(
                WARN,
                channel.name,
                f"a channel that {channel.refused}; this is UID {os.geteuid()}",
                "mode=0o666 in podipc.sender() and receiver(), or the same "
                "securityContext.runAsUser in both containers",
            )
        elif channel.in_use:
            yield Finding(
                OK,
                channel.name,
                f"a channel with {count(len(channel.senders), 'sender')}, "
                f"{count(len(channel.receivers), 'receiver')}",
            )
    dead = sum(len(channel.dead) for channel in found)
    if dead:
        names = ", ".join(channel.name for channel in found if channel.dead)
        yield Finding(
            WARN,
            "leftovers",
            f"{count(dead, 'endpoint')} of {names} {'was' if dead == 1 else 'were'} killed, and "
            "nobody has cleared up since",
            "none in the manifest: `podipc rm --dead` removes them, and so does the next one "
            "who opens the channel",
        )
    else:
        yield Finding(OK, "leftovers", "none")


def at_address(address: Address) -> Iterator[Finding]:
    """Who is there, and whether the place is one that others share."""
    sight = Watch(address, ANY).look()
    yield Finding(OK if sight.there else WARN, address.method, sight.text)
    if not address.path or address.method == "http" or address.named:
        return
    where = Path(address.path)
    if address.method in ("unix", "fifo") or not where.exists():
        where = where.parent
    yield from _volume(address, where)


def _volume(address: Address, where: Path) -> Iterator[Finding]:
    change = (
        f"spec.volumes: + {{name: shared, emptyDir: {{}}}}, and in both containers "
        f"volumeMounts: + {{name: shared, mountPath: {where}}}"
    )
    if not where.is_dir():
        yield Finding(FAIL, "volume", f"there is no directory {where}", change)
        return
    mount = facts.mount_of(str(where)) or {"target": "/", "type": "unknown", "read_only": False}
    if facts.is_private(mount):
        yield Finding(
            FAIL,
            "volume",
            f"{where} is in the container's own file system: nobody else sees what is there",
            change,
        )
    elif mount["read_only"]:
        yield Finding(
            FAIL,
            "volume",
            f"{mount['target']} is mounted read-only; podipc writes on both sides",
            f"volumeMounts[mountPath: {mount['target']}].readOnly: false",
        )
    elif problem := _mode_problem(where):
        yield Finding(
            FAIL,
            "volume",
            problem,
            "spec.securityContext.fsGroup: a group that both containers then have",
        )
    else:
        free = 0
        with contextlib.suppress(OSError):
            room = os.statvfs(where)
            free = room.f_bavail * room.f_frsize
        yield Finding(
            OK, "volume", f"{mount['target']}, {mount['type']}, {size(free)} free for {where}"
        )
