"""What a container of a manifest finds in its file system, without touching the host's.

The process that holds the Pod moves the host's file system to ``/host`` in its own
mount namespace and mounts the Memory volumes at ``/volumes``. Each container starts
from a copy of that, builds a new root, a tmpfs with the host's top directories
mounted into it, and makes it its ``/``. So there can be a directory ``/shared-mem``
that the host does not have. A directory of the host in which something has to be
made is not mounted as a whole: its entries are, one by one.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from podipc.pod.errors import ManifestError, NotHere
from podipc.pod.local.namespaces import Operation
from podipc.pod.manifest import Container, Pod, Volume, config

HOST = "/host"
_VOLUMES = "/volumes"
_ROOT = "/root"


def pod_setup(pod: Pod, scratch: str, memory: int | None, *, may_own: bool) -> list[Operation]:
    """What the Pod's own process does before the first container.

    Parameters
    ----------
    scratch
        A directory of the host, not there yet, for the volumes on disk; it is removed
        when the Pod ends.
    memory
        Size in bytes of Memory volumes without a ``sizeLimit``; None: half of the machine's.
    may_own
        Whether volumes can be given to the ``fsGroup``.
    """
    operations: list[Operation] = [
        ("tmpfs", "/proc", "mode=0755"),
        ("pivot", "/proc", HOST.lstrip("/")),
        # For the process itself, which looks for its children there.
        ("symlink", f"{HOST}/proc", "/proc"),
        ("mkdir", _ROOT, "0755"),
    ]
    if any(_on_disk(volume) for volume in pod.volumes):
        operations += [("at-end", HOST + scratch), ("mkdir", HOST + scratch, "0700")]
    for volume in pod.volumes:
        if not _is_made(volume):
            continue
        place = _place(volume, scratch)
        operations.append(("mkdir", place, "0777"))
        if volume.memory:
            size = volume.size or memory
            options = "mode=0777" + (f",size={size}" if size else "")
            operations.append(("tmpfs", place, options))
        if pod.fs_group is not None and may_own and volume.kind == "emptyDir":
            operations.append(("own", place, str(pod.fs_group), "2777"))
    return operations


def container_setup(
    pod: Pod, container: Container, scratch: str, user: User | None = None
) -> list[Operation]:
    """What the process of a container does before its program.

    Parameters
    ----------
    user
        Whom it runs as, if that is somebody else: Python has to be within reach then.

    Raises
    ------
    ManifestError
        A volume cannot be mounted where the manifest wants it.
    """
    volumes = {volume.name: volume for volume in pod.volumes}
    # What is above has to be there first.
    mounts = sorted(
        ((os.path.realpath(mount.target), mount) for mount in container.mounts),
        key=lambda pair: pair[0].count("/"),
    )
    targets = [target for target, _ in mounts]
    directory = container.directory
    if directory and not os.path.exists(directory):
        targets.append(os.path.realpath(directory))
    operations = _root(pod, container, targets, user)
    for target, mount in mounts:
        volume = volumes[mount.volume]
        source, flags = _place(volume, scratch), "m"
        if mount.sub_path:
            source, flags = f"{source}/{mount.sub_path}", "ms"
        elif os.path.exists(target) and os.path.isdir(target) != _is_directory(volume):
            what = "a file" if _is_directory(volume) else "a directory"
            raise _wrong(pod, mount.path, f"cannot be mounted at {target}, which is {what} here")
        read_only = mount.read_only or volume.kind == "configMap"
        operations.append(("bind", source, _ROOT + target, flags + "r" * read_only))
    if directory:
        operations.append(("mkdir", _ROOT + os.path.realpath(directory), "0755"))
    operations.append(("pivot", _ROOT, ""))
    return operations


def fill(pod: Pod, scratch: str, *, may_own: bool) -> None:
    """Write the files of configMap volumes, after `pod_setup` was carried out."""
    for volume in pod.volumes:
        if volume.kind != "configMap":
            continue
        config.write(pod, volume, Path(scratch, volume.name), pod.fs_group if may_own else None)


def check(pod: Pod) -> None:
    """Refuse volumes that this runtime does not have, and paths of the host that are not there.

    Raises
    ------
    ManifestError
    """
    used = {mount.volume for container in pod.everyone() for mount in container.mounts}
    for volume in pod.volumes:
        if volume.kind not in ("emptyDir", "hostPath", "configMap") and volume.name in used:
            raise _wrong(
                pod,
                volume.path,
                "the local runtime has emptyDir, hostPath and configMap volumes, not this",
            )
        if volume.kind == "configMap":
            config.files(pod, volume)
        if volume.kind == "hostPath" and volume.name in used:
            _check_host_path(pod, volume)


_HOST_TYPES = {
    "Directory": stat.S_ISDIR,
    "DirectoryOrCreate": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "FileOrCreate": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


def _check_host_path(pod: Pod, volume: Volume) -> None:
    path = Path(volume.host_path)
    try:
        if volume.host_type == "DirectoryOrCreate":
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif volume.host_type == "FileOrCreate":
            path.touch(mode=0o644, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        hint = "; type: DirectoryOrCreate makes it" if not volume.host_type else ""
        raise _wrong(pod, f"{volume.path}.path", f"{path}: {error.strerror}{hint}") from error
    if volume.host_type and not _HOST_TYPES[volume.host_type](mode):
        raise _wrong(pod, f"{volume.path}.type", f"{path} is there, but is no {volume.host_type}")


def _is_made(volume: Volume) -> bool:
    """Whether it is made for the Pod, and goes with it."""
    return volume.kind in ("emptyDir", "configMap")


def _on_disk(volume: Volume) -> bool:
    return _is_made(volume) and not volume.memory


def _is_directory(volume: Volume) -> bool:
    return _is_made(volume) or os.path.isdir(volume.host_path)


def _place(volume: Volume, scratch: str) -> str:
    if volume.kind == "hostPath":
        return HOST + os.path.realpath(volume.host_path)
    return f"{HOST}{scratch}/{volume.name}" if _on_disk(volume) else f"{_VOLUMES}/{volume.name}"


def _wrong(pod: Pod, path: str, text: str) -> ManifestError:
    return ManifestError(f"{pod.source}: {path}: {text}", pod.source, path)


def _root(
    pod: Pod, container: Container, targets: Sequence[str], user: User | None
) -> list[Operation]:
    """A new root, in which there is or can be made what is to be mounted on."""
    opened = {"/"}
    for target in targets:
        if os.path.lexists(target) or _within(target, (t for t in targets if t != target)):
            continue
        above = os.path.dirname(target)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above):
            path = next((m.path for m in container.mounts if m.target == target), container.path)
            raise _wrong(pod, path, f"{target} cannot be made: {above} is no directory here")
        opened.update({above, *map(str, Path(above).parents)})
    narrow = user.closed(_python()) if user else set()
    wanted = {str(p) for path in _python() for p in (path, *path.parents)}
    for directory in narrow:
        opened.update({directory, *map(str, Path(directory).parents)})
    operations: list[Operation] = [("tmpfs", _ROOT, "mode=0755")]
    for directory in sorted(opened):
        # The rest of what was closed to the user was that anyway.
        only = wanted if directory in narrow else None
        entries = _entries(directory, opened, only)
        if directory != "/":
            mode = stat.S_IMODE(os.stat(directory).st_mode)
            mode |= 0o111 if directory in narrow else 0
            operations.append(("mkdir", _ROOT + directory, f"{mode:o}"))
        operations += entries
    return operations


@dataclass(frozen=True)
class User:
    """Whom a container runs as, where that is not whom this process runs as."""

    uid: int
    gids: frozenset[int]

    def may_search(self, directory: Path) -> bool:
        """Whether a directory is open to that user; what is above is not looked at."""
        found = directory.stat()
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.gids else 0
        return bool(found.st_mode >> shift & 1)

    def closed(self, paths: Iterable[Path]) -> set[str]:
        """The directories on the way to `paths` that are closed to that user."""
        above = {directory for path in paths for directory in path.parents}
        return {str(directory) for directory in above if not self.may_search(directory)}


def _python() -> list[Path]:
    """Where this Python and podipc are, with all symbolic links on the way resolved or not."""
    import podipc

    places = {sys.prefix, sys.base_prefix, os.path.dirname(podipc.__file__ or sys.prefix)}
    return [Path(p) for place in places for p in {os.path.abspath(place), os.path.realpath(place)}]


def _within(target: str, others: Iterable[str]) -> bool:
    return any(target.startswith(other + "/") for other in others)


def _entries(directory: str, opened: set[str], only: set[str] | None) -> list[Operation]:
    operations: list[Operation] = []
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise NotHere(
            f"a directory cannot be made in {directory}, which is not readable: {error.strerror}"
        ) from error
    for entry in entries:
        if entry.path in opened or (only is not None and entry.path not in only):
            continue
        if entry.is_symlink():
            operations.append(("symlink", os.readlink(entry.path), _ROOT + entry.path))
        else:
            operations.append(("bind", HOST + entry.path, _ROOT + entry.path, "mt"))
    return operations
