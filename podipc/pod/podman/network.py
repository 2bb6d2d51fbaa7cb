"""A network of podman for several Pods, in which each is reached by name."""

from __future__ import annotations

import secrets
import sys

from podipc.pod import manifest as manifests
from podipc.pod.errors import NotHere, PodError
from podipc.pod.guardian import Guardian
from podipc.pod.podman import client, removal
from podipc.pod.podman.document import LABEL


class Network:
    """A network with a name server, and no way out; removed when it is closed.

    Parameters
    ----------
    manifest
        A Pod is reached by its name, and by that of a Service that selects it.

    Attributes
    ----------
    notes
        One line for everything that a Service asks for and there is not.

    Raises
    ------
    NotHere
        There is no podman, or it cannot make networks here.
    """

    def __init__(self, manifest: manifests.Manifest) -> None:
        self._services = manifest.services
        self.notes = [note for service in self._services for note in _notes(service, manifest.pods)]
        client.version()
        token = secrets.token_hex(8)
        self.name = f"podipc-{token}"
        label = f"{LABEL}={token}"
        self._guardian = Guardian()
        try:
            own = [sys.executable, "-I", "-S", removal.__file__, client.program(), label]
            self._guardian.at_end(own)
            words = ["network", "create", "--internal", "--label", label, self.name]
            done = self._guardian.run([client.program(), *words])
            if done.code != 0:
                raise NotHere(f"podman cannot make a network here: {client.short(done.err)}")
        except BaseException:
            self._guardian.close()
            raise

    def options(self, pod: manifests.Pod) -> dict[str, str]:
        """What the Pod of that manifest is started with to be in this network."""
        aliases = []
        for service in self._services:
            if service.selects(pod):
                space = f"{service.name}.{pod.namespace}"
                aliases += [service.name, space, f"{space}.svc", f"{space}.svc.cluster.local"]
        words = ",".join(f"alias={alias}" for alias in aliases)
        return {"network": f"{self.name}:{words}" if words else self.name}

    def close(self) -> None:
        """Remove it. Its Pods have to be gone."""
        failed = self._guardian.close()
        if failed:
            raise PodError(f"the network {self.name} could not be removed: {'; '.join(failed)}")


def _notes(service: manifests.Service, pods: tuple[manifests.Pod, ...]) -> list[str]:
    where = f"Service {service.name}"
    if not any(service.selects(pod) for pod in pods):
        return [f"{where}: spec.selector selects none of the Pods"]
    found = []
    spec = service.document.get("spec") or {}
    if not isinstance(spec, dict):
        return []
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        found.append(f"{where}: spec.type: nothing is published outside of the Pods' network")
    for number, port in enumerate(spec.get("ports") or ()):
        if not isinstance(port, dict) or spec.get("clusterIP") == "None":
            continue
        if port.get("targetPort", port.get("port")) != port.get("port"):
            found.append(
                f"{where}: spec.ports[{number}].targetPort: not used, the name leads to the "
                "Pod, whose own ports these are; connect to the target port"
            )
    return found
