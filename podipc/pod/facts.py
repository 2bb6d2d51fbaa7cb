"""What containers use, and what they are and share, as they see it themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from podipc.console import printable, size
from podipc.pod import manifest as manifests
from podipc.pod.errors import PodError

__all__ = ["Facts", "Stats"]

WIDTH = 80
_LONGEST = 4096
"""Characters of a text that are kept."""


@dataclass(frozen=True)
class Stats:
    """What a container uses at one moment. Sizes in bytes; None: not known, or no limit.

    Attributes
    ----------
    container
        Its name.
    time
        Seconds of the monotonic clock of the machine it runs on; for differences.
    memory
        In use, without the page cache that the kernel can drop at once; what ``kubectl top``
        shows.
    memory_charged
        With that page cache.
    memory_peak
        The most that was ever charged.
    memory_limit
        What its cgroups allow.
    memory_of
        ``cgroup``: of the container's own. ``processes``: it has none, and this is the sum of
        the resident memory of its processes, in which shared pages count several times.
    cpu
        Seconds of cpu time so far.
    cpu_limit
        Its quota, in cpus.
    cpu_of
        As `memory_of`; a sum over processes misses those that ended unobserved.
    processes
        How many it has, the Python that answers included.
    """

    container: str
    time: float
    memory: int | None
    memory_charged: int | None
    memory_peak: int | None
    memory_limit: int | None
    memory_of: str
    cpu: float | None
    cpu_limit: float | None
    cpu_of: str
    processes: int | None

    @classmethod
    def of(cls, container: str, data: Mapping[str, Any]) -> Stats:
        """From what `inside.probe.stats` says.

        Raises
        ------
        PodError
            It is something else.
        """
        read = _Reader(container, data)
        return cls(
            container=container,
            time=read.number("time") or 0.0,
            memory=read.whole("memory"),
            memory_charged=read.whole("memory_charged"),
            memory_peak=read.whole("memory_peak"),
            memory_limit=read.whole("memory_limit"),
            memory_of=read.text("memory_of"),
            cpu=read.number("cpu"),
            cpu_limit=read.number("cpu_limit"),
            cpu_of=read.text("cpu_of"),
            processes=read.whole("processes"),
        )

    def __str__(self) -> str:
        limit = f" of {size(self.memory_limit)}" if self.memory_limit is not None else ""
        quota = f" of {self.cpu_limit:g} cpus" if self.cpu_limit is not None else ""
        cpu = "?" if self.cpu is None else f"{self.cpu:.2f}"
        return (
            f"{self.container}: {size(self.memory)}{limit} ({self.memory_of}), "
            f"{cpu} s of cpu time{quota} ({self.cpu_of}), {self.processes} processes"
        )


class _Reader:
    """Values of the types that are expected, out of what a container says."""

    def __init__(self, container: str, data: Mapping[str, Any]) -> None:
        self._container = container
        self._data = data

    def _get(self, key: str, *kinds: type) -> Any:
        value = self._data.get(key)
        if value is not None and type(value) not in kinds:
            raise PodError(f"container {self._container!r} says of its {key}: {value!r:.100}")
        return value

    def whole(self, key: str) -> int | None:
        found: int | None = self._get(key, int)
        return found

    def number(self, key: str) -> float | None:
        found = self._get(key, int, float)
        return None if found is None else float(found)

    def text(self, key: str) -> str:
        return printable((self._get(key, str) or "")[:_LONGEST])

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool))

    def inner(self, key: str) -> _Reader:
        return _Reader(self._container, self._get(key, dict) or {})

    def every(self, key: str, kind: type) -> list[Any]:
        found = self._get(key, list) or []
        for value in found:
            if type(value) is not kind:
                raise PodError(f"container {self._container!r} says of its {key}: {value!r:.100}")
        return [printable(value[:_LONGEST]) if kind is str else value for value in found]

    def within(self, values: Iterable[Any]) -> list[_Reader]:
        return [_Reader(self._container, value) for value in values]


@dataclass(frozen=True)
class Space:
    """A file system as a container sees it.

    Attributes
    ----------
    target
        Where it is mounted.
    fstype, source
        What it is.
    device, root
        Which: two mounts with the same ones show the same files.
    size, free
        Bytes.
    read_only
        Whether this mount may not be written to.
    """

    target: str
    fstype: str
    source: str
    device: str
    root: str
    size: int | None
    free: int | None
    read_only: bool


@dataclass(frozen=True)
class ContainerFacts:
    """What one container is, as seen from inside. None: not known, or no limit.

    Attributes
    ----------
    namespaces
        Identity by name: ``cgroup``, ``ipc``, ``mnt``, ``net``, ``pid``, ``time``, ``user``,
        ``uts``.
    main
        The command of its PID 1.
    hostname, uid, gid, groups, umask
        Of a program that is started in it.
    capabilities
        The effective ones, without ``CAP_``.
    seccomp
        ``disabled``, ``strict`` or ``filter``.
    no_new_privs
        Whether set-UID programs have no effect.
    shm
        Its ``/dev/shm``.
    mounts
        Where files can be, without the kernel's own file systems.
    addresses
        IP addresses.
    memory, cpus, affinity
        Limits: bytes, cpu time per time, numbers of the cpus it may run on.
    libc, kernel, python, podipc
        Versions; of podipc "" if it is not installed there.
    """

    namespaces: dict[str, int | None]
    main: str
    hostname: str
    uid: int | None
    gid: int | None
    groups: list[int]
    umask: int | None
    capabilities: list[str]
    seccomp: str
    no_new_privs: bool
    shm: Space | None
    mounts: list[Space]
    addresses: list[str]
    memory: int | None
    cpus: float | None
    affinity: list[int]
    libc: str
    kernel: str
    python: str
    podipc: str

    @classmethod
    def of(cls, container: str, data: Mapping[str, Any]) -> ContainerFacts:
        """From what `inside.probe.facts` says; raises `PodError` if it is something else."""
        read = _Reader(container, data)
        limits, names, shm = read.inner("limits"), read.inner("namespaces"), read.inner("shm")
        return cls(
            namespaces={name: names.whole(name) for name in _NAMESPACES},
            main=read.inner("main").text("command"),
            hostname=read.text("hostname"),
            uid=read.whole("uid"),
            gid=read.whole("gid"),
            groups=read.every("groups", int),
            umask=read.whole("umask"),
            capabilities=read.every("capabilities", str),
            seccomp=read.text("seccomp"),
            no_new_privs=read.flag("no_new_privs"),
            shm=_shm(shm) if data.get("shm") is not None else None,
            mounts=[_space(mount) for mount in read.within(read.every("mounts", dict))],
            addresses=read.every("addresses", str),
            memory=limits.whole("memory"),
            cpus=limits.number("cpus"),
            affinity=limits.every("affinity", int),
            libc=read.text("libc"),
            kernel=read.text("kernel"),
            python=read.text("python"),
            podipc=read.text("podipc"),
        )


_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def _space(mount: _Reader) -> Space:
    return Space(
        target=mount.text("target"),
        fstype=mount.text("fstype"),
        source=mount.text("source"),
        device=mount.text("dev"),
        root=mount.text("root"),
        size=mount.whole("size"),
        free=mount.whole("free"),
        read_only=mount.flag("read_only"),
    )


def _shm(shm: _Reader) -> Space:
    return Space(
        target="/dev/shm",
        fstype=shm.text("fstype"),
        source="",
        device=str(shm.whole("dev")),
        root=str(shm.whole("ino")),
        size=shm.whole("size"),
        free=shm.whole("free"),
        read_only=shm.flag("read_only"),
    )


@dataclass(frozen=True)
class Shared:
    """What the containers of a Pod have in common.

    Attributes
    ----------
    namespaces
        Of each namespace, whether all of them share it; None where it is not known.
    matrix
        Of each pair of containers, the namespaces they share, by name.
    shm
        Whether all see the same ``/dev/shm``.
    volumes
        File systems that several see, each as pairs of container and mount point; those of
        the manifest only.
    """

    namespaces: dict[str, bool | None]
    matrix: dict[tuple[str, str], list[str]]
    shm: bool
    volumes: list[list[tuple[str, str]]]


@dataclass(frozen=True)
class Facts:
    """What the containers of a Pod are and share; made by `Pod.facts`.

    ``str()`` is a table, and a notebook shows one.

    Attributes
    ----------
    pod
        Its name.
    containers
        By name, those that ran.
    targets
        Of each container, where the manifest mounts volumes.
    """

    pod: str
    containers: dict[str, ContainerFacts]
    targets: dict[str, list[str]]

    @classmethod
    def of(cls, spec: manifests.Pod, data: Mapping[str, Mapping[str, Any]]) -> Facts:
        """From what `inside.probe.facts` says in each container."""
        return cls(
            spec.name,
            {name: ContainerFacts.of(name, said) for name, said in data.items()},
            {c.name: [m.target for m in c.mounts] for c in spec.everyone() if c.name in data},
        )

    def shared(self) -> Shared:
        """Namespace by namespace, ``/dev/shm`` and volumes: what they have in common."""
        every = self.containers
        namespaces: dict[str, bool | None] = {}
        for name in _NAMESPACES:
            ids = [facts.namespaces[name] for facts in every.values()]
            namespaces[name] = None if None in ids else len(set(ids)) <= 1
        matrix = {
            (a, b): [
                name
                for name, number in every[a].namespaces.items()
                if number is not None and number == every[b].namespaces[name]
            ]
            for a in every
            for b in every
        }
        shms = {(f.shm.device, f.shm.root) if f.shm else None for f in every.values()}
        return Shared(namespaces, matrix, len(shms) == 1 and None not in shms, self._volumes())

    def _volumes(self) -> list[list[tuple[str, str]]]:
        places: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for name, facts in self.containers.items():
            for mount in facts.mounts:
                if mount.target in self.targets[name]:
                    places.setdefault((mount.device, mount.root), []).append((name, mount.target))
        return [found for found in places.values() if len({name for name, _ in found}) > 1]

    def to_json(self) -> str:
        """All of it as a JSON object: ``pod``, ``containers``, ``shared``."""
        shared = self.shared()
        document = {
            "pod": self.pod,
            "containers": {name: _plain(facts) for name, facts in self.containers.items()},
            "shared": {
                "namespaces": shared.namespaces,
                "pairs": [[a, b, names] for (a, b), names in shared.matrix.items()],
                "shm": shared.shm,
                "volumes": shared.volumes,
            },
        }
        return json.dumps(document, indent=2)

    def __str__(self) -> str:
        from podipc.pod.facts_table import table

        return table(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from podipc.pod.facts_html import html

        return html(self)


def _plain(facts: ContainerFacts) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(facts)
