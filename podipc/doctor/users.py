"""Of a manifest: who runs as whom, and which mode lets them meet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from podipc.doctor.addresses import Use, concerned, whole
from podipc.doctor.finding import WARN, Finding
from podipc.pod.manifest import Container, Pod


def users(pod: Pod, uses: Collection[Use]) -> Iterator[Finding]:
    """The first container that has to meet others, against each of those."""
    needs = [
        c for c in concerned(pod, uses) if (c not in pod.init or c.sidecar) and _needs_mode(c, uses)
    ]
    for other in needs[1:]:
        if found := _pair(pod, uses, needs[0], other):
            yield found


def _pair(pod: Pod, uses: Collection[Use], first: Container, other: Container) -> Finding | None:
    (uid, gid), (uid2, gid2) = _ids(pod, first), _ids(pod, other)
    same_image = first.image == other.image
    if uid == uid2 and (uid is not None or same_image):
        return None
    modes = [_modes(container) for container in (first, other)]
    if all("0o666" in found for found in modes):
        return None
    field = f"{other.path}.securityContext.runAsUser"
    one_user, one_group = (
        f"{pod.at('spec.securityContext')}.{name}: one for both"
        for name in ("runAsUser", "runAsGroup")
    )
    pair = f"{first.name} runs as {_user(uid)}, {other.name} as {_user(uid2)}"
    extra = {*pod.groups, *([] if pod.fs_group is None else [pod.fs_group])}
    # What each of them makes has the group that it runs as; fsGroup is one more to be in.
    # A group that the manifest does not name is the image's to say, for each user apart.
    common = (gid is not None and gid == gid2) or {gid, gid2} <= extra
    # A volume gives its group to what is made in it.
    met = [u for u in uses if u.container in (first, other)]
    common |= pod.fs_group is not None and bool(met) and all(map(_on_a_volume, met))
    if common:
        if all(found or not _visible(c) for found, c in zip(modes, (first, other), strict=True)):
            return None
        return Finding(
            WARN,
            field,
            f"{pair}, with a common group; the default, mode=0o600, keeps them apart",
            f"mode=0o660 in podipc.sender() and receiver(), or {one_user}",
        )
    only = ""
    if pod.fs_group is not None:
        only = (
            "; fsGroup alone is not enough: what each of them makes in /dev/shm has the group "
            "that it runs as"
        )
    return Finding(
        WARN,
        field,
        f"{pair}, without a common group: mode=0o600, the default, and 0o660 keep them apart{only}",
        f"{one_user}; or {one_group}, and mode=0o660; or mode=0o666",
    )


def _on_a_volume(use: Use) -> bool:
    address = use.address
    return address.method != "shm" or not address.named


def _needs_mode(container: Container, uses: Collection[Use]) -> bool:
    """Not with tcp and http alone, which every UID reaches."""
    own = [use.address.method for use in uses if use.container is container]
    return not own or any(method not in ("tcp", "http") for method in own)


def _ids(pod: Pod, container: Container) -> tuple[int | None, int | None]:
    own, common = container.security, pod.security
    uid = common.user if own.user is None else own.user
    gid = common.group if own.group is None else own.group
    return uid, gid


def _user(uid: int | None) -> str:
    return "whom its image says" if uid is None else f"UID {uid}"


def _modes(container: Container) -> set[str]:
    return set(re.findall(r"\bmode\s*=\s*(0o66[06])\b", whole(container)))


def _visible(container: Container) -> bool:
    """Whether the program is in the manifest, so that the mode would be seen."""
    return bool(re.search(r"\bpodipc\.|from podipc import|import podipc", whole(container)))
