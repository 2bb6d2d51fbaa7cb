"""What goes wrong when a Pod is started, beyond what a system call refuses."""

from podipc._core import NotFound, PodipcError


class PodError(PodipcError):
    """Base of what only a Pod can get wrong."""


class CommandNotFound(PodError, NotFound):
    """There is no such program in the container. The text names it and the PATH."""


class NameTaken(PodError, ValueError):
    """A running container of the Pod has that name already."""


class InvalidName(PodError, ValueError):
    """Not a name that Kubernetes would take for a Pod or a container."""
