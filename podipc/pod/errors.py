"""What goes wrong when a Pod is started, beyond what a system call refuses."""

from podipc._core import NotFound, NotPermitted, PeerDied, PodipcError


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


class SessionDied(PodError, PeerDied):
    """The Python in a container in which code ran has ended, and its variables are gone.

    Attributes
    ----------
    returncode
        Its exit code, or minus the signal that ended it; None if that is not known.
    stdout, stderr
        What the code had printed by then.
    """

    def __init__(
        self, text: str, returncode: int | None = None, stdout: str = "", stderr: str = ""
    ) -> None:
        super().__init__(text)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


class ContainerDied(SessionDied):
    """A container has ended while, or before, code ran in it. The text ends with its last lines.

    `returncode` is that of the container.
    """


class RemoteError(PodError, RuntimeError):
    """Code in a container has raised an exception.

    Attributes
    ----------
    container
        Where.
    name
        The class, as ``ValueError``.
    message
        Its text.
    traceback
        As Python prints it.
    """

    def __init__(self, container: str, name: str, message: str, traceback: str) -> None:
        what = f"{name}: {message}" if message else name
        super().__init__(f"in container {container!r}: {what}\n\n{traceback}".rstrip())
        self.container = container
        self.name = name
        self.message = message
        self.traceback = traceback


class ValueStayed(PodError, TypeError):
    """A value is neither JSON nor arrays, or too large to come here. The text says which."""
