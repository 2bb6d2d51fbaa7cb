"""Containers made of namespaces: a Pod of plain programs, without a container engine.

Every container is a process that is PID 1 of its own PID namespace, with its
own mounts, ``/proc`` and host name. All containers of a Pod share one network
namespace (127.0.0.1 and the port space), one IPC namespace and one ``/dev/shm``,
and see the rest of the host's file system::

    with namespaces.Pod("compare") as pod:
        a = pod.start("producer", [sys.executable, "producer.py"])
        b = pod.start("consumer", [sys.executable, "consumer.py"], stdout=PIPE)
        b.wait(timeout=60)

Works as root and, where the host allows user namespaces, as an ordinary user.
What the host does not allow is left out and said in `Pod.notes`. When the block
ends, or this process dies in whatever way, nothing of the Pod is left.

It is a runtime for programs of one's own, not a wall around those of others.
"""

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, Self, TypeAlias

from podipc._core import (
    Closed,
    Infra,
    NotFound,
    NotPermitted,
    SystemCallError,
)
from podipc.pod.errors import CommandNotFound, InvalidName, NameTaken
from podipc.pod.local import refusals
from podipc.pod.local.process import Container, stop_all
from podipc.pod.runtime import DEVNULL, PIPE, STDOUT, Stream

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Container", "Pod"]

Command: TypeAlias = Sequence[str | bytes | os.PathLike[str]]
Operation: TypeAlias = tuple[str, ...]
"""A word of csrc/platform/setup.h and its arguments, at most three."""

_KEEP = -1
_NOTICE = 0.5
"""Seconds in which the end of a container is heard of."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Pod:
    """Namespaces that its containers share; a context manager.

    Parameters
    ----------
    name
        For messages.
    shm_bytes
        Size of the Pod's own ``/dev/shm``; a Kubernetes Pod has 64 MiB.
    isolate
        With False the containers are plain processes of the host.
    grace
        Seconds between SIGTERM and SIGKILL when the block ends.

    Attributes
    ----------
    isolation
        What was really made: ``user``, ``pid``, ``mount``, ``net``, ``ipc``, ``uts``
        namespaces, ``proc`` (a fresh ``/proc`` in each container) and ``shm`` (the
        ``/dev/shm``), each True or False. As root there is no user namespace.
    notes
        One line for everything that was not permitted, with the reason.
    containers
        The container that was started last under each name.

    Raises
    ------
    SystemCallError
        Not even a process could be made, or the kernel is older than Linux 5.3.

    Threads may start containers at the same time; `close` is for one of them.
    """

    def __init__(
        self,
        name: str = "pod",
        *,
        shm_bytes: int = 64 << 20,
        isolate: bool = True,
        grace: float = 2.0,
    ) -> None:
        _check_name("Pod", name)
        if shm_bytes < 1:
            raise ValueError(f"shm_bytes is the size of /dev/shm in bytes, at least 1: {shm_bytes}")
        self.name = name
        self.shm_bytes = shm_bytes
        self.grace = grace
        self.containers: dict[str, Container] = {}
        self._owner = os.getpid()
        self._infra = Infra(shm_bytes, isolate)
        self._closed = False  # from here on there is something to close
        parts = self._infra.parts
        self.isolation = {part: error == 0 for part, error in parts.items()}
        self.notes = refusals.notes(parts, self._infra.refused, shm_bytes, isolate)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._owner == os.getpid():
            warnings.warn(f"Pod {self.name!r} was not closed", ResourceWarning, stacklevel=2)
            self.grace = 0
            self.close()

    def start(
        self,
        name: str,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        cpus: Iterable[int] = (),
        uid: int | None = None,
        gid: int | None = None,
        groups: Sequence[int] = (),
        umask: int | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        pass_fds: Iterable[int] = (),
        setup: Sequence[Operation] = (),
    ) -> Container:
        """Start a container and return once its program runs.

        Parameters
        ----------
        name
            Its name and host name. A name is free again when its container has ended.
        command
            Program and arguments; the program is looked up in the container's PATH.
        env
            Added to the environment of this process, which stands for that of an image.
        cwd
            The working directory; by default that of this process.
        cpus
            The cpus it may run on; by default those of this process.
        uid, gid, groups
            Whom it runs as; `groups` are the supplementary ones. Only root can choose:
            for an ordinary user another `uid` is said in `notes` and not done.
        umask
            Its file mode mask; by default that of this process.
        stdin, stdout, stderr
            As for `subprocess.Popen`, ``PIPE``, ``DEVNULL`` and ``STDOUT`` included.
        pass_fds
            Descriptors that it gets under the same numbers. It gets no others.
        setup
            What its process does before anything else, as `mounts` and `cgroups` write it.

        Raises
        ------
        CommandNotFound
            There is no such program.
        NotFound, NotPermitted, SystemCallError
            The text says which step failed.
        NameTaken
            A running container has this name.
        InvalidName
            Not a DNS label.
        Closed
            The Pod has ended.
        """
        _check_name("container", name)
        known = self.containers.get(name)
        if known is not None and known.poll() is None:
            raise NameTaken(f"Pod {self.name!r} already runs a container named {name!r}")
        container = self._launch(
            name,
            command,
            {**os.environ, **self._environment(name), **(env or {})},
            cwd=cwd,
            cpus=cpus,
            ids=(uid, gid, groups),
            umask=umask,
            streams=(stdin, stdout, stderr),
            pass_fds=pass_fds,
            setup=setup,
        )
        self.containers[name] = container
        return container

    def exec(
        self,
        container: Container,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        groups: Sequence[int] = (),
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        setup: Sequence[Operation] = (),
    ) -> Container:
        """Start one more program in a running container; parameters and errors as `start`.

        It ends with the container. What is returned is the program: its exit code, its
        signals; it has no name of its own. Needs Linux 5.8.
        """
        if container.has_ended():
            raise Closed(f"container {container.name!r} does not run")
        try:
            return self._launch(
                container.name,
                command,
                {**os.environ, **self._environment(container.name), **(env or {})},
                cwd=cwd,
                ids=(uid, gid, groups),
                streams=(stdin, stdout, stderr),
                setup=setup,
                inside=container,
            )
        except SystemCallError as error:
            # Its namespaces go with it, which may be before that is heard here.
            if error.call in ("setns", "clone") and container.has_ended(_NOTICE):
                raise Closed(f"container {container.name!r} has ended meanwhile") from error
            raise

    def setup(self, operations: Sequence[Operation]) -> None:
        """Let the process that holds the Pod carry out operations, in its own namespaces.

        Raises
        ------
        NotPermitted, SystemCallError
            One of them failed; the text says which.
        """
        self._infra.start(
            name=self.name,
            cwd=b"/",
            paths=(),
            argv=(),
            env=(),
            fds=(),
            targets=(),
            cpus=b"",
            groups=(),
            uid=_KEEP,
            gid=_KEEP,
            umask=_KEEP,
            setup=_encoded(operations),
            container=-1,
        )

    def _launch(
        self,
        name: str,
        command: Command,
        environment: Mapping[str, str],
        *,
        cwd: str | os.PathLike[str] | None,
        ids: tuple[int | None, int | None, Sequence[int]],
        streams: tuple[Stream, Stream, Stream],
        cpus: Iterable[int] = (),
        umask: int | None = None,
        pass_fds: Iterable[int] = (),
        setup: Sequence[Operation] = (),
        inside: Container | None = None,
    ) -> Container:
        uid, gid, groups = ids
        argv = tuple(os.fsencode(argument) for argument in command)
        if not argv:
            raise ValueError(f"the command of container {name!r} is empty")
        paths = _candidates(argv[0], environment)
        if cwd is not None and environment.get("PWD") == os.environ.get("PWD"):
            # Ours would be wrong there.
            environment = {**environment, "PWD": os.fspath(cwd)}
        if uid is not None or gid is not None:
            uid, gid = self.may_become(name, uid, gid, groups)

        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            pipes, fds = _streams(streams, ours, theirs)
            fds.update({fd: fd for fd in pass_fds})
            try:
                pid, pidfd, status = self._infra.start(
                    name=name,
                    cwd=os.fsencode(cwd if cwd is not None else os.getcwd()),
                    paths=paths,
                    argv=argv,
                    env=tuple(os.fsencode(f"{key}={value}") for key, value in environment.items()),
                    fds=tuple(fds.values()),
                    targets=tuple(fds),
                    cpus=_mask(cpus),
                    groups=tuple(groups),
                    uid=_KEEP if uid is None else uid,
                    gid=_KEEP if gid is None else gid,
                    umask=_KEEP if umask is None else umask,
                    setup=_encoded(setup),
                    container=-1 if inside is None else inside._pidfd,
                )
            except (NotFound, NotPermitted, SystemCallError) as error:
                # A directory of the PATH that may not be searched hides nothing that could run.
                missing = error.errno in (errno.ENOENT, errno.ENOTDIR) or (
                    b"/" not in argv[0] and not any(map(os.path.isfile, paths))
                )
                if error.call == "execve" and missing:
                    raise _not_found(name, argv[0], paths, environment) from None
                raise
            ours.pop_all()
        return Container(name, pid, pidfd, status, pipes)

    def close(self) -> None:
        """End all containers (SIGTERM, `grace` seconds, SIGKILL) and the Pod. Idempotent.

        Exit codes can still be read; the pipes of the containers are closed.
        """
        if self._owner != os.getpid():
            return
        self._closed = True
        try:
            stop_all([c for c in self.containers.values() if c.poll() is None], self.grace)
        finally:
            self._infra.close()
            for container in self.containers.values():
                container.poll()
                container.close()

    def _environment(self, name: str) -> dict[str, str]:
        """What Kubernetes sets, and what of the host's would be wrong in there."""
        return {"HOSTNAME": name} if self.isolation["uts"] else {}

    def may_become(
        self, name: str, uid: int | None, gid: int | None, groups: Sequence[int]
    ) -> tuple[int | None, int | None]:
        """The UID and GID to change to, if any; if it is not possible, that is said in `notes`."""
        own_uid, own_gid = os.geteuid(), os.getegid()
        if uid in (None, own_uid) and gid in (None, own_gid) and not groups:
            return None, None
        if own_uid == 0 and not self.isolation["user"]:
            return uid, gid
        asked = f"UID {own_uid if uid is None else uid}, GID {own_gid if gid is None else gid}"
        note = (
            f"container {name!r} runs as UID {own_uid}, GID {own_gid}, not as {asked}: "
            "an ordinary user cannot become another; run as root"
        )
        if note not in self.notes:
            self.notes.append(note)
        return None, None


def _check_name(what: str, name: str) -> None:
    if not _LABEL.fullmatch(name):
        raise InvalidName(
            f"the name of a {what} is at most 63 lower-case letters, digits and '-', "
            f"with a letter or digit at both ends, not {name!r}"
        )


def _encoded(operations: Sequence[Operation]) -> tuple[bytes, ...]:
    return tuple(os.fsencode(word) for op in operations for word in (*op, "", "", "")[:4])


def _candidates(program: bytes, env: Mapping[str, str]) -> tuple[bytes, ...]:
    if b"/" in program:
        return (program,)
    return tuple(
        os.path.join(os.fsencode(directory or "."), program)
        for directory in env.get("PATH", os.defpath).split(os.pathsep)
    )


def _not_found(
    name: str, program: bytes, paths: Sequence[bytes], env: Mapping[str, str]
) -> CommandNotFound:
    there = [os.fsdecode(path) for path in paths if os.path.isfile(path)]
    text = f"container {name!r}: "
    if there:
        text += f"{there[0]!r} is there, but not what is to run it (see its first line)"
    elif b"/" in program:
        text += f"there is no program {os.fsdecode(program)!r}"
    else:
        path = env.get("PATH", os.defpath)
        text += f"there is no program {os.fsdecode(program)!r} in its PATH, {path!r}"
    error = CommandNotFound(text)
    error.errno = errno.ENOENT
    error.call = "execve"
    return error


def _mask(cpus: Iterable[int]) -> bytes:
    """The cpus as bits, in whole words of 64 as the kernel wants them."""
    bits = 0
    for cpu in cpus:
        if not 0 <= cpu < 8192:
            raise ValueError(f"a cpu is a number from 0 to 8191, not {cpu}")
        bits |= 1 << cpu
    return bits.to_bytes((bits.bit_length() + 63) // 64 * 8, "little")


def _streams(
    streams: Sequence[Stream], ours: contextlib.ExitStack, theirs: contextlib.ExitStack
) -> tuple[dict[int, IO[bytes]], dict[int, int]]:
    """Our ends of pipes by number, and the descriptors the container gets by number.

    What is opened here is closed by `ours` and `theirs`.
    """
    pipes: dict[int, IO[bytes]] = {}
    fds: dict[int, int] = {}
    for number, stream in enumerate(streams):
        if stream == PIPE:
            read, write = os.pipe()
            mine, fds[number] = (write, read) if number == 0 else (read, write)
            theirs.callback(os.close, fds[number])
            pipes[number] = ours.enter_context(os.fdopen(mine, "wb" if number == 0 else "rb"))
        elif stream == DEVNULL or (stream is None and not _is_open(number)):
            fds[number] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, fds[number])
        elif stream == STDOUT:
            if number != 2:
                raise ValueError("STDOUT is for stderr only")
            fds[number] = fds[1]
        elif stream is None:
            fds[number] = number
        else:
            fds[number] = stream if isinstance(stream, int) else stream.fileno()
    return pipes, fds


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
