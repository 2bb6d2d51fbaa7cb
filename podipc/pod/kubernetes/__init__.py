"""Pods in a cluster, by its API: needs the official client, ``pip install 'podipc[k8s]'``."""

from podipc.pod.kubernetes.container import Container
from podipc.pod.kubernetes.notes import of as notes_of
from podipc.pod.kubernetes.pod import Pod

__all__ = ["Container", "Pod", "notes_of"]
