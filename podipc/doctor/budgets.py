"""Of a manifest: memory and processors against what podipc and the volumes take."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from podipc.console import size
from podipc.doctor.addresses import Use, may_use_shm, uses_podipc, whole
from podipc.doctor.finding import FAIL, WARN, Finding
from podipc.pod.manifest import Container, Pod, Volume

INTERPRETER = 40 << 20
"""Bytes that a process has with Python, numpy and podipc, before it has any tensor."""
DEV_SHM = 64 << 20
_NUMBER = r"(0x(?:_?[\da-fA-F]){1,16}|\d(?:_?\d){0,17})(?!\w)"
_AMOUNT = re.compile(rf"{_NUMBER}(?:\s*(<<|\*\*|\*)\s*{_NUMBER})?")
_BUDGET = re.compile(rf"\bmax_bytes\s*=\s*({_AMOUNT.pattern})")
_SEGMENT = re.compile(r"\bSegment\.create\(([^()\n]{0,200})|\bSharedMemory\(([^()\n]{0,200})")


def amount(text: str) -> int | None:
    """A number as programs write it: 1_000, 1 << 20, 64 * 1024, 2**20. None if it is none."""
    found = _AMOUNT.match(text.strip())
    if found is None:
        return None
    first = int(found[1], 0) if found[1].startswith("0x") else int(found[1])
    if found[2] is None:
        return first
    second = int(found[3], 0) if found[3].startswith("0x") else int(found[3])
    if found[2] == "*":
        return first * second
    if second > 63:
        return None
    return first << second if found[2] == "<<" else first**second


def budget(container: Container) -> int | None:
    """The largest `max_bytes` that its programs name."""
    found = [amount(match[1]) for match in _BUDGET.finditer(whole(container))]
    return max((n for n in found if n is not None), default=None)


def _written(pod: Pod, container: Container) -> list[Volume]:
    """Memory volumes that it may write to, and pays for."""
    names = {mount.volume for mount in container.mounts if not mount.read_only}
    return [volume for volume in pod.volumes if volume.memory and volume.name in names]


def volumes(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """Memory volumes against the limits of those who write to them."""
    for volume in pod.volumes:
        if not volume.memory:
            continue
        writers = [c for c in pod.everyone() if volume in _written(pod, c)]
        if volume.size is None:
            limits = [c.memory for c in writers if c.memory is not None]
            half = max(1, (min(limits) if limits else 512 << 20) >> 21)
            yield Finding(
                WARN,
                volume.path,
                f"volume {volume.name} is memory without a sizeLimit: what is written there "
                "counts for the memory limit of the container that writes it, which is killed "
                "before the volume is full",
                f"{volume.path}.sizeLimit: {half}Mi",
            )
    for container in pod.everyone():
        sizes = {v.name: v.size for v in _written(pod, container) if v.size is not None}
        total = sum(sizes.values())
        limit = container.memory
        if limit is None or not total:
            continue
        if total > limit:
            yield Finding(
                WARN,
                f"{container.path}.resources.limits.memory",
                f"{container.name} has {size(limit)}, and may fill volumes of memory "
                f"({', '.join(sizes)}) with {size(total)}, which count for it: it is killed "
                "before they are full",
                f"{container.path}.resources.limits.memory: {_mebi(total + 2 * INTERPRETER)}, or "
                "a smaller sizeLimit",
            )
        elif _has_shm(container, uses) and total + (budget(container) or limit // 2) > limit:
            yield Finding(
                WARN,
                f"{container.path}.resources.limits.memory",
                f"{container.name} has {size(limit)}: volumes of memory with {size(total)} and "
                f"shm with up to {size(budget(container) or limit // 2)} together may take more. "
                "shm then raises MemoryLimit",
                f"{container.path}.resources.limits.memory: {_mebi(2 * total + INTERPRETER)}, or "
                "max_bytes= in podipc.sender()",
            )


def _has_shm(container: Container, uses: Collection[Use]) -> bool:
    """Whether it uses shm: by an address, or by podipc without any that can be read."""
    own = [use.address.method for use in uses if use.container is container]
    return "shm" in own or (not own and may_use_shm(container))


def memory(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """Limits against what a sender may hold."""
    for container in pod.everyone():
        is_user = uses_podipc(container) or any(use.container is container for use in uses)
        if not is_user or (container in pod.init and not container.sidecar):
            continue
        field = f"{container.path}.resources.limits.memory"
        wanted = budget(container)
        if container.memory is None:
            if wanted is None and _has_shm(container, uses):
                yield Finding(
                    WARN,
                    field,
                    f"{container.name} has no memory limit: a sender of shm may hold half of the "
                    "node's memory, and who is killed then is for the kernel to choose",
                    f"{field}: 512Mi, or what it needs; or max_bytes= in podipc.sender()",
                )
        elif wanted is not None and wanted + INTERPRETER > container.memory:
            yield Finding(
                FAIL if wanted > container.memory else WARN,
                field,
                f"{container.name} has {size(container.memory)}, and its sender may hold "
                f"{size(wanted)} (max_bytes), besides the {size(INTERPRETER)} of Python with "
                "numpy: it gets MemoryLimit before the budget is used up",
                f"{field}: {_mebi(wanted + 2 * INTERPRETER)}",
            )
        elif container.memory < 2 * INTERPRETER:
            yield Finding(
                WARN,
                field,
                f"{container.name} has {size(container.memory)}: Python with numpy takes "
                f"{size(INTERPRETER)} of it, and the default budget of a sender, half of the "
                f"limit ({size(container.memory // 2)}), is more than is left",
                f"{field}: 128Mi",
            )


def segments(pod: Pod) -> Iterator[Finding]:
    """Named shared memory in a /dev/shm of 64 MiB."""
    for container in pod.everyone():
        if any(mount.target == "/dev/shm" for mount in container.mounts):
            continue
        for match in _SEGMENT.finditer(whole(container)):
            needed, shown = _named_size(match)
            if shown and (needed is None or needed > DEV_SHM // 2):
                yield Finding(
                    FAIL if needed is not None and needed > DEV_SHM else WARN,
                    container.path,
                    f"{container.name} makes shared memory in /dev/shm ({shown}), which has "
                    f"{size(DEV_SHM)} for all containers of the Pod",
                    f"{pod.at('spec.volumes')}: + {{name: shm, emptyDir: {{medium: Memory, "
                    f"sizeLimit: {_mebi(2 * (needed or DEV_SHM))}}}}}, and in every container "
                    "volumeMounts: + {name: shm, mountPath: /dev/shm}",
                )
                break


def _named_size(match: re.Match[str]) -> tuple[int | None, str]:
    """How large it is, and what it is, or "" if it is not in /dev/shm."""
    if match[2] is not None:  # multiprocessing's
        size_of = re.search(r"\bsize\s*=\s*([^,]+)", match[2])
        creates = "create" in match[2]
        return (amount(size_of[1]) if size_of else None), "SharedMemory" if creates else ""
    first, comma, rest = match[1].partition(",")
    name = rest.strip().removeprefix("name").lstrip(" =")
    # Without a name it is a memfd, which is in no file system; a path is one of a volume.
    if not comma or name.startswith(("mode", "None")) or re.match(r"[\"']/", name):
        return None, ""
    return amount(first), "Segment"


def cpu(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """Fewer than two processors: what can be had of waiting actively."""
    for container in pod.containers + tuple(c for c in pod.init if c.sidecar):
        if container.cpu is None or container.cpu >= 2:
            continue
        fast = [
            use.address
            for use in uses
            if use.container is container
            and (use.address.method in ("tcp", "unix", "fifo") or _spins(use.address.wait, use))
        ]
        if not fast and not (_has_shm(container, uses) and not _own(container, uses)):
            continue
        spins = any(address.wait == "spin" for address in fast)
        yield Finding(
            WARN,
            f"{container.path}.resources.limits.cpu",
            f"{container.name} has {container.cpu:g}: below two, podipc "
            + (
                "with ?wait=spin uses up its quota and is then stopped for the rest of 100 ms"
                if spins
                else "sleeps at once instead of spinning first, and a hand-over costs tens of "
                "microseconds instead of one"
            ),
            f'{container.path}.resources.limits.cpu: "2", or none'
            + ("; or ?wait=block" if spins else ""),
        )


def _spins(wait: str, use: Use) -> bool:
    return use.address.method == "shm" and wait in ("adaptive", "spin")


def _own(container: Container, uses: Collection[Use]) -> bool:
    return any(use.container is container for use in uses)


def _mebi(nbytes: int) -> str:
    """At least so much, as a manifest says it."""
    mebi = max(1, -(-nbytes >> 20))
    rounded = 1 << (mebi - 1).bit_length()
    return f"{rounded}Mi" if rounded < 1024 else f"{rounded // 1024}Gi"
