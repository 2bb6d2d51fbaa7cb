"""What can be read about the container this process is in. Nothing here judges.

Everything fits into JSON; None stands for what cannot be known here.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import Any

import podipc
from podipc.pod.inside import probe

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The one that the machine starts with; the number is fixed in the kernel."""
MAX_MOUNTS = 100
_NOT_VOLUMES = re.compile(
    r"/(proc|sys|boot|dev(?!/shm)|(var/)?run/(secrets|netns|user|lock|containers|containerd)"
    r"|var/lib/(containers|containerd|docker|kubelet))(/|$)"
)


def collect() -> dict[str, Any]:
    """All of it, for another doctor and for JSON."""
    return {
        "podipc": podipc.__version__,
        "hostname": platform.node(),
        "pid": os.getpid(),
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "groups": sorted(os.getgroups()),
        "umask": umask(),
        "libc": probe.libc(),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "byte_order": sys.byteorder,
        "boot": read("/proc/sys/kernel/random/boot_id"),
        "namespaces": {name: link(f"/proc/self/ns/{name}") for name in NAMESPACES},
        "shm": identity("/dev/shm"),
        "mounts": volumes(),
    }


def read(path: str, limit: int = 1 << 20) -> str | None:
    """The text of a file, without white space at its ends."""
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode(errors="replace").strip()
    except OSError:
        return None


def link(path: str) -> str | None:
    """Where a symbolic link points to."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def sysctl(name: str) -> int | None:
    """A number below /proc/sys."""
    text = read(f"/proc/sys/{name}")
    try:
        return int(text) if text else None
    except ValueError:
        return None


def umask() -> int | None:
    """The file mode mask, without changing it even for a moment."""
    text = probe.status_of("self").get("Umask")
    return int(text, 8) if text else None


def identity(path: str) -> list[int] | None:
    """Device and inode: two processes for which they are equal see one directory."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return [about.st_dev, about.st_ino]


def mounts() -> list[dict[str, Any]]:
    """What is mounted where, the last one on top.

    Keys: ``target``, ``type`` (of file system), ``read_only``, and ``in_place``: it is at the
    path that it has in its file system, as the root is and what is no volume of a Pod.
    """
    return [
        {
            "target": mount["target"],
            "type": mount["fstype"],
            "read_only": "ro" in mount["flags"].split(","),
            "in_place": mount["root"] == mount["target"],
        }
        for mount in probe.mountinfo()
    ]


def volumes() -> list[dict[str, Any]]:
    """Mounted directories that may be volumes of a Pod first, then others; with `identity`."""
    found: dict[str, dict[str, Any]] = {}
    for mount in mounts():
        target = mount["target"]
        if not _NOT_VOLUMES.match(target) and os.path.isdir(target):
            found[target] = {**mount, "identity": identity(target)}
    return sorted(found.values(), key=_plainness)[:MAX_MOUNTS]


def _plainness(mount: dict[str, Any]) -> tuple[bool, int]:
    return mount["in_place"], mount["target"].count("/")


def mount_of(path: str) -> dict[str, Any] | None:
    """The mount in which a path is, or would be."""
    path = os.path.realpath(path)
    best = None
    for mount in mounts():
        target = mount["target"].rstrip("/")
        inside = path == target or path.startswith(f"{target}/")
        if inside and (best is None or len(target) >= len(best["target"].rstrip("/"))):
            best = mount
    return best


IMAGES = ("overlay", "fuse.fuse-overlayfs", "aufs", "btrfs", "zfs")
"""File systems that a container has its image on; a root that is none of them is the host's."""


def is_private(mount: dict[str, Any]) -> bool:
    """Whether it is the image of this container, which no other container sees."""
    return mount["target"] == "/" and mount["type"] in IMAGES and in_container()


def in_container() -> bool:
    """Whether this is a container, and not the host."""
    return (
        link("/proc/self/ns/pid") not in (None, FIRST_PID_NAMESPACE)
        or "KUBERNETES_SERVICE_HOST" in os.environ
        or any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv"))
    )


def machine_memory() -> int | None:
    """Bytes of the machine."""
    found = re.search(r"^MemTotal:\s*(\d+) kB", read("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def swap() -> tuple[int, int]:
    """Bytes of swap of the machine: all, and used."""
    text = read("/proc/meminfo") or ""
    total, free = (re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE) for key in _SWAP)
    if not total or not free:
        return 0, 0
    return int(total[1]) * 1024, (int(total[1]) - int(free[1])) * 1024


_SWAP = ("SwapTotal", "SwapFree")


def zombies() -> list[tuple[int, str]]:
    """PID and name of those that have ended and were left to PID 1, which has not looked."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        rows = probe.status_of(entry.name)
        if rows.get("State", "").startswith("Z") and rows.get("PPid") == "1":
            found.append((int(entry.name), rows.get("Name", "?")))
    return found
