"""Several Pods in one cluster: their network is the cluster's, their Services real ones."""

from __future__ import annotations

from podipc.pod import manifest as manifests


class Network:
    """There is nothing to make; see `podipc.pod.group.Network`."""

    def __init__(self, manifest: manifests.Manifest) -> None:
        self.notes: list[str] = []

    def options(self, pod: manifests.Pod) -> dict[str, str]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Services go with the Pods that own them."""
