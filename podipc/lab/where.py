"""Where results were measured, in one line; what they do not say is said to be unknown."""

from __future__ import annotations

from typing import Any

from podipc.lab.results import Results


def sentence(results: Results) -> str:
    """Runtime, machine, kernel, Python, load and time."""
    about = results.about
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
    return "\u00a0· ".join(parts)  # the dot stays at the end of a line


def part(about: dict[str, Any], name: str) -> dict[str, Any]:
    """A dictionary within what was said, empty where it is missing or something else."""
    found = about.get(name)
    return found if isinstance(found, dict) else {}
