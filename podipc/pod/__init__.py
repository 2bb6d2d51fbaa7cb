"""Run a Kubernetes Pod manifest: without a container engine, with podman, or in a cluster.

::

    with podipc.pod.up("pod.yaml") as pod:
        print(pod["producer"].logs())
        pod["producer"].run("import os; os.getpid()").unwrap()
        print(pod.facts())
        pod["consumer"].kill()
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podipc.pod import manifest as manifests
    from podipc.pod.group import Group
    from podipc.pod.runtime import Pod

__all__ = ["RUNTIMES", "start", "up", "up_all"]

_MODULES = {
    "local": "podipc.pod.local",
    "podman": "podipc.pod.podman",
    "kubernetes": "podipc.pod.kubernetes",
}
"""Where each runtime has its `Pod` and `notes_of`."""

RUNTIMES = ("auto", *_MODULES)
"""What can run a manifest."""


def up(
    manifest: str | os.PathLike[str] | Mapping[str, Any],
    runtime: str = "auto",
    *,
    grace: float | None = None,
    backoff: float = 10.0,
    idle: bool = False,
    running: Collection[str] = (),
    **options: Any,
) -> Pod:
    """Start the Pod of a manifest; a context manager, at whose end nothing of it is left.

    Parameters
    ----------
    manifest
        A YAML or JSON file with one Pod, or what such a file would contain. Of a Deployment,
        StatefulSet, DaemonSet, ReplicaSet, Job or CronJob the template is run, as one Pod.
    runtime
        ``local``: programs of this machine in namespaces of their own, without images.
        ``podman``: real containers. ``kubernetes``: a cluster, that of the kubeconfig or the
        one we are in. ``auto``: podman if it is here and has all images of the
        manifest, else local; `Pod.notes` says which, and why.
    grace
        Seconds between SIGTERM and SIGKILL, instead of ``terminationGracePeriodSeconds``.
    backoff
        Seconds before a container that ends again and again is started the second time; where
        the runtime lets one choose.
    idle
        Make the containers, and do not start their programs: for code of one's own, with
        `Container.run`.
    running
        If `idle`, the containers whose programs are started all the same.
    options
        ``kubernetes`` has `namespace` and `context`.

    Returns
    -------
    Pod
        Any thread may use it.
        ``pod["NAME"]`` is a container: ``logs()``, ``kill()``, ``restart()``, ``wait()``,
        ``exec()``; and, where its image has a ``python3``, ``run()`` and ``background()``, which
        execute Python in it and keep its variables, ``interrupt()``, ``end_session()`` and
        ``stats()``. `Pod.facts` says what the containers are and share, `Pod.notes` what the
        manifest asks for and there is not.

    Raises
    ------
    ManifestError
        The manifest is wrong: the file, the field, what was expected, what there is.
    NotHere
        This host does not permit what it asks for.
    ValueError
        There is no such runtime.
    """
    from podipc.pod.idle import idle as made_idle
    from podipc.pod.manifest import read

    spec = read(manifest).pod()
    if idle:
        spec = made_idle(spec, running)
    return start(spec, runtime, grace=grace, backoff=backoff, **options)


def up_all(
    manifest: str | os.PathLike[str] | Mapping[str, Any],
    runtime: str = "auto",
    *,
    grace: float | None = None,
    backoff: float = 10.0,
    idle: bool = False,
    **options: Any,
) -> Group:
    """As `up`, for a file with any number of Pods and Services; Pods by name.

    Several Pods are in one network, in which each is reached by its name and by that of a
    Service that selects it; that takes podman or a cluster. `options` and `idle` are as for
    `up`. ::

        with podipc.pod.up_all("service.yaml") as pods:
            print(pods["client"]["client"].logs())
    """
    from dataclasses import replace

    from podipc.pod.group import Group
    from podipc.pod.idle import idle as made_idle
    from podipc.pod.manifest import read

    found = read(manifest)
    if idle:
        found = replace(found, pods=tuple(made_idle(spec) for spec in found.pods))
    return Group(found, runtime, grace=grace, backoff=backoff, **options)


def start(
    spec: manifests.Pod,
    runtime: str = "auto",
    *,
    grace: float | None = None,
    backoff: float = 10.0,
    at_end: Sequence[str] = (),
    **options: Any,
) -> Pod:
    """As `up`, of a manifest that has been read.

    `at_end` are paths to remove with the Pod, `options` what the runtime alone knows.
    """
    from podipc.pod.manifest.workloads import note_of

    name, notes = resolved([spec], runtime)
    module = importlib.import_module(_MODULES[name])
    pod: Pod = module.Pod(spec, grace=grace, backoff=backoff, at_end=at_end, **options)
    pod.notes[:0] = notes + note_of(spec, name)
    return pod


def notes_of(spec: manifests.Pod, runtime: str = "auto") -> list[str]:
    """One line for everything in the manifest that has no effect with that runtime."""
    from podipc.pod.manifest.workloads import note_of

    name, notes = resolved([spec], runtime)
    found: list[str] = importlib.import_module(_MODULES[name]).notes_of(spec)
    return notes + note_of(spec, name) + found


def resolved(specs: Sequence[manifests.Pod], runtime: str) -> tuple[str, list[str]]:
    """The name of the runtime, and a note on how it was chosen if it was.

    Raises
    ------
    ValueError
        There is no such runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"there is no runtime {runtime!r}; there is {', '.join(RUNTIMES)}")
    if runtime != "auto":
        return runtime, []
    name, reason = choose(specs)
    return name, [f"runtime: {name}, because {reason}"]


def choose(specs: Sequence[manifests.Pod]) -> tuple[str, str]:
    """The runtime that ``auto`` stands for, and why; a cluster only if it is asked for."""
    from podipc.pod.podman import why_not

    for spec in specs:
        problem = why_not(spec)
        if problem is not None:
            return "local", f"with podman: {problem}"
    return "podman", "podman is here and has every image"
