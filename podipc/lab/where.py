"""Where results were measured, in one line; what they do not say is said to be unknown."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from podipc import PodipcError
from podipc.lab import machine
from podipc.lab.results import Results

if TYPE_CHECKING:
    from podipc.pod.facts import ContainerFacts, Facts
    from podipc.pod.runtime import Pod

    Place = Pod | Results | str
    """Where something was measured; a text is taken as it is."""

_DOT = "\u00a0· "
"""It stays at the end of a line."""


def of(place: Place) -> str:
    """In one line, for a caption."""
    if isinstance(place, str):
        return place
    return sentence(place) if isinstance(place, Results) else of_pod(place)


def of_pod(pod: Pod) -> str:
    """A Pod that is up: runtime, what is shared and the limits, then the machine and the time.

    The containers that run are asked. Raises as `Pod.facts` does.
    """
    facts = pod.facts()
    started = datetime.datetime.now(datetime.UTC).isoformat()
    about = {
        "runtime": pod.runtime,
        "host": _host(pod, facts),
        "versions": machine.versions(),
        "started": started,
    }
    runtime, *rest = _parts(about)
    return _DOT.join([runtime, *_containers(facts), *rest])


def _host(pod: Pod, facts: Facts) -> dict[str, Any]:
    """The machine on which the containers run, which another than this may be in a cluster."""
    if pod.runtime != "kubernetes":
        return machine.host()
    for name, one in facts.containers.items():
        if one.podipc:
            try:
                found = pod[name].run(_ASK, timeout=30).unwrap()
            except PodipcError:
                continue
            return found if isinstance(found, dict) else {}
    return {}


_ASK = "__import__('podipc.lab.machine', fromlist=['host']).host()"
"""An expression, which leaves no variable in the session of the container."""


def _containers(facts: Facts) -> list[str]:
    """What the running containers share, and how much they may use."""
    shared = facts.shared()
    common = [name for name, all_of_them in shared.namespaces.items() if all_of_them]
    common += ["/dev/shm"] if shared.shm else []
    common += ["a volume"] if len(shared.volumes) == 1 else []
    common += [f"{len(shared.volumes)} volumes"] if len(shared.volumes) > 1 else []
    names = list(facts.containers)
    found = [f"{' and '.join(names)} share {', '.join(common)}"] if len(names) > 1 else []
    limits = {name: _limits(one) for name, one in facts.containers.items()}
    if len(set(limits.values())) == 1:
        return [*found, f"{limits[names[0]]}{' each' if len(names) > 1 else ''}"]
    return [*found, *(f"{name}: {text}" for name, text in limits.items())]


def _limits(one: ContainerFacts) -> str:
    from podipc.console import size

    memory = "no memory limit" if one.memory is None else size(one.memory)
    cpus = "no cpu limit" if one.cpus is None else f"{one.cpus:g} CPU" + "s" * (one.cpus != 1)
    return f"{memory}, {cpus}"


def sentence(results: Results) -> str:
    """Runtime, machine, kernel, Python, load and time."""
    return _DOT.join(_parts(results.about))


def _parts(about: dict[str, Any]) -> list[str]:
    host, versions = part(about, "host"), part(about, "versions")
    parts = [
        f"runtime {about.get('runtime', 'unknown')}",
        f"{host.get('cpu', 'unknown machine')}"
        + (f", {host['cpus']} CPUs" if host.get("cpus") else "")
        + (" (virtual)" if host.get("virtual") else ""),
    ]
    if host.get("kernel"):
        parts.append(f"Linux {host['kernel']} {host.get('arch', '')}".rstrip())
    if versions.get("python"):
        parts.append(f"Python {versions['python']}")
    if isinstance(host.get("load"), int | float):
        parts.append(f"load {host['load']:.1f}")
    if started := str(about.get("started") or ""):
        parts.append(started[:16].replace("T", " ") + " UTC" * started.endswith("+00:00"))
    return parts


def part(about: dict[str, Any], name: str) -> dict[str, Any]:
    """A dictionary within what was said, empty where it is missing or something else."""
    found = about.get(name)
    return found if isinstance(found, dict) else {}
