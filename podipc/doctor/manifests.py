"""A manifest, before it is applied: what of it will not work, or not as one expects."""

from __future__ import annotations

import os
from collections.abc import Iterator

from podipc.console import count
from podipc.doctor import addresses, budgets, sharing
from podipc.doctor.finding import FAIL, OK, WARN, Finding, worst
from podipc.doctor.users import users
from podipc.pod import manifest
from podipc.pod.manifest import Manifest, Pod


def check(file: str | os.PathLike[str]) -> list[Finding]:
    """Of every Pod of a file; each finding has the file, and the path of the field.

    What else is in it, and is not looked at, has a line of its own at the end.

    Raises
    ------
    ManifestError
        The file cannot be read, or Kubernetes would not take it.
    """
    read = manifest.read(file, others_pass=True)
    found: list[Finding] = []
    for pod in read.pods:
        of_pod = list(check_pod(pod))
        if worst(of_pod) == OK:
            of_pod.append(
                Finding(OK, f"{pod.source}: {pod.owner or f'Pod {pod.name}'}", _summary(pod))
            )
        found += of_pod
    return [*found, *_not_looked_at(read)]


def _not_looked_at(read: Manifest) -> Iterator[Finding]:
    """One line for each of the other things of a file."""
    config_maps = [("ConfigMap", name) for name in read.pods[0].config_maps]
    others = [pair for pair in read.others if pair[0] != "ConfigMap"]
    for kind, name in (*others, *config_maps, *read.unread):
        yield Finding(OK, "not read", f"{kind} {name}".strip())


def check_pod(pod: Pod) -> Iterator[Finding]:
    """Everything about one Pod."""
    uses, wrong = addresses.find(pod)
    for finding in (
        *sharing.paths(pod, uses),
        *sharing.dev_shm(pod, uses),
        *sharing.ports(pod, uses),
        *sharing.orders(pod, uses),
        *sharing.places(pod),
        *users(pod, uses),
        *budgets.volumes(pod, uses),
        *budgets.memory(pod, uses),
        *budgets.segments(pod),
        *budgets.cpu(pod, uses),
        *host(pod),
    ):
        yield _at(pod, finding)
    for one in wrong:
        yield _at(pod, Finding(WARN, one.path, one.error))


def _at(pod: Pod, finding: Finding) -> Finding:
    return Finding(finding.level, f"{pod.source}: {finding.area}", finding.text, finding.change)


def _summary(pod: Pod) -> str:
    uses, _ = addresses.find(pod)
    text = ", ".join(
        (
            f"nothing to change: {count(len(pod.everyone()), 'container')}",
            count(len(pod.volumes), "volume"),
        )
    )
    shown = ", ".join(dict.fromkeys(use.address.text for use in uses))
    return f"{text}, addresses: {shown or 'none that can be read here'}"


def host(pod: Pod) -> Iterator[Finding]:
    """What is taken from the node."""
    spec = pod.document["spec"]
    if spec.get("hostNetwork") is True:
        yield Finding(
            WARN,
            pod.at("spec.hostNetwork"),
            "127.0.0.1 and its ports are those of the node: every process and every such Pod of "
            "it reaches tcp and http addresses, and a port that one of them has is taken",
            f"{pod.at('spec.hostNetwork')}: false",
        )
    if spec.get("hostIPC") is True:
        yield Finding(
            WARN,
            pod.at("spec.hostIPC"),
            "/dev/shm is that of the node: channels of two Pods with one name are one channel",
            f"{pod.at('spec.hostIPC')}: false",
        )
    for volume in pod.volumes:
        mounted = [c.name for c in pod.everyone() if any(m.volume == volume.name for m in c.mounts)]
        if volume.kind == "hostPath" and len(mounted) > 1:
            yield Finding(
                WARN,
                volume.path,
                f"{', '.join(mounted)} share {volume.host_path} of the node: what a crash leaves "
                "there outlives the Pod, and the next one finds it",
                f"{volume.path.removesuffix('.hostPath')}.emptyDir: {{}}",
            )
    for container in pod.everyone():
        own = container.security
        user = pod.security.user if own.user is None else own.user
        non_root = pod.security.non_root if own.non_root is None else own.non_root
        if non_root and user == 0:
            yield Finding(
                FAIL,
                f"{container.path}.securityContext.runAsUser",
                f"{container.name} is to run as UID 0 and must not be root: it is not started",
                f"{container.path}.securityContext.runAsUser: 65532",
            )
