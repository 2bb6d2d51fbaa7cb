"""What a manifest has that a cluster cannot be held to, one line each."""

from __future__ import annotations

from podipc.pod.manifest import Pod


def of(pod: Pod) -> list[str]:
    """One line for what a user of the other runtimes would not expect."""
    found = [
        f"{volume.path}: a path of whichever node it comes to, not of this machine"
        for volume in pod.volumes
        if volume.kind == "hostPath"
    ]
    for container in pod.everyone():
        if container.image.startswith("localhost/") and "imagePullPolicy" not in _raw(
            pod, container.name
        ):
            found.append(
                f"{container.path}.image: {container.image} comes from no registry; load it into "
                "the nodes, and set imagePullPolicy: IfNotPresent"
            )
    return found


def _raw(pod: Pod, name: str) -> dict[str, object]:
    spec = pod.document["spec"]
    everyone = [*(spec.get("initContainers") or []), *spec["containers"]]
    return next(container for container in everyone if container["name"] == name)
