"""What a manifest asks for and the local runtime does not have, one line each."""

from __future__ import annotations

import os
import re
import sys

from podipc.pod.manifest import Pod
from podipc.pod.supervisor import startup

_REASONS = {
    "hostNetwork": "the Pod has a network namespace of its own, always",
    "hostIPC": "the Pod has an IPC namespace of its own, always",
    "hostPID": "the containers have PID namespaces of their own, always",
    "shareProcessNamespace": "the containers have PID namespaces of their own, always",
    "hostname": "the host name of a container is its name",
    "livenessProbe": "only startup probes are made here",
    "readinessProbe": "only startup probes are made here",
    "grpc": startup.NO_GRPC,
    "lifecycle": "there are no hooks here",
    "imagePullPolicy": "there are no images here",
    "imagePullSecrets": "there are no images here",
    "capabilities": "the container keeps those of whoever starts it",
    "privileged": "the container has the privileges of whoever starts it",
    "allowPrivilegeEscalation": "programs with the set-user-ID bit work",
    "readOnlyRootFilesystem": "the file system of this machine stays writable",
    "seccompProfile": "system calls are not filtered",
    "subPathExpr": "use subPath",
    "medium": "the volume is on disk",
    "stdin": "there is no standard input; use exec",
    "tty": "there is no terminal",
    "activeDeadlineSeconds": "the Pod runs as long as it runs",
    "ephemeral-storage": "disk space is not limited",
}


def of(pod: Pod) -> list[str]:
    """One line for everything in the manifest that has no effect here."""
    found = [
        "image: not used, the programs are those of this machine, "
        f"and python is that of {os.path.dirname(sys.executable)}"
    ]
    if any(container.ports for container in pod.everyone()):
        found.append("ports: information only, as in a cluster; nothing is published")
    for path in pod.others:
        name = re.split(r"[.\]]", path)[-1]
        if ".requests." in path:
            reason = "nothing is scheduled here"
        else:
            reason = _REASONS.get(name, "has no meaning on one machine")
        found.append(f"{path}: not used, {reason}")
    found += startup.notes_of(pod)
    for volume in pod.volumes:
        if volume.kind == "emptyDir" and volume.size and not volume.memory:
            found.append(
                f"{volume.path}.sizeLimit: not enforced; a cluster would evict a Pod that has more"
            )
    return found


def of_groups(pod: Pod, *, is_root: bool) -> list[str]:
    """One line each if volumes, or processes, cannot be given to the groups of the manifest."""
    if is_root:
        return []
    found: list[str] = []
    where = pod.at("spec.securityContext")
    if pod.fs_group not in (None, os.getegid()):
        found.append(
            f"{where}.fsGroup: volumes keep the group {os.getegid()}, "
            "an ordinary user cannot give them to another; run as root"
        )
    if pod.groups:
        found.append(
            f"{where}.supplementalGroups: not given to the containers, "
            "an ordinary user cannot choose groups; run as root"
        )
    return found
