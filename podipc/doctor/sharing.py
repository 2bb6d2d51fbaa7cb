"""Of a manifest: whether two containers share what their addresses need."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from podipc.address import DEFAULT_DIR
from podipc.doctor.addresses import Use, concerned, uses_podipc
from podipc.doctor.finding import FAIL, WARN, Finding
from podipc.pod.manifest import Container, Mount, Pod

SHM = "/dev/shm"
_READ_ONLY = ("configMap", "secret", "downwardAPI", "projected", "image")


@dataclass(frozen=True)
class Spot:
    """Where a path leads to: a volume, the path in it, and the mount; None: no volume."""

    volume: str | None
    inside: str
    mount: Mount | None


def spot(container: Container, path: str) -> Spot:
    """The last mount that a path goes through."""
    best: Mount | None = None
    for mount in container.mounts:
        inside = path == mount.target or path.startswith(mount.target + "/")
        if inside and (best is None or len(mount.target) > len(best.target)):
            best = mount
    if best is None:
        return Spot(None, path, None)
    inside_path = "/".join(
        part for part in (best.sub_path.strip("/"), path[len(best.target) :].strip("/")) if part
    )
    return Spot(best.volume, inside_path, best)


def _directory(use: Use) -> str:
    """The directory that has to be shared, or "" if none has."""
    address = use.address
    if address.method in ("tcp", "http"):
        return ""
    if address.named:
        return channels_of(use.container)
    if address.method in ("unix", "fifo"):
        return address.path.rpartition("/")[0] or "/"
    return address.path


def channels_of(container: Container) -> str:
    """Where channels with a bare name are, in that container."""
    for variable in reversed(container.env):
        if variable.name == "PODIPC_DIR" and variable.value:
            return variable.value.rstrip("/")
    return DEFAULT_DIR


def _is_shm(path: str) -> bool:
    return path == SHM or path.startswith(SHM + "/")


def paths(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """Directories of addresses: on a volume, to be written, in two containers, the same one."""
    spots: dict[str, list[tuple[Use, Spot]]] = {}
    for use in uses:
        directory = _directory(use)
        if not directory:
            continue
        at = spot(use.container, directory)
        if at.mount is None and _is_shm(directory):
            continue  # that of the Pod; `dev_shm` looks at it
        problem = _alone(pod, use, directory, at)
        if problem:
            yield problem
        elif not use.address.named:
            spots.setdefault(use.address.path, []).append((use, at))
    for path, found in spots.items():
        (first, at), *others = found
        for use, other in others:
            if (at.volume, at.inside) != (other.volume, other.inside):
                yield Finding(
                    FAIL,
                    use.path,
                    f"{use.address.text}: {path} is on volume {at.volume} (at "
                    f"{at.inside or 'its top'!s}) in {first.container.name}, and on "
                    f"{other.volume} (at {other.inside or 'its top'!s}) in {use.container.name}: "
                    "they do not meet",
                    f"{other.mount.path if other.mount else use.container.path}: the same volume "
                    "and subPath in both",
                )


def _alone(pod: Pod, use: Use, directory: str, at: Spot) -> Finding | None:
    """What is wrong with a directory in one container, whatever the others have."""
    container, text = use.container, use.address.text
    if at.mount is None:
        how = ""
        if _read_only_root(pod, container):
            how = ", which is read-only as well"
        top = "/" + directory.strip("/").split("/")[0]
        return Finding(
            FAIL,
            use.path,
            f"{text}: {directory} is in {container.name}'s own file system{how}; no other "
            "container sees it",
            f"{pod.at('spec.volumes')}: + {{name: shared, emptyDir: {{}}}}, and in both containers "
            f"{container.path}.volumeMounts: + {{name: shared, mountPath: {top}}}",
        )
    volume = next(v for v in pod.volumes if v.name == at.volume)
    if at.mount.read_only:
        return Finding(
            FAIL,
            f"{at.mount.path}.readOnly",
            f"{text}: {container.name} mounts volume {at.volume} read-only, and podipc writes on "
            "both sides (a receiver takes away what it has received)",
            f"{at.mount.path}.readOnly: false",
        )
    if volume.kind in _READ_ONLY:
        return Finding(
            FAIL,
            volume.path,
            f"{text}: volume {at.volume} is a {volume.kind}, which nobody can write to",
            f"{volume.path.rpartition('.')[0]}.emptyDir: {{}}",
        )
    others = [
        c.name
        for c in pod.everyone()
        if c is not container and any(m.volume == at.volume for m in c.mounts)
    ]
    if not others:
        return Finding(
            FAIL,
            at.mount.path,
            f"{text}: only {container.name} mounts volume {at.volume}: nobody can meet it there",
            "volumeMounts of the other container: + "
            f"{{name: {at.volume}, mountPath: {at.mount.target}}}",
        )
    return None


def _read_only_root(pod: Pod, container: Container) -> bool:
    index = int(container.path.rpartition("[")[2].rstrip("]"))
    key = "initContainers" if container in pod.init else "containers"
    security = pod.document["spec"][key][index].get("securityContext") or {}
    return security.get("readOnlyRootFilesystem") is True


def dev_shm(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """A volume at /dev/shm: the same in all containers, and one to write to."""
    at = {c.name: next((m for m in c.mounts if m.target == SHM), None) for c in pod.everyone()}
    mounted = {name: mount for name, mount in at.items() if mount is not None}
    if not mounted:
        return
    ours = {c.name for c in concerned(pod, uses)}
    first_name, first = next(iter(mounted.items()))
    for container in pod.everyone():
        mount = at[container.name]
        if container in pod.init and not container.sidecar and mount is None:
            continue
        level = FAIL if not ours or container.name in ours else WARN
        if mount is None:
            yield Finding(
                level,
                f"{container.path}.volumeMounts",
                f"{first_name} has volume {first.volume} at /dev/shm, and {container.name} has "
                "the /dev/shm of the Pod: it is not shared any more, and shm://NAME does not "
                "meet",
                f"{container.path}.volumeMounts: + {{name: {first.volume}, mountPath: /dev/shm}}",
            )
        elif (mount.volume, mount.sub_path) != (first.volume, first.sub_path):
            yield Finding(
                level,
                mount.path,
                f"{first_name} has volume {first.volume} at /dev/shm, and {container.name} has "
                f"{mount.volume}{'/' + mount.sub_path if mount.sub_path else ''}: shm://NAME does "
                "not meet",
                f"{mount.path}.name: {first.volume}, and the same subPath",
            )
        if mount is not None and mount.read_only:
            yield Finding(
                FAIL,
                f"{mount.path}.readOnly",
                f"{container.name} may not write to /dev/shm, where both sides of shm make their "
                "sockets",
                f"{mount.path}.readOnly: false",
            )
    for volume in pod.volumes:
        if any(m.volume == volume.name for m in mounted.values()) and not volume.memory:
            yield Finding(
                WARN,
                volume.path,
                f"volume {volume.name} at /dev/shm is not memory: named segments are written to "
                "disk",
                f"{volume.path.rpartition('.')[0]}.emptyDir: {{medium: Memory, sizeLimit: 256Mi}}",
            )


def ports(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """All containers have one port space."""
    owners: dict[int, Container] = {}
    for container in pod.everyone():
        if container in pod.init and not container.sidecar:
            continue  # it has ended before others start
        for i, port in enumerate(container.ports):
            other = owners.setdefault(port, container)
            if other is not container:
                yield Finding(
                    WARN,
                    f"{container.path}.ports[{i}].containerPort",
                    f"{other.name} and {container.name} both have port {port}, and containers of "
                    "a Pod have one port space: the second to bind gets EADDRINUSE",
                    f"{container.path}.ports[{i}].containerPort: another one",
                )
    listening: dict[int, Use] = {}
    for use in uses:
        if not use.receives or not use.address.port:
            continue
        first = listening.setdefault(use.address.port, use)
        if first.container is not use.container:
            yield Finding(
                FAIL,
                use.path,
                f"{use.address.text}: {first.container.name} and {use.container.name} both listen "
                "there, and containers of a Pod have one port space: the second gets AddressInUse",
                f"{use.path}: another port, or podipc.sender() in one of them",
            )


def orders(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """An init container has ended before those start whom it would meet."""
    later = {c.name for c in pod.containers}
    for i, container in enumerate(pod.init):
        if container.sidecar:
            continue
        for use in uses:
            if use.container is not container or _is_met_early(pod.init[:i], use, uses):
                continue
            peers = [
                u.container.name
                for u in uses
                if u.container.name in later and u.address.text == use.address.text
            ]
            if peers and use.address.method != "file":
                yield Finding(
                    FAIL,
                    use.path,
                    f"{use.address.text}: {container.name} has to end before {', '.join(peers)} "
                    "starts, so they never meet",
                    f"{container.path}.restartPolicy: Always (a sidecar), or move it to "
                    f"{pod.at('spec.containers')}",
                )


def _is_met_early(before: Collection[Container], use: Use, uses: Collection[Use]) -> bool:
    """Whether a sidecar that has started before is at that address, too."""
    sidecars = [c.name for c in before if c.sidecar]
    return any(u.container.name in sidecars and u.address.text == use.address.text for u in uses)


def places(pod: Pod) -> Iterator[Finding]:
    """PODIPC_DIR: the same, absolute, for all who use podipc."""
    found = {c.name: channels_of(c) for c in pod.everyone() if uses_podipc(c) or _sets_place(c)}
    for container in pod.everyone():
        place = found.get(container.name, DEFAULT_DIR)
        if not place.startswith("/"):
            yield Finding(
                FAIL,
                f"{container.path}.env",
                f"PODIPC_DIR of {container.name} is {place!r}, a relative path",
                f"{container.path}.env: {{name: PODIPC_DIR, value: /dev/shm/podipc}}",
            )
    if len(set(found.values())) > 1:
        shown = ", ".join(f"{name}: {place}" for name, place in found.items())
        last = next(c for c in reversed(pod.everyone()) if _sets_place(c))
        yield Finding(
            WARN,
            f"{last.path}.env",
            f"channels with a bare name are in different directories ({shown}): they do not meet, "
            "unless one volume is mounted at both",
            "env: {name: PODIPC_DIR, ...}: the same in every container",
        )


def _sets_place(container: Container) -> bool:
    return any(variable.name == "PODIPC_DIR" for variable in container.env)
