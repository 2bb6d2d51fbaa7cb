"""Remove all that podman has under a label: ``removal.py PODMAN LABEL [NETWORK...]``.

Run by the guardian of a Pod, as a program of its own without any package: at the end of
the Pod, and as well when the process that runs it has been killed.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable

_PATIENCE = 10.0
"""Seconds that killed processes get to be gone."""


def remove(podman: str, label: str) -> list[str]:
    """Remove Pods, volumes and networks with the label; what podman refused."""
    refused = []

    def call(*words: str, may_fail: bool = False) -> list[str]:
        for _ in range(1 if may_fail else 5):
            # A list is refused while something of another Pod is being removed.
            done = subprocess.run([podman, *words], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            time.sleep(0.2)
        if done.returncode != 0 and not may_fail:
            refused.append(f"podman {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.split()

    for pod in call("pod", "ps", "-q", "--no-trunc", "--filter", f"label={label}"):
        # While a process of the Pod is there, podman tries for seconds to remove its cgroup.
        members = _members(pod)
        call("pod", "kill", pod, may_fail=True)  # it may have ended
        _wait(members)
        call("pod", "rm", "-f", "-t", "0", pod)
        _remove_cgroups(pod)
    volumes = call("volume", "ls", "-q", "--filter", f"label={label}")
    if volumes:
        call("volume", "rm", "-f", *volumes)
    for network in call("network", "ls", "-q", "--filter", f"label={label}"):
        call("network", "rm", "-f", network)
    return refused


def _members(pod: str) -> list[int]:
    """Descriptors of the processes in the cgroups of a Pod, those that watch it included."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cgroup") as file:
                if pod in file.read():
                    found.append(os.pidfd_open(int(name)))
        except OSError:
            continue
    return found


def _wait(descriptors: Iterable[int]) -> None:
    deadline = time.monotonic() + _PATIENCE
    for descriptor in descriptors:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(descriptor)


def _remove_cgroups(pod: str) -> None:
    """Podman 4 leaves the groups of a Pod in hierarchies that it does not use itself."""
    for path, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if pod in path:
            try:
                os.rmdir(path)
            except OSError as error:
                print(f"{path}: {error.strerror}", file=sys.stderr)


if __name__ == "__main__":
    problems = remove(sys.argv[1], sys.argv[2])
    print("\n".join(problems), file=sys.stderr)
    raise SystemExit(1 if problems else 0)
