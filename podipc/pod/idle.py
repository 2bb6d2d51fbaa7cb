"""The Pod of a manifest without its programs: an environment for code of one's own."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from podipc.pod.errors import UnknownPod
from podipc.pod.manifest import Container, Pod

COMMAND = (
    "python3",
    "-c",
    # As PID 1: it ends when it is told to, and no child of others stays a zombie.
    "import signal as s\n"
    "s.signal(s.SIGCHLD, s.SIG_IGN)\n"
    "s.pthread_sigmask(s.SIG_BLOCK, {s.SIGTERM, s.SIGINT})\n"
    "s.sigwait({s.SIGTERM, s.SIGINT})",
)
"""What a container runs instead of its own program: nothing, until it is told to end."""


def idle(spec: Pod, running: Collection[str] = ()) -> Pod:
    """The same Pod, whose containers do nothing, but for those named in `running`.

    Init containers that are no sidecars run as ever: the others may need what they do.

    Raises
    ------
    UnknownPod
        There is no container of a name in `running`.
    """
    names = [container.name for container in spec.everyone()]
    for name in running:
        if name not in names:
            raise UnknownPod(
                f"Pod {spec.name!r} has no container {name!r}; it has {', '.join(names)}"
            )

    def changed(container: Container, *, init: bool) -> Container:
        if container.name in running or (init and not container.sidecar):
            return container
        # Its startup probe asks for what it does not start.
        return replace(container, command=COMMAND, args=(), startup=None)

    containers = tuple(changed(c, init=False) for c in spec.containers)
    init = tuple(changed(c, init=True) for c in spec.init)
    document: dict[str, Any] = copy.deepcopy(dict(spec.document))
    idles = {c.name for c in (*containers, *init) if c.command == COMMAND}
    for key in ("containers", "initContainers"):
        for container in document["spec"].get(key) or ():
            if container["name"] in idles:
                container["command"] = list(COMMAND)
                for field in ("args", "startupProbe", "livenessProbe", "readinessProbe"):
                    container.pop(field, None)
    return replace(spec, containers=containers, init=init, document=document)
