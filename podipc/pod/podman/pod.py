"""A Pod of real containers, made by podman."""

from __future__ import annotations

import os
from collections.abc import Sequence

from podipc.pod import manifest as manifests
from podipc.pod import supervisor
from podipc.pod.errors import ManifestError, NotHere
from podipc.pod.podman.sandbox import Sandbox, check
from podipc.pod.supervisor import Container

__all__ = ["Container", "Pod", "why_not"]


class Pod(supervisor.Pod):
    """A Pod of real containers, made by podman.

    Parameters
    ----------
    spec
        From `manifest.read`.
    grace
        Instead of ``terminationGracePeriodSeconds``.
    backoff
        Seconds before the second restart of a container; twice as many before the next.
    at_end
        More paths to remove when the Pod ends, however that happens.
    network
        As for ``podman kube play --network``.

    Raises
    ------
    ManifestError
        The manifest asks for what podman does not have: an image, a kind of volume.
    NotHere
        There is no podman, or it cannot run here.
    PodError
        Podman refused; the text has its reason.
    """

    runtime = "podman"

    def __init__(
        self,
        spec: manifests.Pod,
        *,
        grace: float | None = None,
        backoff: float = 10.0,
        at_end: Sequence[str] = (),
        network: str = "none",
    ) -> None:
        super().__init__(spec, Sandbox(spec, at_end, network), grace=grace, backoff=backoff)


def why_not(spec: manifests.Pod) -> str | None:
    """Why podman cannot run this manifest here, or None if it can."""
    # Podman would leave a process for a user who has never used it.
    store = os.path.expanduser("~/.local/share/containers/storage")
    if os.geteuid() != 0 and not os.path.isdir(store):
        return f"UID {os.geteuid()} has no images of its own"
    try:
        check(spec)
    except (ManifestError, NotHere) as error:
        return str(error).removeprefix(f"{spec.source}: ")
    return None
