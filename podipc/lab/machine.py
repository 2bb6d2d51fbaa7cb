"""What a measurement was made on: kept with every result.

Every value fits into JSON; None stands for what cannot be known here.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from podipc import _core
from podipc.doctor import facts
from podipc.pod.inside import probe

PACKAGES = ("podipc", "numpy", "iceoryx2", "pyzmq", "faster-fifo", "safetensors")


def describe() -> dict[str, Any]:
    """All of it: ``host``, ``container`` (this process's) and ``versions``."""
    return {"host": host(), "container": container(), "versions": versions()}


def host() -> dict[str, Any]:
    """The machine.

    Keys: ``cpu`` (model), ``arch``, ``cpus`` (online), ``memory`` (bytes),
    ``page_size`` (bytes), ``kernel``, ``byte_order``, ``load`` (of the last minute),
    ``governor`` (of cpu frequency), ``thp`` and ``thp_shmem`` (transparent huge pages
    for private and for shared memory), ``virtual`` (in a virtual machine).
    """
    return {
        "cpu": _cpu_model(),
        "arch": platform.machine(),
        "cpus": os.cpu_count(),
        "memory": facts.machine_memory(),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "byte_order": sys.byteorder,
        "load": os.getloadavg()[0],
        "governor": facts.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "thp": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "thp_shmem": _chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "virtual": _virtual(),
    }


def container() -> dict[str, Any]:
    """What this process sees of the container it runs in.

    Keys: ``pid``, ``uid``, ``hostname``, ``cpus`` (those it may run on), ``limits``,
    ``shm`` (of ``/dev/shm``: bytes ``size`` and ``free``, and its ``device``), ``namespaces``
    (name to identity; two processes with the same one share it).
    """
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "hostname": platform.node(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "limits": limits(),
        "shm": _shm(),
        "namespaces": {name: facts.link(f"/proc/self/ns/{name}") for name in facts.NAMESPACES},
    }


def limits() -> dict[str, Any]:
    """What its cgroups leave it, as the C core goes by it; None: no limit.

    Keys: ``memory`` (bytes) and ``cpus`` (processors' worth of time).
    """
    found = _core.limits()
    memory, cpus = found["memory"], found["cpus"]
    return {
        "memory": memory if memory < (facts.machine_memory() or 0) else None,
        "cpus": cpus if cpus < len(os.sched_getaffinity(0)) else None,
    }


def place(path: Path) -> dict[str, str | None]:
    """A directory, and what it is on: ``path``, ``filesystem`` (as tmpfs or ext4)."""
    mount = facts.mount_of(str(path))
    return {"path": str(path), "filesystem": None if mount is None else mount["type"]}


def versions() -> dict[str, str]:
    """Versions of what takes part in a measurement, where installed."""
    found = {"python": platform.python_version(), "libc": probe.libc()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _chosen(path: str) -> str | None:
    """Of ``always [madvise] never`` the one in brackets."""
    found = re.search(r"\[(\w+)\]", facts.read(path) or "")
    return found[1] if found else None


def _shm() -> dict[str, int] | None:
    found = probe.shm()
    if found is None:
        return None
    return {"size": found["size"], "free": found["free"], "device": found["dev"]}


def _cpu_model() -> str:
    for line in (facts.read("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _virtual() -> bool | None:
    """x86 says it in the flags of the processor; others by what the firmware names."""
    if re.search(r"^flags\b.*\bhypervisor\b", facts.read("/proc/cpuinfo") or "", re.MULTILINE):
        return True
    if facts.read("/sys/hypervisor/type") or facts.read("/proc/device-tree/hypervisor/compatible"):
        return True
    return False if platform.machine() in ("x86_64", "i686") else None
