"""A Pod of programs of this machine, each in namespaces of its own."""

from __future__ import annotations

from collections.abc import Sequence

from podipc.pod import manifest as manifests
from podipc.pod import supervisor
from podipc.pod.local.sandbox import SHM_BYTES, Sandbox
from podipc.pod.supervisor import Container

__all__ = ["Container", "Pod"]


class Pod(supervisor.Pod):
    """A Pod of programs of this machine, each in namespaces of its own.

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
    shm_bytes
        Size of its ``/dev/shm``.
    isolate
        With False its containers are plain processes of this machine, and have no volumes.

    Raises
    ------
    ManifestError
        The manifest asks for what this runtime cannot do without.
    NotHere
        The host does not permit it.
    """

    runtime = "local"
    _sandbox: Sandbox

    def __init__(
        self,
        spec: manifests.Pod,
        *,
        grace: float | None = None,
        backoff: float = 10.0,
        at_end: Sequence[str] = (),
        shm_bytes: int = SHM_BYTES,
        isolate: bool = True,
    ) -> None:
        sandbox = Sandbox(spec, at_end, shm_bytes, isolate=isolate)
        super().__init__(spec, sandbox, grace=grace, backoff=backoff)

    @property
    def isolation(self) -> dict[str, bool]:
        """What was made, as in `namespaces.Pod`."""
        return self._sandbox.pod.isolation
