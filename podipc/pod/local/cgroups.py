"""Memory and cpu limits of containers, as cgroups, where this process may make them.

Version 1 and 2 and the mixture of both. A group for the Pod is made below the group
of this process, or, in version 2, where processes and groups may not be in one place,
beside it; a group for each container with a limit is made in that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from podipc.pod.manifest import Container

_PERIOD = 100_000
"""Microseconds; what Kubernetes takes."""


@dataclass
class Limits:
    """What there is for one container: groups that it joins, and what could not be limited."""

    groups: list[Path] = field(default_factory=list)
    memory: Path | None = None
    refused: dict[str, str] = field(default_factory=dict)

    def kills(self) -> int:
        """How often the kernel has killed in there for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            if self.memory is not None:
                with contextlib.suppress(OSError, ValueError):
                    rows = (self.memory / name).read_text().splitlines()
                    return int(dict(row.split() for row in rows)["oom_kill"])
        return 0


@dataclass(frozen=True)
class Controller:
    """Where groups of a controller can be made, or why not."""

    version: int
    parent: Path | None
    reason: str = ""


def controllers() -> dict[str, Controller]:
    """For memory and cpu, where this process could make groups."""
    found = {name: _controller(name) for name in ("memory", "cpu")}
    parents = {c.parent for c in found.values() if c.version == 2 and c.parent is not None}
    if len(parents) > 1:
        # A process is in one group of version 2, so both limits have to be set there. What a
        # group hands on is handed on by those above it as well: the upper one has both.
        upper = min(parents, key=lambda path: len(path.parts))
        return dict.fromkeys(found, Controller(2, upper))
    return found


def groups(
    pod: str, containers: Mapping[str, Container], found: Mapping[str, Controller]
) -> dict[Path, None]:
    """The directories that `make` will make, those above first."""
    paths: dict[Path, None] = {}
    for container in containers.values():
        for name in _wanted(container):
            parent = found[name].parent
            if parent is not None:
                paths[parent / pod] = None
                paths[parent / pod / container.name] = None
    return dict.fromkeys(sorted(paths, key=lambda path: len(path.parts)))


def make(
    pod: str, containers: Mapping[str, Container], found: Mapping[str, Controller]
) -> dict[str, Limits]:
    """Make the groups and set the limits; what is refused is in `Limits.refused`."""
    made = {}
    for container in containers.values():
        limits = made[container.name] = Limits()
        for name in _wanted(container):
            controller = found[name]
            if controller.parent is None:
                limits.refused[name] = controller.reason
                continue
            group = controller.parent / pod / container.name
            try:
                _make(group, controller, name)
                _limit(group, controller.version, name, container)
            except OSError as error:
                where = error.filename or group
                limits.refused[name] = f"{where}: {error.strerror}"
                continue
            if group not in limits.groups:
                limits.groups.append(group)
            if name == "memory":
                limits.memory = group
    return made


def _wanted(container: Container) -> list[str]:
    asked = {"memory": container.memory, "cpu": container.cpu}
    return [name for name, amount in asked.items() if amount is not None]


def _make(group: Path, controller: Controller, name: str) -> None:
    for path in (group.parent, group):
        path.mkdir(exist_ok=True)
        if controller.version == 2 and path != group:
            _write(path / "cgroup.subtree_control", f"+{name}")


def _limit(group: Path, version: int, name: str, container: Container) -> None:
    if name == "memory":
        own, swap = (
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            if version == 1
            else ("memory.max", "memory.swap.max")
        )
        _write(group / own, str(container.memory))
        # A container that swaps instead of ending is of no use to anybody.
        with contextlib.suppress(OSError):
            _write(group / swap, str(container.memory) if version == 1 else "0")
    elif container.cpu is not None:
        quota = max(1000, round(container.cpu * _PERIOD))
        if version == 1:
            _write(group / "cpu.cfs_period_us", str(_PERIOD))
            _write(group / "cpu.cfs_quota_us", str(quota))
        else:
            _write(group / "cpu.max", f"{quota} {_PERIOD}")


def _write(path: Path, text: str) -> None:
    # Not write_text(), which would make a file where the kernel has none.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)


def _controller(name: str) -> Controller:
    mounts = _mounts()
    if name in mounts:
        point, root = mounts[name]
        own = _own(name, point, root)
        if not os.access(own, os.W_OK):
            return Controller(1, None, f"{own} is not writable for UID {os.geteuid()}")
        return Controller(1, own)
    if "" not in mounts:
        return Controller(2, None, "no cgroups are mounted here")
    point, root = mounts[""]
    own = _own("", point, root)
    reason = f"no group around {own} has the controller {name} and can be written"
    # A group with processes in it, such as our own, cannot hand controllers on. What
    # is not handed on yet is left so: it would change the groups of others.
    for group in [own, *own.parents]:
        if not group.is_relative_to(point):
            break
        if not os.access(group, os.W_OK) or not os.access(group / "cgroup.procs", os.W_OK):
            continue
        with contextlib.suppress(OSError):
            if name in (group / "cgroup.subtree_control").read_text().split():
                return Controller(2, group)
    return Controller(2, None, reason)


def _mounts() -> dict[str, tuple[Path, str]]:
    """Mount point and root of each controller of version 1; of version 2 under ""."""
    found: dict[str, tuple[Path, str]] = {}
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split()[3:5]
        if kind == "cgroup2":
            found[""] = (Path(point), root)
        elif kind == "cgroup":
            for option in options.split(","):
                found[option] = (Path(point), root)
    return found


def _own(name: str, point: Path, root: str) -> Path:
    for line in _lines("/proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if name in controllers.split(","):
            inside = os.path.relpath(group, root)
            path = point / inside
            if not inside.startswith("..") and path.is_dir():
                return path
    # Of a container that sees its own group only, that is the mount point.
    return point


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
