"""What Kubernetes makes of `env`, `command` and `args`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from podipc.pod.errors import ManifestError
from podipc.pod.manifest import Container, Pod, Variable


def variables(pod: Pod, container: Container, uid: str, runtime: str) -> dict[str, str]:
    """The environment that the manifest asks for, `uid` being that of the Pod.

    Raises
    ------
    ManifestError
        A value comes from where the runtime has nothing.
    """
    if container.env_from:
        path = container.env_from[0]
        raise ManifestError(
            f"{pod.source}: {path}: the runtime {runtime} has no ConfigMaps and Secrets; use env",
            pod.source,
            path,
        )
    found: dict[str, str] = {}
    for variable in container.env:
        if variable.value is None:
            found[variable.name] = _field(pod, variable, uid, runtime)
        else:
            found[variable.name] = expand(variable.value, found)
    return found


def command(container: Container, env: Mapping[str, str]) -> list[str]:
    """`command` and `args`, with ``$(NAME)`` replaced."""
    return [expand(word, env) for word in (*container.command, *container.args)]


_REFERENCE = re.compile(r"\$\$|\$\(([^()]*)\)")


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; what is not known stays, and ``$$`` is one dollar."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def _field(pod: Pod, variable: Variable, uid: str, runtime: str) -> str:
    field = variable.field or ""
    known = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": uid,
        "spec.nodeName": os.uname().nodename,
        "spec.serviceAccountName": "default",
        "status.podIP": "127.0.0.1",
        "status.podIPs": "127.0.0.1",
        "status.hostIP": "127.0.0.1",
    }
    if field in known:
        return known[field]
    match = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", field)
    if match:
        values: Mapping[str, str] = pod.labels if match[1] == "labels" else pod.annotations
        return values.get(match[2], "")
    choices: Sequence[str] = [*known, "metadata.labels['KEY']", "metadata.annotations['KEY']"]
    raise ManifestError(
        f"{pod.source}: {variable.path}: expected, for the runtime {runtime}, a fieldRef to one of "
        f"{', '.join(choices)}, not {field}",
        pod.source,
        variable.path,
    )
