"""All checks of this container or host, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from podipc._core import PodipcError
from podipc.doctor import container, facts, kernel, places
from podipc.doctor.finding import FAIL, Finding

Check = Callable[[], Iterator[Finding]]

EVERYWHERE: tuple[Check, ...] = (
    kernel.versions,
    kernel.memfd,
    kernel.futex,
    kernel.descriptors,
    kernel.loopback,
    places.shm,
    places.rendezvous,
    kernel.round_trip,
    container.memory,
    container.cpu,
    container.user,
    container.seccomp,
    container.rlimits,
    container.pid1,
)
ON_A_HOST: tuple[Check, ...] = (kernel.user_namespaces,)
LAST: tuple[Check, ...] = (places.living,)


def run(checks: tuple[Check, ...] | None = None) -> Iterator[Finding]:
    """Run them one by one; a check that fails in a way of its own is a finding, too."""
    if checks is None:
        checks = EVERYWHERE + (() if facts.in_container() else ON_A_HOST) + LAST
    for check in checks:
        try:
            yield from check()
        except (PodipcError, OSError, ValueError) as error:
            name = check.__name__.replace("_", " ")
            yield Finding(FAIL, name, f"did not work: {type(error).__name__}: {error}")
