"""What the containers of a manifest are started with: namespaces, volumes, limits, users.

When they are started, and how often, is for `pod` to say.
"""

from __future__ import annotations

import os
import secrets
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podipc._core import PodipcError
from podipc.pod import manifest, runtime, supervisor
from podipc.pod.errors import ManifestError, NotHere
from podipc.pod.local import cgroups, mounts, namespaces, notes
from podipc.pod.manifest import environment

SHM_BYTES = 64 << 20
"""Of a Pod's ``/dev/shm`` in Kubernetes."""


class Sandbox(supervisor.Sandbox):
    """The place of one Pod.

    Parameters
    ----------
    spec
        From `manifest.read`.
    at_end
        More paths to remove when it is closed or this process dies.
    shm_bytes
        Size of its ``/dev/shm``.
    isolate
        With False its containers are plain processes of this machine.

    Attributes
    ----------
    pod
        The namespaces.
    notes
        One line for everything that the manifest asks for and there is not.
    scratch
        The directory of the host for the volumes on disk.

    Raises
    ------
    ManifestError
        The manifest asks for what this runtime cannot do without.
    NotHere
        The host does not permit it.
    """

    def __init__(
        self,
        spec: manifest.Pod,
        at_end: Sequence[str] = (),
        shm_bytes: int = SHM_BYTES,
        *,
        isolate: bool = True,
    ) -> None:
        self.spec = spec
        self.python = sys.executable
        self.notes = notes.of(spec)
        uid = str(uuid.uuid4())
        # As in an image that podipc is installed in: `python` and `podipc` are those of here.
        self._env = {
            c.name: {"PATH": _path(), **environment.variables(spec, c, uid, "local")}
            for c in spec.everyone()
        }
        _check(spec)
        self.pod = namespaces.Pod(_label(spec.name), shm_bytes=shm_bytes, isolate=isolate, grace=0)
        try:
            self._prepare(at_end)
        except BaseException:
            self.pod.close()
            raise
        self.notes += [note for note in self.pod.notes if note not in self.notes]

    def close(self) -> None:
        """Kill all that is in it and remove it."""
        self.pod.close()

    def start(self, container: manifest.Container) -> tuple[namespaces.Container, int]:
        """Start a container; its process, and a pipe with what it prints.

        Raises
        ------
        ManifestError
            A volume cannot be mounted where the manifest wants it.
        PodipcError
            As for `namespaces.Pod.start`; the text says where in the manifest.
        """
        setup = self._join(container)
        if self._prefix:
            user = self._user(container)
            setup += mounts.container_setup(self.spec, container, self.scratch, user)
        env = self._env[container.name]
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            process = self.pod.start(
                container.name,
                environment.command(container, env),
                env=env,
                cwd=self._directory(container),
                stdin=namespaces.DEVNULL,
                stdout=write,
                stderr=write,
                setup=setup,
                **self._ids(container),
            )
        except BaseException as error:
            os.close(read)
            if isinstance(error, PodipcError):
                raise _located(self.spec, container, error) from error
            raise
        finally:
            os.close(write)
        return process, read

    def exec(
        self,
        container: manifest.Container,
        process: supervisor.Process,
        command: Sequence[str],
        streams: tuple[runtime.Stream, runtime.Stream, runtime.Stream],
    ) -> namespaces.Container:
        """Start one more program in a container whose main process is `process`."""
        assert isinstance(process, namespaces.Container)
        return self.pod.exec(
            process,
            command,
            env=self._env[container.name],
            cwd=self._directory(container),
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            setup=self._join(container),
            **self._ids(container),
        )

    def exec_from_within(
        self,
        container: manifest.Container,
        process: supervisor.Process,
        command: Sequence[str],
        streams: tuple[runtime.Stream, runtime.Stream, runtime.Stream],
    ) -> namespaces.Container:
        """As `exec`, but as the user of this process and without the container's limits."""
        assert isinstance(process, namespaces.Container)
        stdin, stdout, stderr = streams
        return self.pod.exec(process, command, cwd="/", stdin=stdin, stdout=stdout, stderr=stderr)

    def kills(self, container: manifest.Container) -> int:
        """How often something in that container was killed because of its memory limit."""
        return self._limits[container.name].kills()

    def _prepare(self, at_end: Sequence[str]) -> None:
        spec, made = self.spec, self.pod.isolation
        has_mounts = any(c.mounts or c.directory for c in spec.everyone())
        self._prefix, may_own = "", False
        is_root = os.geteuid() == 0 and not made["user"]
        self.notes += notes.of_groups(spec, is_root=is_root)
        unique = secrets.token_hex(4)
        self.scratch = f"{_disk()}/podipc-{_label(spec.name)}-{unique}"
        operations: list[namespaces.Operation] = []
        if made["mount"]:
            limits = [c.memory for c in spec.everyone()]
            memory = sum(filter(None, limits)) if all(limits) else None
            may_own = is_root or spec.fs_group == os.getegid()
            operations += mounts.pod_setup(spec, self.scratch, memory, may_own=may_own)
            self._prefix = mounts.HOST
        elif has_mounts:
            raise NotHere(
                f"Pod {self.spec.name!r}: volumes and working directories need mount "
                f"namespaces: {'; '.join(self.pod.notes)}"
            )
        for container in spec.everyone():
            self.pod.may_become(container.name, **self._ids(container))
        by_name = {c.name: c for c in spec.everyone()}
        controllers = cgroups.controllers()
        group = f"podipc-{_label(spec.name)}-{unique}"
        groups = cgroups.groups(group, by_name, controllers)
        operations += [("at-end", f"{self._prefix}{path}") for path in (*at_end, *groups)]
        self.pod.setup(operations)
        if self._prefix:
            mounts.fill(spec, self.scratch, may_own=may_own)
        self._limits = cgroups.make(group, by_name, controllers)
        self.notes += [
            f"{by_name[name].path}.resources.limits.{what}: not enforced, {reason}"
            for name, limits in self._limits.items()
            for what, reason in limits.refused.items()
        ]

    def _directory(self, spec: manifest.Container) -> str:
        """The working directory: without one in the manifest ours, if it is open to the user."""
        here = Path(os.getcwd())
        user = self._user(spec)
        if spec.directory is None and user and not all(map(user.may_search, (here, *here.parents))):
            return "/"
        return spec.directory or str(here)

    def _user(self, spec: manifest.Container) -> mounts.User | None:
        ids = self._ids(spec)
        if os.geteuid() != 0 or self.pod.isolation["user"] or ids["uid"] in (None, 0):
            return None
        gid = os.getegid() if ids["gid"] is None else ids["gid"]
        return mounts.User(ids["uid"], frozenset([gid, *ids["groups"]]))

    def _join(self, spec: manifest.Container) -> list[namespaces.Operation]:
        return [("join", f"{self._prefix}{group}") for group in self._limits[spec.name].groups]

    def _ids(self, spec: manifest.Container) -> dict[str, Any]:
        user, group = _who(self.spec, spec)
        groups = sorted({*self.spec.groups, *filter(None, [self.spec.fs_group])})
        if groups and user is None and os.geteuid() == 0:
            user = 0
        if os.geteuid() != 0:
            groups = []
        return {"uid": user, "gid": group, "groups": groups}


def _check(spec: manifest.Pod) -> None:
    mounts.check(spec)
    for container in spec.everyone():
        if not container.command:
            raise ManifestError(
                f"{spec.source}: {container.path}.command: is missing; the local runtime has no "
                f"image ({container.image}) whose entry point it could take",
                spec.source,
                f"{container.path}.command",
            )
        user, _ = _who(spec, container)
        non_root = container.security.non_root
        refuses_root = spec.security.non_root if non_root is None else non_root
        if refuses_root and (os.geteuid() if user is None else user) == 0:
            raise ManifestError(
                f"{spec.source}: {container.path}: runAsNonRoot is true, but it would run as "
                "UID 0; set securityContext.runAsUser",
                spec.source,
                container.path,
            )


def _who(spec: manifest.Pod, container: manifest.Container) -> tuple[int | None, int | None]:
    own, common = container.security, spec.security
    user = common.user if own.user is None else own.user
    group = common.group if own.group is None else own.group
    return user, group


def _located(spec: manifest.Pod, container: manifest.Container, error: PodipcError) -> PodipcError:
    """The same error, which says as well where in which file it comes from."""
    field = {"execve": ".command", "chdir": ".workingDir"}.get(error.call or "", "")
    located = type(error)(f"{spec.source}: {container.path}{field}: {error}")
    located.errno, located.call = error.errno, error.call
    return located


def _path() -> str:
    own = os.path.dirname(sys.executable)
    rest = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([own, *(directory for directory in rest if directory != own)])


def _label(name: str) -> str:
    return name.replace(".", "-")[:63].rstrip("-")


def _disk() -> str:
    """A directory of this machine for volumes on disk."""
    for path in (os.environ.get("TMPDIR"), "/var/tmp", "/tmp"):
        if path and os.path.isabs(path) and os.access(path, os.W_OK | os.X_OK):
            return os.path.realpath(path)
    raise NotHere("there is no directory for volumes on disk: TMPDIR, /var/tmp, /tmp")
