"""What goes wrong when a Pod is started, beyond what a system call refuses."""

from podipc._core import NotFound, NotPermitted, PodipcError


class PodError(PodipcError):
    """Base of what only a Pod can get wrong."""


class CommandNotFound(PodError, NotFound):
    """There is no such program in the container. The text names it and the PATH."""


class NameTaken(PodError, ValueError):
    """A running container of the Pod has that name already."""


class InvalidName(PodError, ValueError):
    """Not a name that Kubernetes would take for a Pod or a container."""


class ManifestError(PodError, ValueError):
    """A manifest is wrong, or asks for what the runtime cannot do.

    The text names the file, the path of the field, what was expected and what there is.

    Attributes
    ----------
    file
        The file, and which document of it if there are several.
    path
        The field, as ``spec.containers[0].name``; "" if it is about all of the file.
    """

    def __init__(self, text: str, file: str = "", path: str = "") -> None:
        super().__init__(text)
        self.file = file
        self.path = path
        self.needs_yaml = False


class NotHere(PodError, NotPermitted):
    """What the manifest needs is not permitted on this host. The text says which, and why."""


class UnknownPod(PodError, NotFound):
    """No such Pod runs, or it has no such container. The text says which there are."""
