"""What podman makes for a Pod, and how its containers are started there.

``podman kube play`` creates the Pod and its containers, and starts none. A run of one is
two steps: ``podman init`` with our pipe as its output (the log driver ``passthrough`` lets
the container write to it), then ``podman start``. So what a container prints arrives here
without a process or a file between, and its end is seen by descriptor.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podipc._core import PodipcError, SystemCallError
from podipc.pod import manifest, runtime, supervisor
from podipc.pod.errors import CommandNotFound, ManifestError, NotHere, PodError
from podipc.pod.guardian import Guardian
from podipc.pod.manifest import config, environment
from podipc.pod.podman import client, notes, program, removal
from podipc.pod.podman.document import LABEL, made
from podipc.pod.podman.process import Process


class Sandbox(supervisor.Sandbox):
    """The place of one Pod.

    Parameters
    ----------
    spec
        From `manifest.read`.
    at_end
        More paths to remove when it is closed or this process dies.
    network
        As for ``podman kube play --network``: ``none`` is loopback alone.

    Raises
    ------
    ManifestError
        The manifest asks for what podman does not have: an image, a volume.
    NotHere
        There is no podman, or it cannot run here.
    PodError
        Podman has a Pod of that name already, or refused; the text has its reason.
    """

    exec_holds_state = False

    def __init__(
        self, spec: manifest.Pod, at_end: Sequence[str] = (), network: str = "none"
    ) -> None:
        self.spec = spec
        self.notes = notes.of(spec)
        self._token = secrets.token_hex(8)
        uid = str(uuid.uuid4())
        # As the container engine of a cluster sets it.
        host = {"HOSTNAME": str(spec.document["spec"].get("hostname") or spec.name)}
        self._env = {
            c.name: host | environment.variables(spec, c, uid, "podman") for c in spec.everyone()
        }
        self._kills = dict.fromkeys(self._env, 0)
        self._runs: dict[str, Process] = {}
        self._volumes = {
            volume.name: f"podipc-{spec.name}-{self._token[:8]}-{volume.name}"
            for volume in spec.volumes
            if volume.kind in ("emptyDir", "configMap")
        }
        self._places: dict[str, Path] = {}
        check(spec)
        self._guardian = Guardian()
        try:
            for path in at_end:
                self._guardian.remove_at_end(path)
            self._make(network)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove all of it.

        Raises
        ------
        PodError
            Podman could not remove something; the text says what.
        """
        failed = self._guardian.close()
        if failed:
            raise PodError(f"Pod {self.spec.name!r} could not be removed: {'; '.join(failed)}")

    def start(self, container: manifest.Container) -> tuple[Process, int]:
        identity, pid_file, monitor_file = self._made[container.name]
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                # The monitor of the container stays there, and leaves a file if the
                # kernel kills for want of memory. It goes with the container.
                place = os.path.dirname(pid_file)
                code = client.call_into(write, ["init", identity], place)
            finally:
                os.close(write)
            if code != 0:
                with os.fdopen(os.dup(read), errors="replace") as file:
                    raise self._refused(container, file.read())
            _skip_until(read, identity)
            self._own_volumes()
            try:
                process = Process(identity, _number(pid_file), _number(monitor_file))
            except ProcessLookupError:
                reason = "it was ended before its program began, and not by this process"
                raise self._refused(container, reason) from None
            try:
                client.ask(["container", "start", identity])
            except SystemCallError as error:
                process.send_signal(9)
                process.wait()
                raise self._refused(container, str(error)) from error
        except BaseException:
            os.close(read)
            raise
        self._runs[container.name] = process
        return process, read

    def exec(
        self,
        container: manifest.Container,
        process: supervisor.Process,
        command: Sequence[str],
        streams: tuple[runtime.Stream, runtime.Stream, runtime.Stream],
    ) -> program.Program:
        assert isinstance(process, Process)
        return program.start(container.name, process, command, streams)

    def kills(self, container: manifest.Container) -> int:
        process = self._runs.get(container.name)
        if process is not None and process.ran_out_of_memory:
            self._kills[container.name] += 1
            del self._runs[container.name]
        return self._kills[container.name]

    def _make(self, network: str) -> None:
        # Asked first: podman leaves a cgroup of a Pod whose name turns out to be taken.
        if client.call(["pod", "exists", self.spec.name]).returncode == 0:
            raise PodError(
                f"podman has a Pod {self.spec.name!r} already, which is left alone; "
                f"podman pod rm -f {self.spec.name} would remove it"
            )
        label = f"{LABEL}={self._token}"
        own = [sys.executable, "-I", "-S", removal.__file__, client.program(), label]
        self._guardian.at_end(own)
        for volume in self.spec.volumes:
            if volume.name in self._volumes:
                self._make_volume(volume, label)
        files = {
            volume.name: str(self._places[volume.name])
            for volume in self.spec.volumes
            if volume.kind == "configMap"
        }
        document = made(self.spec, self._env, self._volumes, files, self._token)
        words = ["kube", "play", "--start=false", "--log-driver", "passthrough"]
        done = self._guardian.run(
            [client.program(), *words, "--network", network, "-"], json.dumps(document)
        )
        if done.code != 0:
            raise self._refused(None, done.err)
        self.notes += [f"podman: {warning}" for warning in client.warnings(done.err)]
        # The containers are named as podman names those of a Pod.
        names = {f"{self.spec.name}-{c.name}": c.name for c in self.spec.everyone()}
        found: list[dict[str, Any]] = json.loads(client.ask(["container", "inspect", *names]))
        self._made = {
            names[each["Name"]]: (each["Id"], each["PidFile"], each["ConmonPidFile"])
            for each in found
        }

    def _make_volume(self, volume: manifest.Volume, label: str) -> None:
        name = self._volumes[volume.name]
        words = ["volume", "create", "--label", label]
        if volume.memory:
            words += ["--opt", "type=tmpfs", "--opt", "device=tmpfs"]
            words += ["--opt", f"o={self._tmpfs(volume)}"]
        done = self._guardian.run([client.program(), *words, name])
        if done.code != 0:
            raise PodError(f"{self.spec.source}: {volume.path}: podman: {client.short(done.err)}")
        inspected = json.loads(client.ask(["volume", "inspect", name]))
        place = Path(inspected[0]["Mountpoint"])
        if volume.kind == "configMap":
            group = self.spec.fs_group if os.geteuid() == 0 else None
            config.write(self.spec, volume, place, group)
        if not volume.memory or os.geteuid() == 0:
            self._places[volume.name] = place
        self._own_volumes()

    def _tmpfs(self, volume: manifest.Volume) -> str:
        options = ["nosuid", "nodev", f"mode={self._mode:04o}"]
        limits = [c.memory for c in self.spec.everyone()]
        size = volume.size or (sum(filter(None, limits)) if all(limits) else None)
        if size:
            # Podman takes `size` for a quota of the disk.
            page = os.sysconf("SC_PAGESIZE")
            options.append(f"nr_blocks={-(-size // page)}")
        if self.spec.fs_group is not None:
            options.append(f"gid={self.spec.fs_group}")
        return ",".join(options)

    @property
    def _mode(self) -> int:
        return 0o777 if self.spec.fs_group is None else 0o2777

    def _own_volumes(self) -> None:
        """Give the volumes to all, as in a cluster; podman gives them to who mounts them first."""
        for place in self._places.values():
            if os.geteuid() == 0:
                os.chown(place, 0, self.spec.fs_group or 0)
            with contextlib.suppress(PermissionError):
                place.chmod(self._mode)

    def _refused(self, container: manifest.Container | None, text: str) -> PodipcError:
        """What podman refused, with where in which file it comes from."""
        spec, reason = self.spec, client.short(text)
        if container is None:
            if "YAML" in reason and (path := _unreadable(spec)):
                return _wrong(
                    spec,
                    path,
                    "this podman cannot read a text of several lines that begins with a blank; "
                    "begin it with its first word",
                )
            return PodError(f"{spec.source}: podman refused Pod {spec.name!r}: {reason}")
        where = f"{spec.source}: {container.path}"
        missing = "executable file not found" in reason or "no such file or directory" in reason
        if missing and "exec" in reason:
            word = (container.command or ("its entry point",))[0]
            return CommandNotFound(
                f"{where}.command: container {container.name!r}: image {container.image} has no "
                f"program {word!r} in its PATH"
            )
        return PodError(f"{where}: podman could not start container {container.name!r}: {reason}")


def check(spec: manifest.Pod) -> None:
    """Refuse what podman does not have, images included.

    Raises
    ------
    ManifestError, NotHere
    """
    found = client.users(container.image for container in spec.everyone())
    volumes = {volume.name: volume for volume in spec.volumes}
    for container in spec.everyone():
        user = found[container.image]
        if user is None:
            raise _wrong(
                spec,
                f"{container.path}.image",
                f"podman has no image {container.image!r}; {client.how_to_get(container.image)}",
            )
        _check_user(spec, container, user)
        for mount in container.mounts:
            _check_mount(spec, mount, volumes[mount.volume])
    for volume in spec.volumes:
        if volume.kind == "configMap":
            config.files(spec, volume)


def _check_user(spec: manifest.Pod, container: manifest.Container, user: str) -> None:
    own, common = container.security, spec.security
    refuses_root = common.non_root if own.non_root is None else own.non_root
    number = common.user if own.user is None else own.user
    root = number == 0 if number is not None else user.partition(":")[0] in ("", "0", "root")
    if refuses_root and root:
        raise _wrong(
            spec,
            container.path,
            "runAsNonRoot is true, but it would run as UID 0; set securityContext.runAsUser",
        )


def _check_mount(spec: manifest.Pod, mount: manifest.Mount, volume: manifest.Volume) -> None:
    if volume.kind == "hostPath":
        if not volume.host_type.endswith("OrCreate") and not os.path.exists(volume.host_path):
            raise _wrong(spec, f"{volume.path}.path", f"there is no {volume.host_path} here")
    elif volume.kind not in ("emptyDir", "configMap"):
        raise _wrong(
            spec,
            volume.path,
            "the runtime podman has emptyDir, hostPath and configMap volumes, not this",
        )
    if mount.sub_path and volume.kind == "configMap":
        paths, wanted = config.files(spec, volume), os.path.normpath(mount.sub_path)
        if wanted != "." and not any(f"{path}/".startswith(f"{wanted}/") for path in paths):
            there = ", ".join(paths) or "there is none"
            raise _wrong(
                spec,
                f"{mount.path}.subPath",
                f"expected a file of the ConfigMap ({there}), not {mount.sub_path!r}",
            )
    elif mount.sub_path and client.version() < (5, 0):
        raise _wrong(
            spec, f"{mount.path}.subPath", "podman before 5.0 has none; mount the whole volume"
        )


def _unreadable(spec: manifest.Pod) -> str | None:
    """Where there is a text that podman 4.3 writes for itself in a way that it cannot read."""
    for container in spec.everyone():
        for field, words in (("command", container.command), ("args", container.args)):
            for number, word in enumerate(words):
                if "\n" in word and word[0].isspace():
                    return f"{container.path}.{field}[{number}]"
        for variable in container.env:
            value = variable.value or " "
            if "\n" in value and value[0].isspace():
                return f"{variable.path}.value"
    return None


def _wrong(spec: manifest.Pod, path: str, text: str) -> ManifestError:
    return ManifestError(f"{spec.source}: {path}: {text}", spec.source, path)


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise NotHere(f"podman's {path} does not say which process it is: {error}") from error


def _skip_until(fd: int, last: str) -> None:
    """Leave out what podman itself has printed before the container began, up to that line."""
    line = b""
    while piece := os.read(fd, 1):
        if piece != b"\n":
            line += piece
        elif line.decode(errors="replace").strip() == last:
            return
        else:
            line = b""
