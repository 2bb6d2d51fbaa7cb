"""The runtime of real containers: podman, through its command line.

The manifest is given to ``podman kube play``, with loopback as the only network. Podman
makes the containers, with their images, users, limits and volumes; when they start, restart
and end is this process's business (see `supervisor`), because podman knows neither sidecars
nor a growing delay between restarts. A guardian removes the Pod if this process dies.

Of a program that has ended podman knows a number: with more than 128 of them, it is taken
for the signal that ended it.
"""

from podipc.pod.podman.notes import of as notes_of
from podipc.pod.podman.pod import Pod, why_not

__all__ = ["Pod", "notes_of", "why_not"]
