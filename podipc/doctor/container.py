"""What this container may use: memory, processors, descriptors; and who it is.

The functions that judge take what they judge by, so that they can be tried with any
container's figures; the ones without parameters look, and then ask them.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from podipc import _core
from podipc.console import count, size
from podipc.doctor import facts
from podipc.doctor.finding import FAIL, OK, WARN, Finding
from podipc.pod.inside import probe

LITTLE = 8 << 20
"""Bytes of memory with which nothing useful can be sent any more."""
FEW_FILES, TOO_FEW_FILES = 256, 64
_SECCOMP = {"0": "none", "1": "strict", "2": "a filter"}


def memory() -> Iterator[Finding]:
    """The limit, what is left of it, and what a sender may take by default."""
    found = _core.limits()
    machine = facts.machine_memory()
    limit = found["memory"] if machine is None or found["memory"] < machine else None
    yield judge_memory(limit, found["memory_available"], found["memory"] // 2)
    total, used = facts.swap()
    if total:
        yield Finding(OK, "swap", f"{size(used)} of {size(total)} of the machine's is used")
    else:
        yield Finding(OK, "swap", "none")


def judge_memory(limit: int | None, left: int, budget: int) -> Finding:
    """`budget`: the bytes that a sender may hold by default, half of what there is."""
    whole = "no limit" if limit is None else f"limit {size(limit)}"
    text = f"{whole}, {size(left)} left; a sender holds up to {size(budget)}"
    more = f"resources.limits.memory: {_rounded(2 * (budget + (limit or 2 * budget) - left))}"
    if left < LITTLE:
        return Finding(FAIL, "memory", text + ": next to nothing is left", more)
    if left < budget:
        return Finding(
            WARN,
            "memory",
            f"{text} (the default of max_bytes is half): more than is left. Sending it will "
            "raise MemoryLimit",
            f"{more}, or max_bytes={_half(left)} in podipc.sender()",
        )
    return Finding(OK, "memory", text)


def _rounded(nbytes: int) -> str:
    """As a manifest would say it: a power of two of MiB that is enough."""
    mebi = 64
    while mebi << 20 < nbytes:
        mebi *= 2
    return f"{mebi}Mi" if mebi < 1024 else f"{mebi // 1024}Gi"


def _half(nbytes: int) -> str:
    return f"{max(1, nbytes >> 21)} << 20"


def cpu() -> Iterator[Finding]:
    """What is left by affinity and quota."""
    yield judge_cpu(_core.limits()["cpus"], len(os.sched_getaffinity(0)))


def judge_cpu(cpus: float, allowed: int) -> Finding:
    """`cpus`: processors' worth of time; `allowed`: how many it may run on."""
    quota = f", quota {cpus:.3g}" if cpus < allowed else ", no quota"
    text = f"{allowed} to run on{quota}"
    if cpus >= 2:
        return Finding(OK, "cpu", text)
    return Finding(
        WARN,
        "cpu",
        f"{text}: below two, podipc does not spin but sleeps at once, and a hand-over costs "
        "tens of microseconds instead of one",
        'resources.limits.cpu: "2", or no cpu limit'
        if allowed >= 2
        else "a node, or a cpu set, with two processors or more",
    )


def user() -> Iterator[Finding]:
    """Whom this process runs as; the umask does not matter to podipc."""
    groups = sorted(set(os.getgroups()) - {os.getegid()})
    more = f", also in {', '.join(map(str, groups[:8]))}" if groups else ""
    mask = facts.umask()
    shown = "" if mask is None else f", umask {mask:04o}"
    yield Finding(OK, "user", f"UID {os.geteuid()}, GID {os.getegid()}{more}{shown}")


def seccomp() -> Iterator[Finding]:
    """Whether system calls are filtered; that those needed pass is for `kernel` to find out."""
    rows = probe.status_of("self")
    mode = rows.get("Seccomp", "")
    text = _SECCOMP.get(mode, "not told by the kernel")
    if rows.get("NoNewPrivs") == "1":
        text += ", no new privileges"
    yield Finding(FAIL if mode == "1" else OK, "seccomp", text)


def rlimits() -> Iterator[Finding]:
    """Descriptors: a peer costs up to ten; sizes: of shared memory."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    yield judge_files(files)
    for name, kind in (("RLIMIT_FSIZE", resource.RLIMIT_FSIZE), ("RLIMIT_AS", resource.RLIMIT_AS)):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            yield Finding(
                WARN,
                name,
                f"{size(soft)}: larger tensors cannot be sent, or mapped",
                "none in the manifest: the limit is the container runtime's (default_ulimits of "
                "podman, LimitFSIZE and LimitAS of containerd's service)",
            )


def judge_files(files: int) -> Finding:
    """`files`: the soft limit of descriptors."""
    if files == resource.RLIM_INFINITY or files >= FEW_FILES:
        shown = "no limit" if files == resource.RLIM_INFINITY else f"up to {files}"
        return Finding(OK, "open files", f"{shown} (RLIMIT_NOFILE)")
    return Finding(
        FAIL if files < TOO_FEW_FILES else WARN,
        "open files",
        f"only {files} may be open (RLIMIT_NOFILE), and a channel takes ten or so a peer",
        "none in the manifest: raise the soft limit in the program (resource.setrlimit) or in "
        "the container runtime (default_ulimits of podman, LimitNOFILE of containerd's service)",
    )


def pid1() -> Iterator[Finding]:
    """Whether PID 1 looks after those that have ended."""
    own = probe.status_of("self")
    if own.get("Pid") == "1":
        yield Finding(OK, "PID 1", "is this command")
        return
    name = probe.status_of(1).get("Name", "?")
    dead = facts.zombies()
    if not dead:
        yield Finding(OK, "PID 1", f"is {name}; it has left no zombies")
        return
    names = ", ".join(f"{who} ({pid})" for pid, who in dead[:3])
    yield Finding(
        WARN,
        "PID 1",
        f"{name} does not reap: {count(len(dead), 'zombie')}, such as {names}. Each keeps a PID",
        "command: begin it with an init such as tini or catatonit; or "
        "spec.shareProcessNamespace: true",
    )
