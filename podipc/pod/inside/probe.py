"""What a container is and uses, as seen from inside: from /proc, /sys and statvfs alone.

Every value is JSON; None stands for what cannot be known here. Sizes are bytes.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import sys
import time
from typing import Any, Iterator  # noqa: UP035

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
MAX_MOUNTS = 500

_UNLIMITED = 1 << 60
_SECCOMP = ("disabled", "strict", "filter")
_PSEUDO = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl "
    "hugetlbfs mqueue nsfs proc pstore rpc_pipefs securityfs sysfs tracefs"
)
_PSEUDO_TYPES = frozenset(_PSEUDO.split())
_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = _CAPABILITIES.split()
"""By their number."""


class Group:
    """The cgroup of this process for one controller.

    Attributes
    ----------
    version
        1 or 2.
    path
        Its directory.
    point
        Where the hierarchy is mounted.
    own
        Whether it is the container's alone: neither that of the whole machine, nor one that
        a process outside is in as well.
    """

    def __init__(self, version: int, path: str, point: str, own: bool) -> None:
        self.version = version
        self.path = path
        self.point = point
        self.own = own

    def chain(self) -> Iterator[str]:
        """Its directory, and those above it that can be seen."""
        path = self.path
        while True:
            yield path
            if path == self.point or len(path) <= len(self.point):
                return
            path = os.path.dirname(path)


class Groups:
    """The cgroups of this process: ``memory``, ``cpu`` (quota) and ``cpuacct`` (use), or None.

    `outside` is what `whereabouts` says in a process that is not in the container. Without
    it, a group of version 1 that is not the machine's is taken for the container's own, and
    one of version 2 if all of its processes are in this PID namespace.
    """

    def __init__(self, outside: Any = None) -> None:
        mine = whereabouts()
        others = None
        if isinstance(outside, dict):
            same = outside["namespace"] == mine["namespace"]
            others = dict(outside["groups"]) if same else {}
        self.memory = _group("memory", mine["groups"], others)
        self.cpu = _group("cpu", mine["groups"], others)
        self.cpuacct = _group("cpuacct", mine["groups"], others)


def whereabouts() -> dict[str, Any]:
    """In which cgroups this process is: the namespace of the names, and the names."""
    groups = {}
    for line in _lines("/proc/self/cgroup"):
        fields = line.split(":", 2)
        if len(fields) == 3:
            groups[fields[1]] = fields[2]
    return {"namespace": namespace("cgroup"), "groups": groups}


def _group(name: str, mine: dict[str, str], others: dict[str, str] | None) -> Group | None:
    for version, wanted in ((1, name), (2, "")):
        for mounted, point, root in _cgroup_mounts():
            if wanted not in mounted:
                continue
            for controllers, group in mine.items():
                if wanted in controllers.split(","):
                    inside = os.path.relpath(group, root)
                    path = os.path.normpath(os.path.join(point, inside))
                    # A container that sees only its own group has that as the mount point.
                    if inside.startswith("..") or not os.path.isdir(path):
                        path = point
                    own = not _is_root(version, path)
                    if others is None:
                        own = own and not _has_foreigners(version, path)
                    elif controllers in others:
                        own = own and not _within(others[controllers], group)
                    return Group(version, path, point, own)
    return None


def _cgroup_mounts() -> Iterator[tuple[set[str], str, str]]:
    """Controllers, mount point and root of each hierarchy; of version 2 the controller ""."""
    for mount in mountinfo():
        if mount["fstype"] == "cgroup2":
            yield {""}, mount["target"], mount["root"]
        elif mount["fstype"] == "cgroup":
            yield set(mount["options"].split(",")), mount["target"], mount["root"]


def _within(group: str, above: str) -> bool:
    return group == above or group.startswith(above.rstrip("/") + "/")


def _is_root(version: int, path: str) -> bool:
    if version == 1:
        return os.path.exists(f"{path}/release_agent")
    return not os.path.exists(f"{path}/cgroup.type")


def _has_foreigners(version: int, path: str) -> bool:
    """Whether it has processes of another PID namespace, which version 2 lists as 0."""
    return version == 2 and "0" in _lines(f"{path}/cgroup.procs")


# What is used


def stats(groups: Groups) -> dict[str, Any]:
    """Memory and cpu time of the container, and what it may have of them.

    Keys: ``time`` (seconds of the machine's monotonic clock), ``memory`` (without the page
    cache that can be dropped at once), ``memory_charged`` (with it), ``memory_peak`` (of the
    latter), ``memory_limit``, ``memory_of``, ``cpu`` (seconds), ``cpu_limit`` (cpus),
    ``cpu_of``, ``processes``. What ``_of`` says it is of: ``cgroup`` or ``processes``.
    """
    found: dict[str, Any] = {"time": time.monotonic(), "memory_peak": None}
    pids = _pids()
    memory, cpu = groups.memory, groups.cpuacct
    from_group = _memory_of(memory) if memory is not None and memory.own else None
    seconds = _cpu_of(cpu) if cpu is not None and cpu.own else None
    summed = _sums(pids) if from_group is None or seconds is None else (None, None)
    if from_group is not None:
        found.update(from_group, memory_of="cgroup")
    else:
        found.update(memory=summed[0], memory_charged=None, memory_of="processes")
    if seconds is not None:
        found.update(cpu=seconds, cpu_of="cgroup")
    else:
        found.update(cpu=summed[1], cpu_of="processes")
    found["memory_limit"] = memory_limit(groups)
    found["cpu_limit"] = cpu_limit(groups)
    found["processes"] = None if pids is None else len(pids)
    return found


def memory_limit(groups: Groups) -> int | None:
    """The lowest limit of memory that its cgroups set; None if there is none."""
    group = groups.memory
    if group is None:
        return None
    if group.version == 1:
        rows = _table(f"{group.path}/memory.stat")
        limits = [rows.get("hierarchical_memory_limit"), _number(group.path, _LIMIT_V1)]
    else:
        limits = [_number(path, "memory.max") for path in group.chain()]
    there = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
    return min(there) if there else None


def cpu_limit(groups: Groups) -> float | None:
    """The lowest quota of cpu time that its cgroups set, in cpus; None if there is none."""
    group = groups.cpu
    limits = []
    for path in group.chain() if group is not None else ():
        if group is not None and group.version == 1:
            pair = [_read(f"{path}/cpu.cfs_quota_us"), _read(f"{path}/cpu.cfs_period_us")]
        else:
            pair = list(_read(f"{path}/cpu.max").split())
        if len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit() and int(pair[1]):
            limits.append(int(pair[0]) / int(pair[1]))
    return min(limits) if limits else None


_LIMIT_V1 = "memory.limit_in_bytes"


def _memory_of(group: Group) -> dict[str, Any] | None:
    v1 = group.version == 1
    charged = _number(group.path, "memory.usage_in_bytes" if v1 else "memory.current")
    if charged is None:
        return None
    rows = _table(f"{group.path}/memory.stat")
    cache = rows.get("total_inactive_file" if v1 else "inactive_file", 0)
    peak = _number(group.path, "memory.max_usage_in_bytes" if v1 else "memory.peak")
    return {
        "memory": max(0, charged - cache),
        "memory_charged": charged,
        "memory_peak": peak,
    }


def _cpu_of(group: Group) -> float | None:
    if group.version == 1:
        nanoseconds = _number(group.path, "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9
    microseconds = _table(f"{group.path}/cpu.stat").get("usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _pids() -> list[str] | None:
    """Of this PID namespace; None if /proc is that of another."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
        return [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None


def _sums(pids: list[str] | None) -> tuple[int | None, float | None]:
    """Resident bytes and cpu seconds of processes, with those of children waited for."""
    if pids is None:
        return None, None
    pages = ticks = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if len(fields) > 21:  # it may have ended meanwhile
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")


# What it is


def facts(groups: Groups) -> dict[str, Any]:
    """All that can be said of the container this process is in. Keys as in `podipc.pod.facts`."""
    status = status_of("self")
    return {
        "namespaces": {name: namespace(name) for name in NAMESPACES},
        "main": {"pid": 1, "command": command_of(1)},
        "hostname": platform.node(),
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "groups": sorted(os.getgroups()),
        "umask": int(status["Umask"], 8) if "Umask" in status else None,
        "capabilities": capabilities(status.get("CapEff", "0")),
        "seccomp": seccomp(status),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "shm": shm(),
        "mounts": mounts(),
        "addresses": addresses(),
        "limits": {
            "memory": memory_limit(groups),
            "cpus": cpu_limit(groups),
            "affinity": sorted(os.sched_getaffinity(0)),
        },
        "libc": libc(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "podipc": podipc_version(),
    }


def namespace(name: str, pid: int | str = "self") -> int | None:
    """The identity of a namespace; two processes with the same one share it."""
    try:
        return os.stat(f"/proc/{pid}/ns/{name}").st_ino
    except OSError:
        return None


def status_of(pid: int | str) -> dict[str, str]:
    """``/proc/PID/status``."""
    rows = (line.partition(":") for line in _lines(f"/proc/{pid}/status"))
    return {key: value.strip() for key, _, value in rows}


def command_of(pid: int) -> str:
    """The command line of a process, shortened; "" if it cannot be seen."""
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()[:200]


def capabilities(mask: str) -> list[str]:
    """The names of what is set in a mask, in hexadecimal."""
    bits = int(mask, 16)
    names = [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]
    unknown = range(len(CAPABILITIES), bits.bit_length())
    return names + [f"CAP_{number}" for number in unknown if bits >> number & 1]


def seccomp(status: dict[str, str]) -> str | None:
    """``disabled``, ``strict`` or ``filter``."""
    mode = status.get("Seccomp", "")
    return _SECCOMP[int(mode)] if mode.isdigit() and int(mode) < len(_SECCOMP) else None


def shm() -> dict[str, Any] | None:
    """The ``/dev/shm`` of this process."""
    try:
        there, space = os.stat("/dev/shm"), os.statvfs("/dev/shm")
    except OSError:
        return None
    kinds = [mount["fstype"] for mount in mountinfo() if mount["target"] == "/dev/shm"]
    return {
        "fstype": kinds[-1] if kinds else None,
        "size": space.f_blocks * space.f_frsize,
        "free": space.f_bavail * space.f_frsize,
        "dev": there.st_dev,
        "ino": there.st_ino,
        "read_only": bool(space.f_flag & os.ST_RDONLY),
    }


def mountinfo() -> Iterator[dict[str, str]]:
    """``/proc/self/mountinfo``: target, root, dev, fstype, source, flags, options of each."""
    for line in _lines("/proc/self/mountinfo"):
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(), after.split(" ")
        if dash and len(fields) >= 6 and len(rest) >= 3:
            yield {
                "target": _unescaped(fields[4]),
                "root": _unescaped(fields[3]),
                "dev": fields[2],
                "fstype": rest[0],
                "source": _unescaped(rest[1]),
                "flags": fields[5],
                "options": rest[2],
            }


def mounts() -> list[dict[str, Any]]:
    """What files can be in, without the kernel's own file systems; at most `MAX_MOUNTS`."""
    found = {}
    for mount in mountinfo():
        if mount["fstype"] in _PSEUDO_TYPES or mount["target"].startswith(("/proc/", "/sys/")):
            continue
        try:
            space = os.statvfs(mount["target"])
        except OSError:
            continue
        # A later one at the same place hides the one before.
        found[mount["target"]] = {
            **{key: mount[key] for key in ("target", "fstype", "source", "root", "dev")},
            "size": space.f_blocks * space.f_frsize,
            "free": space.f_bavail * space.f_frsize,
            "read_only": bool(space.f_flag & os.ST_RDONLY),
        }
    return list(found.values())[:MAX_MOUNTS]


def addresses() -> list[str]:
    """The IP addresses of this network namespace, IPv4 first."""
    found, last = [], ""
    for line in _lines("/proc/net/fib_trie"):
        text = line.strip()
        if text.startswith("|--"):
            last = text[3:].strip()
        elif text.startswith("/32 host LOCAL") and last not in found:
            found.append(last)
    for line in _lines("/proc/net/if_inet6"):
        digits = line.partition(" ")[0]
        if not digits:  # without IPv6 the file is empty, or not there
            continue
        groups = [digits[i : i + 4] for i in range(0, 32, 4)]
        found.append(_short_ipv6(":".join(groups)))
    return found


def _short_ipv6(text: str) -> str:
    import ipaddress

    return str(ipaddress.ip_address(text))


def libc() -> str:
    """The C library and its version; musl does not tell `platform.libc_ver`."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
        if version:
            return version
    except (OSError, ValueError):
        pass
    named = " ".join(platform.libc_ver()).strip()
    return named or ("musl" if glob.glob("/lib/ld-musl-*") else "unknown")


def podipc_version() -> str | None:
    """Of the podipc that is installed for this Python; None if there is none."""
    module = sys.modules.get("podipc")
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        return version
    from importlib import metadata

    try:
        return metadata.version("podipc")
    except metadata.PackageNotFoundError:
        return None


# Files of the kernel


def _read(path: str) -> str:
    """Its text, "" if there is none."""
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


def _lines(path: str) -> list[str]:
    return _read(path).split("\n")


def _number(directory: str, name: str) -> int | None:
    text = _read(f"{directory}/{name}")
    return int(text) if text.isdigit() else None


def _table(path: str) -> dict[str, int]:
    rows = (line.split(" ", 1) for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
