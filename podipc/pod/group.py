"""Several Pods of one file, which reach each other by name."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, overload

from podipc.deadline import Deadline
from podipc.pod import manifest as manifests
from podipc.pod import resolved, start
from podipc.pod.errors import ManifestError, UnknownPod
from podipc.pod.runtime import Pod

T = TypeVar("T")


class Network(Protocol):
    """What the Pods of a `Group` have in common. `notes` as for a `Pod`."""

    notes: list[str]

    def options(self, pod: manifests.Pod) -> dict[str, str]:
        """What the Pod of that manifest is started with to be in it."""

    def close(self) -> None:
        """Remove it, when its Pods are gone."""


NETWORKS = {
    "podman": "podipc.pod.podman.network",
    "kubernetes": "podipc.pod.kubernetes.network",
}
"""The modules of the runtimes that have a `Network`."""


class Group(Mapping[str, Pod]):
    """The Pods of a file, by name; a context manager whose block begins when all are up.

    When the block ends, or this process dies in whatever way, nothing of them is left.

    Parameters
    ----------
    manifest
        From `manifest.read`.
    runtime, grace, backoff
        As for `podipc.pod.up`.
    at_end
        By Pod, more paths to remove when it ends.
    options
        As for `podipc.pod.up`.

    Attributes
    ----------
    notes
        One line for everything that the file asks for and there is not.

    Raises
    ------
    ManifestError
        There are several Pods, and the runtime has no network between them.
    """

    def __init__(
        self,
        manifest: manifests.Manifest,
        runtime: str = "auto",
        *,
        grace: float | None = None,
        backoff: float = 10.0,
        at_end: Mapping[str, Sequence[str]] | None = None,
        **options: str,
    ) -> None:
        name, self.notes = resolved(manifest.pods, runtime)
        self._pods: dict[str, Pod] = {}
        self._network: Network | None = None
        if len(manifest.pods) > 1:
            self._network = _network(manifest, name)
            self.notes += self._network.notes
        elif name != "kubernetes":
            self.notes += [
                f"Service {service.name}: not used, there is one Pod only"
                for service in manifest.services
            ]
        self._lock = threading.Lock()
        self._open = {spec.name for spec in manifest.pods}
        try:
            for spec in manifest.pods:
                own = self._network.options(spec) if self._network else {}
                paths = (at_end or {}).get(spec.name, ())
                pod = start(
                    spec, name, grace=grace, backoff=backoff, at_end=paths, **own, **options
                )
                self._pods[spec.name] = pod
                prefix = f"Pod {spec.name}: " if len(manifest.pods) > 1 else ""
                self.notes += [f"{prefix}{note}" for note in pod.notes]
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Pod:
        try:
            return self._pods[name]
        except KeyError:
            raise UnknownPod(
                f"there is no Pod {name!r} in the file; there is {', '.join(self._pods)}"
            ) from None

    # Those of Mapping expect a KeyError.

    def __contains__(self, name: object) -> bool:
        return name in self._pods

    @overload
    def get(self, name: str, /) -> Pod | None: ...
    @overload
    def get(self, name: str, /, default: Pod | T) -> Pod | T: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """The Pod of that name, or `default`."""
        return self._pods.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pods)

    def __len__(self) -> int:
        return len(self._pods)

    def __enter__(self) -> Self:
        try:
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def phase(self) -> str:
        """``Succeeded`` if all Pods that count have, ``Failed`` if one has; else that of one.

        A Pod with ``restartPolicy: Always`` is there for the others and does not count,
        unless all of them are such.
        """
        phases = [pod.phase for pod in self._counting()]
        for phase in ("Failed", "Pending", "Running"):
            if phase in phases:
                return phase
        return "Succeeded"

    @property
    def message(self) -> str:
        """Why it failed."""
        return "; ".join(pod.message for pod in self._counting() if pod.message)

    def ready(self, timeout: float | None = None) -> None:
        """Wait until all containers of all Pods have been started; see `Pod.ready`."""
        deadline = Deadline(timeout)
        for pod in self._pods.values():
            pod.ready(deadline.left_or_never())

    def wait(self, timeout: float | None = None) -> str:
        """Wait until all Pods that count have ended; ``Succeeded`` or ``Failed``.

        Raises
        ------
        Timeout
            One still runs after `timeout` seconds.
        """
        deadline = Deadline(timeout)
        for pod in self._counting():
            pod.wait(deadline.left_or_never())
        return self.phase

    def end(self, name: str) -> None:
        """End one Pod; with the last of them, what they had in common."""
        self[name].close()
        with self._lock:
            self._open.discard(name)
            if not self._open and self._network is not None:
                self._network.close()

    def close(self) -> None:
        """End all Pods, last first, then what they had in common. Idempotent.

        Interrupted by Ctrl-C as `Pod.close`: the others are killed, not left.
        """
        errors: list[BaseException] = []
        closing = [pod.close for pod in reversed(self._pods.values())]
        for close in [*closing, *([self._network.close] if self._network else [])]:
            try:
                close()
            except BaseException as error:  # the others are to end all the same
                errors.append(error)
                if not isinstance(error, Exception):  # Ctrl-C: and at once
                    for pod in self._pods.values():
                        pod.grace = 0.0
        if errors:
            raise errors[0]

    def _counting(self) -> list[Pod]:
        pods = list(self._pods.values())
        return [pod for pod in pods if pod.spec.restart != "Always"] or pods


def _network(manifest: manifests.Manifest, runtime: str) -> Network:
    if runtime not in NETWORKS:
        names = ", ".join(pod.name for pod in manifest.pods)
        raise ManifestError(
            f"{manifest.source}: expected one Pod for the runtime {runtime}, not "
            f"{len(manifest.pods)} ({names}): it has no network between Pods; use the runtime "
            "podman, or a cluster",
            manifest.source,
        )
    made: Network = importlib.import_module(NETWORKS[runtime]).Network(manifest)
    return made
