"""What a measurement was made on: kept with every result."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("podipc", "numpy", "iceoryx2", "pyzmq", "faster-fifo", "safetensors")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def limits() -> dict[str, Any]:
    """The memory limit in bytes and the cpu quota in CPUs, from cgroup v2 or v1; None: none."""
    memory = _number(_read("/sys/fs/cgroup/memory.max"))
    if memory is None:
        memory = _number(_read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    if memory is not None and memory >= 1 << 60:  # how v1 writes "none"
        memory = None
    quota, period = None, None
    if text := _read("/sys/fs/cgroup/cpu.max"):
        first, _, second = text.partition(" ")
        quota, period = _number(first), _number(second)
    else:
        quota = _number(_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        period = _number(_read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    return {"memory": memory, "cpus": quota / period if quota and period else None}


def _shm() -> dict[str, int] | None:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return {"size": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}


def container() -> dict[str, Any]:
    """What a process sees of the container it runs in."""
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "hostname": platform.node(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "limits": limits(),
        "shm": _shm(),
        "namespaces": {
            name: os.readlink(f"/proc/self/ns/{name}")
            for name in ("ipc", "mnt", "net", "pid", "uts")
        },
    }


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Versions of what takes part in a measurement, where installed."""
    found = {"python": platform.python_version(), "libc": " ".join(platform.libc_ver())}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def host() -> dict[str, Any]:
    """The machine."""
    memory = _number(
        (_read("/proc/meminfo") or "").partition("MemTotal:")[2].split("kB")[0].strip()
    )
    return {
        "cpu": _cpu_model(),
        "arch": platform.machine(),
        "cpus": os.cpu_count(),
        "memory": memory * 1024 if memory else None,
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "byte_order": sys.byteorder,
        "load": os.getloadavg()[0],
    }
