"""The runtime that needs no container engine: namespaces, and programs of this machine."""

from podipc.pod.local.notes import of as notes_of
from podipc.pod.local.pod import Pod

__all__ = ["Pod", "notes_of"]
