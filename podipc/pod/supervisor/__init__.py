"""A Pod whose containers this process starts itself, in Kubernetes' order.

What a container is made of, a `Sandbox` knows: namespaces of this machine, or podman.
When it is started, and how often, is the same for all and is here. Init containers run
one after the other, sidecars among them go on; then all containers start. What ends is
started again as `restartPolicy` says. At the end the containers get SIGTERM together,
after the grace period SIGKILL, then the sidecars, last first. One thread does all of
that; it lives as long as the Pod.
"""

from podipc.pod.supervisor.container import Container
from podipc.pod.supervisor.pod import Pod
from podipc.pod.supervisor.sandbox import Process, Sandbox, Streams

__all__ = ["Container", "Pod", "Process", "Sandbox", "Streams"]
