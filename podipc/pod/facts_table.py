"""`Facts` as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from podipc.console import size
from podipc.pod.facts import WIDTH, ContainerFacts, Facts, Shared

_COLUMNS = 4
"""Containers in the first table; what each two share is below it."""

EXPLAINED = {
    "cgroup": "names of cgroups",
    "ipc": "System V, message queues",
    "mnt": "mounts",
    "net": "127.0.0.1, ports",
    "pid": "processes",
    "time": "monotonic clock",
    "user": "UIDs",
    "uts": "host name",
}


def table(facts: Facts) -> str:
    """What is shared, then each container by itself."""
    if not facts.containers:
        return f"Pod {facts.pod}: no container runs"
    lines = [f"Pod {facts.pod}, seen from inside its containers", "", *_shared(facts)]
    return "\n".join(line.rstrip() for line in [*lines, *each(facts)])


def each(facts: Facts) -> list[str]:
    """Each container by itself, an empty line before each."""
    lines = []
    for name, one in facts.containers.items():
        lines += ["", name, *_container(one, facts.targets[name])]
    return lines


def _shared(facts: Facts) -> list[str]:
    shared = facts.shared()
    names = list(facts.containers)[:_COLUMNS]
    width = min(max(map(len, names)), (WIDTH - 46) // len(names) - 1)
    rows = [
        (name, EXPLAINED[name], word(all_of_them), _letters(facts, name, width))
        for name, all_of_them in shared.namespaces.items()
    ]
    shms = [
        f"{one.shm.device}:{one.shm.root}" if one.shm else "" for one in facts.containers.values()
    ]
    rows.append(("/dev/shm", "shared memory", word(shared.shm), _same(shms, width)))
    lines = [f"{'':10}{'':27}{'':9}{_row(names, width)}"]
    lines += [f"{name:10}{text:27}{word:9}{letters}" for name, text, word, letters in rows]
    lines += _pairs(facts, shared)
    for places in shared.volumes:
        lines += _wrapped("volume", "  =  ".join(f"{name}:{path}" for name, path in places))
    return lines


def word(value: bool | None) -> str:
    """How it is called."""
    return {True: "shared", False: "private", None: "?"}[value]


def _row(cells: list[str], width: int) -> str:
    return " ".join(f"{cell:{width}.{width}}" for cell in cells[:_COLUMNS])


def _letters(facts: Facts, name: str, width: int) -> str:
    return _same([str(one.namespaces[name] or "") for one in facts.containers.values()], width)


def _same(values: list[str], width: int) -> str:
    return _row(letters(values), width)


def letters(values: Sequence[str]) -> list[str]:
    """The same letter for the same thing; ``?`` for what is not known."""
    known: dict[str, str] = {}
    for value in values:
        if value and value not in known:
            known[value] = chr(ord("A") + len(known) % 26)
    return [known.get(value, "?") for value in values]


def _pairs(facts: Facts, shared: Shared) -> list[str]:
    """How many namespaces each two share, where there are more than two containers."""
    names = list(facts.containers)
    if len(names) < 3:
        return []
    lines = ["", "what each two share"]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            text = f"{a}, {b}: {', '.join(shared.matrix[a, b]) or 'nothing'}"
            lines += textwrap.wrap(text, WIDTH - 1, initial_indent="  ", subsequent_indent="    ")
    return lines


def _container(one: ContainerFacts, targets: list[str]) -> list[str]:
    groups = f", groups {','.join(map(str, one.groups))}" if one.groups else ""
    umask = "" if one.umask is None else f", umask {one.umask:03o}"
    rows = [
        ("PID 1", one.main or "?"),
        ("host name", f"{one.hostname}; addresses {', '.join(one.addresses) or 'none'}"),
        ("user", f"UID {one.uid}, GID {one.gid}{groups}{umask}"),
        ("rights", _rights(one)),
        ("limits", _limits(one)),
        ("software", _software(one)),
    ]
    if one.shm is not None:
        rows.append(
            ("/dev/shm", f"{one.shm.fstype}, {size(one.shm.size)}, {size(one.shm.free)} free")
        )
    for mount in one.mounts:
        if mount.target in targets:
            only = ", read-only" if mount.read_only else ""
            space = f"{mount.fstype}, {size(mount.size)}, {size(mount.free)} free{only}"
            rows.append(("volume", f"{mount.target}: {space}"))
    return [line for name, text in rows for line in _wrapped(f"  {name}", text)]


def _rights(one: ContainerFacts) -> str:
    has = len(one.capabilities)
    listed = ", ".join(one.capabilities) if has <= 14 else f"{has} of them"
    privileges = "no new privileges" if one.no_new_privs else "may gain privileges"
    return f"capabilities: {listed or 'none'}; seccomp {one.seccomp or '?'}; {privileges}"


def _limits(one: ContainerFacts) -> str:
    memory = "no memory limit" if one.memory is None else f"memory {size(one.memory)}"
    cpus = "no cpu quota" if one.cpus is None else f"{one.cpus:g} cpus"
    return f"{memory}, {cpus}; may run on {len(one.affinity)} cpus"


def _software(one: ContainerFacts) -> str:
    podipc = f"podipc {one.podipc}" if one.podipc else "no podipc"
    return f"Linux {one.kernel}, {one.libc}, Python {one.python}, {podipc}"


def _wrapped(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text or "-", WIDTH - 1, initial_indent=f"{name:12} ", subsequent_indent=" " * 13
    )
