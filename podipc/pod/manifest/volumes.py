"""Read the volumes of a manifest."""

from __future__ import annotations

import os
import re

from podipc.pod.manifest.document import Node, named, pick, words
from podipc.pod.manifest.model import Volume

__all__ = ["read_volumes"]

_VOLUMES = words(
    "emptyDir hostPath awsElasticBlockStore azureDisk azureFile cephfs cinder configMap csi "
    "downwardAPI ephemeral fc flexVolume flocker gcePersistentDisk gitRepo glusterfs image iscsi "
    "nfs persistentVolumeClaim photonPersistentDisk portworxVolume projected quobyte rbd scaleIO "
    "secret storageos vsphereVolume"
)
_HOST_TYPES = words("DirectoryOrCreate Directory FileOrCreate File Socket CharDevice BlockDevice")


def read_volumes(node: Node | None, others: list[str]) -> dict[str, Volume]:
    """Read ``spec.volumes``; paths of what is in no `Volume` go to `others`."""
    found: dict[str, Volume] = {}
    for item in node.items() if node else ():
        fields = item.fields(("name", *_VOLUMES))
        # `emptyDir:` with nothing after it is an emptyDir without options.
        kinds = [key for key in item.value if key != "name"]
        name = named(item, {k: v for k, v in fields.items() if k == "name"}, "volume", found)
        if len(kinds) != 1:
            what = ", ".join(kinds) if kinds else "none"
            item.wrong("one kind of volume (emptyDir: {} is the simplest)", what)
        found[name] = _volume(item, name, kinds[0], fields.get(kinds[0]), others)
    return found


def _volume(item: Node, name: str, kind: str, source: Node | None, others: list[str]) -> Volume:
    path = f"{item.path}.{kind}"
    if kind == "emptyDir":
        inside = source.fields(("medium", "sizeLimit")) if source else {}
        medium = pick(inside, "medium", Node.text, "")
        if medium not in ("", "Memory"):
            if not re.fullmatch(r"HugePages(-[0-9]+[KMG]i)?", medium):
                inside["medium"].wrong("'' (disk), 'Memory' or 'HugePages'")
            others.append(inside["medium"].path)
        size = pick(inside, "sizeLimit", Node.bytes, None)
        return Volume(path, name, kind, memory=medium == "Memory", size=size)
    if kind == "hostPath":
        inside = source.fields(("path", "type")) if source else {}
        if "path" not in inside:
            Node(item.source, path, None).missing("path", "a path of the host")
        host_path = inside["path"].text()
        if not host_path.startswith("/") or ".." in host_path.split("/"):
            inside["path"].wrong("an absolute path without '..'")
        kind_of = pick(inside, "type", lambda n: n.one_of("", *_HOST_TYPES), "")
        return Volume(path, name, kind, host_path=host_path, host_type=kind_of)
    if kind == "configMap":
        inside = source.fields(words("name items defaultMode optional")) if source else {}
        if "name" not in inside:
            Node(item.source, path, None).missing("name", "the name of a ConfigMap")
        return Volume(
            path,
            name,
            kind,
            config_map=inside["name"].subdomain(),
            items=pick(inside, "items", _items, None),
            mode=pick(inside, "defaultMode", _mode, 0o644),
            optional=pick(inside, "optional", Node.flag, False),
        )
    return Volume(path, name, kind)


def _items(node: Node) -> tuple[tuple[str, str, int | None], ...]:
    found: list[tuple[str, str, int | None]] = []
    for item in node.items():
        fields = item.fields(("key", "path", "mode"))
        for name, what in (("key", "a key of the ConfigMap"), ("path", "a relative path")):
            if name not in fields:
                item.missing(name, what)
        path = fields["path"].text()
        clean = os.path.normpath(path)
        if not path or path.startswith("/") or ".." in path.split("/") or clean == ".":
            fields["path"].wrong("a relative path without '..'")
        if any(clean == other or _above(clean, other) for _, other, _ in found):
            fields["path"].wrong("a path that no other item has, nor is in or above")
        found.append((fields["key"].text(), clean, pick(fields, "mode", _mode, None)))
    return tuple(found)


def _above(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def _mode(node: Node) -> int:
    return node.whole(0, 0o777)
