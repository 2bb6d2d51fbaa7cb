"""What a manifest asks for and the runtime podman does not have, one line each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from podipc.pod.manifest import Pod
from podipc.pod.podman.document import value_at
from podipc.pod.supervisor import startup

_OWN_NAMESPACE = "the Pod has a namespace of its own, always"
_REASONS = {
    "hostNetwork": _OWN_NAMESPACE,
    "hostIPC": _OWN_NAMESPACE,
    "hostPID": _OWN_NAMESPACE,
    "livenessProbe": "only startup probes are made here",
    "readinessProbe": "only startup probes are made here",
    "grpc": startup.NO_GRPC,
    "lifecycle": "there are no hooks here",
    "imagePullPolicy": "images are not fetched; podman pull does it",
    "imagePullSecrets": "images are not fetched; podman login and podman pull do it",
    "seccompProfile": "podman's own profile is in force",
    "subPathExpr": "use subPath",
    "medium": "the volume is on disk",
    "stdin": "there is no standard input; use exec",
    "stdinOnce": "there is no standard input; use exec",
    "tty": "there is no terminal",
    "activeDeadlineSeconds": "the Pod runs as long as it runs",
    "ephemeral-storage": "disk space is not limited",
    "dnsConfig": "there is no name server to ask",
    "dnsPolicy": "there is no name server to ask",
    "terminationMessagePath": "the log says it",
    "terminationMessagePolicy": "the log says it",
}

_HONOURED: dict[str, Callable[[Any], bool]] = {
    "allowPrivilegeEscalation": lambda value: True,
    "automountServiceAccountToken": lambda value: value is False,
    "capabilities": lambda value: True,
    "enableServiceLinks": lambda value: value is False,
    "hostAliases": lambda value: True,
    "hostname": lambda value: True,
    "imagePullPolicy": lambda value: value in ("IfNotPresent", "Never"),
    "privileged": lambda value: True,
    "readOnlyRootFilesystem": lambda value: True,
    "seLinuxOptions": lambda value: True,
    "seccompProfile": lambda value: value == {"type": "RuntimeDefault"},
    "shareProcessNamespace": lambda value: True,
    "sysctls": lambda value: True,
}
"""The fields that podman sees to, and with which value."""


def of(pod: Pod) -> list[str]:
    """One line for everything in the manifest that has no effect here."""
    found = []
    if any(container.ports for container in pod.everyone()):
        found.append("ports: information only, as in a cluster; nothing is published")
    found += startup.notes_of(pod)
    for path in pod.others:
        name = re.split(r"[.\]]", path)[-1]
        honoured = _HONOURED.get(name)
        if honoured is not None and honoured(value_at(pod.document, pod.within(path))):
            continue
        if ".requests." in path:
            reason = "nothing is scheduled here"
        else:
            reason = _REASONS.get(name, "has no meaning on one machine")
        found.append(f"{path}: not used, {reason}")
    for volume in pod.volumes:
        if volume.kind == "emptyDir" and volume.size and not volume.memory:
            found.append(
                f"{volume.path}.sizeLimit: not enforced; a cluster would evict a Pod that has more"
            )
    if pod.restart != "Never" and len(pod.containers) == 1:
        found.append(
            f"{pod.at('spec.restartPolicy')}: while its only container does not run, the Pod "
            "loses what is in its /dev/shm and its network: podman ends them then"
        )
    return found
