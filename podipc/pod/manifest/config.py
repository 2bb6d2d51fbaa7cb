"""What a Pod takes from the ConfigMaps of its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from podipc.pod.errors import ManifestError
from podipc.pod.manifest.model import ConfigMap, Key, Keys, Pod, Volume

__all__ = ["files", "value", "values", "write"]


def value(pod: Pod, path: str, key: Key) -> str | None:
    """The value of a configMapKeyRef at `path`; None if it is optional and not there.

    Raises
    ------
    ManifestError
        There is no such ConfigMap in the file, or no such key in it.
    """
    found = _find(pod, path, key.config_map, key.optional)
    if key.key in found.data or key.optional:
        return found.data.get(key.key)
    raise _no_key(pod, f"{path}.key", key.key, found.data)


def values(pod: Pod, keys: Keys) -> dict[str, str]:
    """The variables of an envFrom with a configMapRef. Raises as `value`."""
    found = _find(pod, keys.path, keys.config_map, keys.optional)
    return {keys.prefix + key: text for key, text in found.data.items()}


def files(pod: Pod, volume: Volume) -> dict[str, tuple[bytes, int]]:
    """Content and mode of the files of a configMap volume, by path. Raises as `value`."""
    found = _find(pod, volume.path, volume.config_map, volume.optional)
    content = {key: text.encode() for key, text in found.data.items()} | dict(found.binary)
    if volume.items is None:
        return {key: (data, volume.mode) for key, data in content.items()}
    made = {}
    for number, (key, path, mode) in enumerate(volume.items):
        if key in content:
            made[path] = (content[key], volume.mode if mode is None else mode)
        elif not volume.optional:
            raise _no_key(pod, f"{volume.path}.items[{number}].key", key, content)
    return made


def write(pod: Pod, volume: Volume, root: Path, group: int | None) -> None:
    """Write the `files` of a configMap volume into an empty directory.

    Parameters
    ----------
    group
        To which they are given, and which may read them; None: that of this process.
    """
    for path, (content, mode) in files(pod, volume).items():
        for directory in reversed(Path(path).parents[:-1]):
            (root / directory).mkdir(exist_ok=True)
            (root / directory).chmod(0o755)
        file = root / path
        file.write_bytes(content)
        if group is not None:
            os.chown(file, -1, group)
        file.chmod(mode if group is None else mode | 0o440)


def _find(pod: Pod, path: str, name: str, optional: bool) -> ConfigMap:
    found = pod.config_maps.get(name)
    if found is None and optional:
        return ConfigMap(pod.source, name, {}, {})
    if found is None:
        there = ", ".join(pod.config_maps) or "there is none"
        raise ManifestError(
            f"{pod.source}: {path}.name: expected the name of a ConfigMap in the same file "
            f"({there}), not {name!r}",
            pod.source,
            f"{path}.name",
        )
    return found


def _no_key(pod: Pod, path: str, key: str, there: Mapping[str, object]) -> ManifestError:
    keys = ", ".join(there) or "there is none"
    return ManifestError(
        f"{pod.source}: {path}: expected a key of the ConfigMap ({keys}), not {key!r}",
        pod.source,
        path,
    )
