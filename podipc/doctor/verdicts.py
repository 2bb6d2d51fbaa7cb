"""What two containers share, judged by the facts of both and by what each has heard."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from podipc.doctor.finding import FAIL, OK, WARN, Finding

Facts = Mapping[str, Any]
_ONE_POD = "spec.containers: both in one Pod, and no spec.hostNetwork in either"


def same(own: Facts, other: Facts, what: str) -> bool:
    """Whether it is one and the same: a namespace, ``shm`` or ``meeting``."""
    if own["boot"] != other["boot"]:
        return False
    if what == "meeting":
        return bool(set(own[what]) & set(other[what]))
    if what == "shm":
        return own[what] is not None and own[what] == other[what]
    namespace = own["namespaces"].get(what)
    return namespace is not None and namespace == other["namespaces"].get(what)


def of(
    own: Facts,
    other: Facts,
    heard: Collection[str],
    hears: Collection[str],
    errors: Mapping[str, str],
) -> Iterator[Finding]:
    """All that can be said of two containers. `heard`, `hears`: ways, as in `meet.Peer`."""
    yield Finding(
        OK,
        "peer",
        f"{other['hostname']}, UID {other['uid']}, podipc {other['podipc']}, {other['libc']}",
    )
    yield _net(own, other, heard, errors)
    yield _ipc(own, other)
    yield _dev_shm(own, other)
    yield _tensors(own, other, heard, hears, errors)
    yield _pid(own, other)
    yield _mounts(own, other)
    yield from _users(own, other)
    yield from _programs(own, other)


def _net(own: Facts, other: Facts, heard: Collection[str], errors: Mapping[str, str]) -> Finding:
    if "loopback" in heard:
        return Finding(OK, "net", "shared: reached over 127.0.0.1, so ports are common as well")
    if same(own, other, "net"):
        reason = errors.get("loopback", "does something filter it?")
        return Finding(FAIL, "net", f"shared, but nothing came through 127.0.0.1: {reason}")
    return Finding(
        FAIL, "net", "not shared: neither tcp nor http will do between these two", _ONE_POD
    )


def _ipc(own: Facts, other: Facts) -> Finding:
    if same(own, other, "ipc"):
        return Finding(OK, "ipc", "shared: System V IPC and POSIX message queues are common")
    return Finding(
        WARN,
        "ipc",
        "not shared: System V IPC and POSIX message queues are not common. podipc uses neither",
        _ONE_POD,
    )


def _dev_shm(own: Facts, other: Facts) -> Finding:
    if same(own, other, "shm"):
        return Finding(OK, "/dev/shm", "shared")
    volumes = [
        here["target"]
        for here, there in _common(own, other)
        if not (here["in_place"] or here["read_only"] or there["read_only"])
    ]
    instead = (
        f"use shm://{volumes[0]}/NAME, a volume that both have"
        if volumes
        else "mount one emptyDir in both, at /shared, and use shm:///shared/NAME"
    )
    return Finding(
        FAIL,
        "/dev/shm",
        "not shared: a bare name, shm://NAME, is another channel in each. Does one of them have "
        "a volume at /dev/shm?",
        f"volumeMounts[mountPath: /dev/shm]: in both or in none; or {instead}",
    )


def _tensors(
    own: Facts,
    other: Facts,
    heard: Collection[str],
    hears: Collection[str],
    errors: Mapping[str, str],
) -> Finding:
    if "memory" in heard and "memory" in hears:
        return Finding(OK, "shm://", "a tensor came, and one went, through shared memory")
    half = "only one way" if "memory" in heard else "neither way"
    if not same(own, other, "meeting"):
        return Finding(
            FAIL,
            "shm://",
            f"tensors passed {half}: the two do not see one directory of channels",
            "env PODIPC_DIR: the same in both, on a volume that both mount; or see /dev/shm",
        )
    reason = errors.get("memory", "no error was seen; did the other one end early?")
    return Finding(
        FAIL, "shm://", f"tensors passed {half}, in a directory that is shared: {reason}"
    )


def _pid(own: Facts, other: Facts) -> Finding:
    if same(own, other, "pid"):
        return Finding(OK, "pid", "shared: they see each other's processes")
    return Finding(OK, "pid", "not shared, as usual: a PID of one means nothing in the other")


def _common(own: Facts, other: Facts) -> list[tuple[Facts, Facts]]:
    """Mounted directories that are one: the mount here, and there."""
    if own["boot"] != other["boot"]:
        return []
    there = {tuple(m["identity"]): m for m in other["mounts"] if m["identity"]}
    return [
        (mount, there[tuple(mount["identity"])])
        for mount in own["mounts"]
        if mount["identity"] and tuple(mount["identity"]) in there and mount["target"] != "/dev/shm"
    ]


def _mounts(own: Facts, other: Facts) -> Finding:
    found: list[str] = []
    rest: list[str] = []
    for here, there in _common(own, other):
        at, at_there = here["target"], there["target"]
        text = at if at == at_there else f"{at} ({at_there} there)"
        (rest if here["in_place"] and there["in_place"] else found).append(text)
    shown = found[:6] + ([f"{len(found) - 6} more"] if len(found) > 6 else [])
    if rest:  # the local runtime: programs of one machine
        shown.append("the directories of the machine")
    if not shown:
        return Finding(OK, "volumes", "none in common; unix, fifo and file would need one")
    return Finding(OK, "volumes", f"in common: {', '.join(shown)}")


def _users(own: Facts, other: Facts) -> Iterator[Finding]:
    here, there = own["uid"], other["uid"]
    if here == there:
        yield Finding(OK, "UID", f"{here} in both: every mode will do")
        return
    ours, theirs = {own["gid"], *own["groups"]}, {other["gid"], *other["groups"]}
    text = f"{here} here, {there} there: the default, mode=0o600, keeps them apart"
    if own["gid"] in theirs and other["gid"] in ours:
        yield Finding(
            WARN,
            "UID",
            f"{text}; both are in the group {own['gid']}",
            "mode=0o660 in podipc.sender() and receiver(), or one "
            "spec.securityContext.runAsUser for both",
        )
        return
    yield Finding(
        WARN,
        "UID",
        f"{text}. They have no common group for what each of them makes (GID {own['gid']} here, "
        f"{other['gid']} there)",
        "spec.securityContext.runAsGroup: one for both, and mode=0o660; or mode=0o666; or one "
        "spec.securityContext.runAsUser for both",
    )


def _programs(own: Facts, other: Facts) -> Iterator[Finding]:
    for key, what in (
        ("page_size", "page sizes"),
        ("byte_order", "byte orders"),
        ("arch", "machines"),
    ):
        if own[key] != other[key]:
            yield Finding(
                FAIL,
                "machine",
                f"{what} differ, {own[key]} here and {other[key]} there: shm is refused "
                "(VersionMismatch)",
                "image: one for the architecture of the node, in both",
            )
    if own["podipc"] != other["podipc"]:
        yield Finding(
            WARN,
            "podipc",
            f"{own['podipc']} here, {other['podipc']} there: they may refuse each other",
            "image: with the same podipc in both",
        )
    libcs = [str(found["libc"]).partition(" ")[0] for found in (own, other)]
    if libcs[0] != libcs[1]:
        yield Finding(
            WARN,
            "libc",
            f"{libcs[0]} here, {libcs[1]} there: ?wait=semaphore and podipc.Semaphore are not "
            "possible between them",
            "image: with the same libc in both; all else works",
        )
