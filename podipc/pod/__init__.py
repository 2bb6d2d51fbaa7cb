"""Run a Kubernetes Pod manifest.

::

    with podipc.pod.up("pod.yaml") as pod:
        print(pod["producer"].logs())
        pod["consumer"].kill()
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from podipc.pod.embedded import Pod

__all__ = ["RUNTIMES", "up"]

RUNTIMES = ("local",)
"""What can run a manifest."""


def up(
    manifest: str | os.PathLike[str],
    runtime: str = "local",
    *,
    grace: float | None = None,
    backoff: float = 10.0,
) -> Pod:
    """Start the Pod of a manifest; a context manager, at whose end nothing of it is left.

    Parameters
    ----------
    manifest
        A YAML or JSON file with one Pod.
    runtime
        ``local``: the embedded one, without images.
    grace
        Seconds between SIGTERM and SIGKILL, instead of ``terminationGracePeriodSeconds``.
    backoff
        Seconds before a container that ends again and again is started the second time.

    Returns
    -------
    Pod
        ``pod["NAME"]`` is a container: ``logs()``, ``kill()``, ``restart()``, ``wait()``,
        ``exec()``. `Pod.notes` says what the manifest asks for and there is not.

    Raises
    ------
    ManifestError
        The manifest is wrong: the file, the field, what was expected, what there is.
    NotHere
        This host does not permit what it asks for.
    ValueError
        There is no such runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"there is no runtime {runtime!r}; there is {', '.join(RUNTIMES)}")
    from podipc.pod.embedded import Pod
    from podipc.pod.manifest import read

    return Pod(read(manifest).pod(), grace=grace, backoff=backoff)
