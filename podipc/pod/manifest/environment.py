"""What Kubernetes makes of `env`, `command` and `args`."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from decimal import Decimal

from podipc.pod.errors import ManifestError
from podipc.pod.manifest import config
from podipc.pod.manifest.model import Container, Pod, Resource, Variable


def variables(pod: Pod, container: Container, uid: str, runtime: str) -> dict[str, str]:
    """The environment that the manifest asks for, `uid` being that of the Pod.

    Raises
    ------
    ManifestError
        A value comes from where the runtime has nothing.
    """
    found: dict[str, str] = {}
    for keys in container.env_from:
        if not keys.config_map:
            raise _nothing(pod, keys.path, runtime)
        found |= config.values(pod, keys)
    for variable in container.env:
        value = variable.value
        if value is not None:
            found[variable.name] = expand(value, found)
        elif variable.key is not None:
            value = config.value(pod, variable.path, variable.key)
            if value is not None:
                found[variable.name] = value
        elif variable.resource is not None:
            found[variable.name] = _amount(pod, container, variable, variable.resource)
        elif variable.field in _ELSEWHERE:
            raise _nothing(pod, variable.path, runtime)
        else:
            found[variable.name] = _field(pod, variable, uid, runtime)
    return found


_ELSEWHERE = ("secretKeyRef", "fileKeyRef")


def _nothing(pod: Pod, path: str, runtime: str) -> ManifestError:
    return ManifestError(
        f"{pod.source}: {path}: the runtime {runtime} has no Secrets; use a value, or a "
        "ConfigMap in the same file",
        pod.source,
        path,
    )


def _amount(pod: Pod, container: Container, variable: Variable, resource: Resource) -> str:
    """A limit or request, rounded up, in units of the divisor."""
    wanted = {c.name: c for c in pod.everyone()}
    if resource.container not in ("", *wanted):
        path = f"{variable.path}.containerName"
        raise ManifestError(
            f"{pod.source}: {path}: expected a container of the Pod ({', '.join(wanted)}), "
            f"not {resource.container!r}",
            pod.source,
            path,
        )
    amounts = wanted[resource.container or container.name].amounts
    which, _, what = resource.name.partition(".")
    amount = amounts.get(resource.name)
    if amount is None and which == "requests":
        # As the API server sets it.
        amount = amounts.get(f"limits.{what}", Decimal(0))
    if amount is None:
        amount = _of_machine(what)
    return str(math.ceil(amount / resource.divisor))


def _of_machine(what: str) -> Decimal:
    """What a container without a limit may have."""
    if what == "cpu":
        return Decimal(os.cpu_count() or 1)
    if what == "memory":
        return Decimal(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Decimal(shutil.disk_usage("/").total)


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
