"""Read the containers of a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal

from podipc.pod.manifest.document import Node, hint, named, pick, words
from podipc.pod.manifest.model import (
    Container,
    Key,
    Keys,
    Mount,
    Probe,
    Resource,
    Security,
    Variable,
    Volume,
)
from podipc.pod.manifest.probes import read_probe

__all__ = ["SECURITY_USED", "identity", "read_containers", "security_of"]

_CONTAINER_USED = words(
    "name image command args env envFrom workingDir volumeMounts securityContext resources ports "
    "restartPolicy startupProbe"
)
_CONTAINER_OTHER = words(
    "imagePullPolicy lifecycle livenessProbe readinessProbe resizePolicy "
    "restartPolicyRules stdin stdinOnce terminationMessagePath terminationMessagePolicy tty "
    "volumeDevices"
)
_SECURITY_OTHER = words(
    "allowPrivilegeEscalation appArmorProfile capabilities privileged procMount "
    "readOnlyRootFilesystem seLinuxOptions seccompProfile windowsOptions"
)
_SOURCES = words("fieldRef resourceFieldRef configMapKeyRef secretKeyRef fileKeyRef")
_VARIABLE = re.compile(r"[ -<>-~]+")
SECURITY_USED = words("runAsUser runAsGroup runAsNonRoot")
"""What of a securityContext, of a Pod or a container, is in a `Security`."""

_MAX_ID = 2**31 - 1


def identity(node: Node) -> int:
    """A UID or GID."""
    return node.whole(0, _MAX_ID)


def security_of(fields: Mapping[str, Node]) -> Security:
    """What of a securityContext says whom a container runs as."""
    return Security(
        user=pick(fields, "runAsUser", identity, None),
        group=pick(fields, "runAsGroup", identity, None),
        non_root=pick(fields, "runAsNonRoot", Node.flag, None),
    )


def read_containers(
    node: Node,
    volumes: Mapping[str, Volume],
    names: dict[str, str],
    others: list[str],
    *,
    init: bool,
) -> tuple[Container, ...]:
    """Read a list of containers.

    Parameters
    ----------
    volumes
        Of the Pod, by name.
    names
        Of the containers so far, with their paths; those that are found are added.
    others
        Gets the paths of what is in no `Container`.
    init
        Whether they are init containers.
    """
    found = []
    for item in node.items():
        fields = item.fields((*_CONTAINER_USED, *_CONTAINER_OTHER))
        name = named(item, fields, "container", names)
        names[name] = item.path
        others += [at.path for key, at in fields.items() if key in _CONTAINER_OTHER]
        found.append(_container(item, name, fields, volumes, others, init=init))
    return tuple(found)


def _container(
    item: Node,
    name: str,
    fields: Mapping[str, Node],
    volumes: Mapping[str, Volume],
    others: list[str],
    *,
    init: bool,
) -> Container:
    if "image" not in fields or not fields["image"].text():
        item.missing("image", "the name of an image")
    if fields["image"].text().startswith("-"):  # an option of podman
        fields["image"].wrong("the name of an image")
    sidecar = False
    if "restartPolicy" in fields:
        if not init:
            fields["restartPolicy"].wrong("nothing here: only an init container may have one")
        sidecar = fields["restartPolicy"].one_of("Always") == "Always"
    security: dict[str, Node] = {}
    if "securityContext" in fields:
        security = fields["securityContext"].fields((*SECURITY_USED, *_SECURITY_OTHER))
        others += [node.path for key, node in security.items() if key in _SECURITY_OTHER]
    amounts = _amounts(fields.get("resources"), others)
    memory, cpu = amounts.get("limits.memory"), amounts.get("limits.cpu")
    directory = pick(fields, "workingDir", Node.text, "") or None
    if directory is not None and not directory.startswith("/"):
        fields["workingDir"].wrong("an absolute path")
    startup = _probes(fields, sidecar=sidecar or not init)
    if startup and startup.kind == "grpc":
        others.append(f"{startup.path}.grpc")
    return Container(
        path=item.path,
        name=name,
        image=fields["image"].text(),
        command=pick(fields, "command", Node.texts, ()),
        args=pick(fields, "args", Node.texts, ()),
        env=_env(fields.get("env")),
        env_from=_env_from(fields.get("envFrom")),
        directory=directory,
        mounts=_mounts(fields.get("volumeMounts"), volumes, others),
        security=security_of(security),
        memory=None if memory is None else int(memory),
        cpu=float(cpu) if cpu else None,  # 0 is no limit, as in Kubernetes
        amounts=amounts,
        ports=_ports(fields.get("ports")),
        sidecar=sidecar,
        startup=startup,
    )


def _probes(fields: Mapping[str, Node], *, sidecar: bool) -> Probe | None:
    """Check all probes; the startup probe."""
    found = {}
    ports = _port_names(fields.get("ports"))
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in fields:
            if not sidecar:
                fields[name].wrong("nothing: an init container has none unless it is a sidecar")
            found[name] = read_probe(fields[name], ports, once=name != "readinessProbe")
    return found.get("startupProbe")


def _amounts(node: Node | None, others: list[str]) -> dict[str, Decimal]:
    """All limits and requests, by ``limits.memory`` and the like."""
    fields = node.fields(("limits", "requests", "claims")) if node else {}
    others += [at.path for key, at in fields.items() if key == "claims"]
    amounts: dict[str, Decimal] = {}
    for key in ("limits", "requests"):
        found = fields[key].value if key in fields else {}
        if not isinstance(found, dict):
            fields[key].wrong("an object such as {memory: 64Mi, cpu: 500m}")
        for resource, value in found.items():
            at = Node(fields[key].source, f"{fields[key].path}.{resource}", value)
            known = ("memory", "cpu", "ephemeral-storage")
            is_own = "/" in str(resource) or str(resource).startswith("hugepages-")
            if resource not in known and not is_own:
                at.wrong("memory, cpu, ephemeral-storage or DOMAIN/NAME", repr(resource))
            amount = Decimal(at.bytes()) if resource == "memory" else at.quantity()
            if amount >= 2**63:
                at.wrong("a quantity below 2**63")
            amounts[f"{key}.{resource}"] = amount
            if key == "requests" and amount > amounts.get(f"limits.{resource}", amount):
                at.wrong(f"at most its limit, {fields['limits'].value[resource]}")
            if key == "requests" or resource not in ("memory", "cpu"):
                others.append(at.path)
    return amounts


def _env(node: Node | None) -> tuple[Variable, ...]:
    found = []
    for item in node.items() if node else ():
        fields = item.fields(("name", "value", "valueFrom"))
        if "name" not in fields:
            item.missing("name", "the name of the variable")
        name = fields["name"].text()
        if not _VARIABLE.fullmatch(name):
            fields["name"].wrong("printable characters without '='")
        if "valueFrom" not in fields:
            found.append(Variable(item.path, name, pick(fields, "value", Node.text, "")))
            continue
        if "value" in fields:
            fields["valueFrom"].wrong("nothing, because there is a value as well")
        found.append(_variable_from(name, fields["valueFrom"]))
    return tuple(found)


_RESOURCES = tuple(
    f"{which}.{what}"
    for which in ("limits", "requests")
    for what in ("cpu", "memory", "ephemeral-storage")
)


def _variable_from(name: str, node: Node) -> Variable:
    sources = node.fields(_SOURCES)
    if len(sources) != 1:
        node.wrong(f"one of {', '.join(_SOURCES)}")
    ((kind, source),) = sources.items()
    if kind == "fieldRef":
        inside = source.fields(("apiVersion", "fieldPath"))
        if "fieldPath" not in inside:
            source.missing("fieldPath", "a field such as metadata.name")
        return Variable(source.path, name, None, inside["fieldPath"].text())
    if kind == "configMapKeyRef":
        inside = source.fields(("name", "key", "optional"))
        for field, what in (("name", "the name of a ConfigMap"), ("key", "one of its keys")):
            if field not in inside:
                source.missing(field, what)
        optional = pick(inside, "optional", Node.flag, False)
        key = Key(inside["name"].subdomain(), inside["key"].text(), optional)
        return Variable(source.path, name, None, kind, key=key)
    if kind == "resourceFieldRef":
        inside = source.fields(("containerName", "resource", "divisor"))
        if "resource" not in inside:
            source.missing("resource", "a limit or request such as limits.memory")
        divisor = pick(inside, "divisor", Node.quantity, Decimal(0)) or Decimal(1)
        resource = Resource(
            pick(inside, "containerName", Node.label, ""),
            inside["resource"].one_of(*_RESOURCES),
            divisor,
        )
        return Variable(source.path, name, None, kind, resource=resource)
    return Variable(source.path, name, None, kind)


def _env_from(node: Node | None) -> tuple[Keys, ...]:
    found = []
    for item in node.items() if node else ():
        fields = item.fields(("prefix", "configMapRef", "secretRef"))
        sources = [key for key in fields if key != "prefix"]
        if len(sources) != 1:
            item.wrong("one of configMapRef, secretRef", ", ".join(sources) or "none")
        source = fields[sources[0]]
        inside = source.fields(("name", "optional"))
        if "name" not in inside:
            source.missing("name", "a name")
        found.append(
            Keys(
                source.path,
                inside["name"].subdomain() if sources == ["configMapRef"] else "",
                pick(fields, "prefix", Node.text, ""),
                pick(inside, "optional", Node.flag, False),
            )
        )
    return tuple(found)


def _mounts(
    node: Node | None, volumes: Mapping[str, Volume], others: list[str]
) -> tuple[Mount, ...]:
    found: list[Mount] = []
    known = words("name mountPath readOnly subPath subPathExpr mountPropagation recursiveReadOnly")
    for item in node.items() if node else ():
        fields = item.fields(known)
        for name, what in (("name", "the name of a volume"), ("mountPath", "an absolute path")):
            if name not in fields:
                item.missing(name, what)
        volume = fields["name"].text()
        if volume not in volumes:
            there = ", ".join(volumes) or "there is none"
            pod = re.split(r"\.(?:initC|c)ontainers\[", item.path)[0]
            expected = f"the name of a volume in {pod}.volumes ({there})"
            fields["name"].wrong(expected, repr(volume) + hint(volume, volumes))
        target = fields["mountPath"].text()
        clean = os.path.normpath("/" + target.lstrip("/"))
        if not target.startswith("/") or ":" in target or clean == "/":
            fields["mountPath"].wrong("an absolute path other than '/' and without ':'")
        if any(clean == other.target for other in found):
            fields["mountPath"].wrong("a path at which no other volume is")
        sub_path = pick(fields, "subPath", Node.text, "")
        if sub_path.startswith("/") or ".." in sub_path.split("/"):
            fields["subPath"].wrong("a relative path without '..'")
        others += [
            at.path
            for key, at in fields.items()
            if key in ("subPathExpr", "mountPropagation", "recursiveReadOnly")
        ]
        read_only = pick(fields, "readOnly", Node.flag, False)
        found.append(Mount(item.path, volume, clean, read_only, sub_path))
    return tuple(found)


def _ports(node: Node | None) -> tuple[int, ...]:
    found = []
    for item in node.items() if node else ():
        fields = item.fields(words("containerPort hostIP hostPort name protocol"))
        if "containerPort" not in fields:
            item.missing("containerPort", "a port from 1 to 65535")
        pick(fields, "protocol", lambda n: n.one_of("TCP", "UDP", "SCTP"), "TCP")
        pick(fields, "name", Node.text, "")
        found.append(fields["containerPort"].whole(1, 65535))
    return tuple(found)


def _port_names(node: Node | None) -> dict[str, int]:
    """The ports that have a name; whether they are right is for `_ports` to say."""
    found = {}
    for item in node.items() if node else ():
        port = item.value.get("containerPort") if isinstance(item.value, dict) else None
        if isinstance(port, int):
            found[str(item.value.get("name"))] = port
    return found
