"""A Kubernetes Pod manifest as frozen dataclasses, checked as the API server would.

``read("pod.yaml")`` raises `ManifestError` with the file, the path of the field,
what was expected and what there is. What is a field of Kubernetes but not of these
classes is kept by its path in `Pod.others`, so that a runtime can say that it does
not use it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podipc.pod.document import Node, documents, hint, pick
from podipc.pod.errors import ManifestError

__all__ = [
    "Container",
    "Manifest",
    "Mount",
    "Pod",
    "Security",
    "Service",
    "Variable",
    "Volume",
    "read",
]


@dataclass(frozen=True)
class Variable:
    """A variable of a container's environment: a value, or the field it comes from."""

    path: str
    name: str
    value: str | None
    field: str | None = None


@dataclass(frozen=True)
class Mount:
    """Where a container wants a volume."""

    path: str
    volume: str
    target: str
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True)
class Security:
    """Whom a container runs as; None where the manifest says nothing."""

    user: int | None = None
    group: int | None = None
    non_root: bool | None = None


@dataclass(frozen=True)
class Container:
    """One container. `memory` is in bytes, `cpu` in processors; both are limits.

    `sidecar` is an init container with ``restartPolicy: Always``. `env_from` are the
    paths of what cannot be read from the manifest alone.
    """

    path: str
    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    env_from: tuple[str, ...] = ()
    directory: str | None = None
    mounts: tuple[Mount, ...] = ()
    security: Security = Security()
    memory: int | None = None
    cpu: float | None = None
    ports: tuple[int, ...] = ()
    sidecar: bool = False


@dataclass(frozen=True)
class Volume:
    """A volume. `kind` is the name of its field: emptyDir, hostPath, configMap, ..."""

    path: str
    name: str
    kind: str
    memory: bool = False
    size: int | None = None
    host_path: str = ""
    host_type: str = ""


@dataclass(frozen=True)
class Pod:
    """One Pod. `others` are the paths of known fields that are in none of these classes."""

    source: str
    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    containers: tuple[Container, ...]
    init: tuple[Container, ...]
    volumes: tuple[Volume, ...]
    restart: str
    grace: int
    security: Security
    fs_group: int | None
    groups: tuple[int, ...]
    others: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)

    def everyone(self) -> tuple[Container, ...]:
        """Init containers and containers, in the order of the manifest."""
        return self.init + self.containers


@dataclass(frozen=True)
class Service:
    """A name under which the Pods with certain labels are reached from other Pods."""

    source: str
    name: str
    selector: Mapping[str, str]
    document: Mapping[str, Any] = field(repr=False)

    def selects(self, pod: Pod) -> bool:
        """Whether the Pod is one of those."""
        return bool(self.selector) and self.selector.items() <= pod.labels.items()


@dataclass(frozen=True)
class Manifest:
    """A file: its Pods and Services, and kind and name of all that is no Pod."""

    source: str
    pods: tuple[Pod, ...]
    services: tuple[Service, ...]
    others: tuple[tuple[str, str], ...]

    def pod(self) -> Pod:
        """The Pod, if there is one only.

        Raises
        ------
        ManifestError
            There are several.
        """
        if len(self.pods) > 1:
            names = ", ".join(pod.name for pod in self.pods)
            raise ManifestError(
                f"{self.source}: expected one Pod, not {len(self.pods)} ({names})", self.source
            )
        return self.pods[0]


def read(file: str | os.PathLike[str] | Mapping[str, Any]) -> Manifest:
    """Read a file of one or more documents, or one that has been read.

    Raises
    ------
    ManifestError
        Anything is wrong with it.
    """
    source = "manifest" if isinstance(file, Mapping) else os.fspath(file)
    pods: list[Pod] = []
    services: list[Service] = []
    others = []
    if isinstance(file, Mapping):
        found: Iterable[Node] = [Node(source, "", dict(file))]
    else:
        found = documents(Path(file))
    for document in found:
        kind = _kind(document)
        if kind != "Pod":
            metadata = document.value.get("metadata")
            name = metadata.get("name") if isinstance(metadata, dict) else None
            others.append((kind, str(name or "")))
            if kind == "Service":
                services.append(_service(document))
            continue
        pod = _pod(document)
        if any(other.name == pod.name for other in pods):
            Node(document.source, "metadata.name", pod.name).wrong("a name that no other Pod has")
        pods.append(pod)
    if not pods:
        there = ", ".join(f"{kind} {name}".strip() for kind, name in others)
        raise ManifestError(f"{source}: expected a Pod; there is only {there}", source)
    return Manifest(source, tuple(pods), tuple(services), tuple(others))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_KINDS = ("Pod", "Service", "ConfigMap")
_DOCUMENT = _words("apiVersion kind metadata spec status")
_METADATA = _words(
    "name namespace labels annotations generateName uid resourceVersion generation selfLink "
    "creationTimestamp deletionTimestamp deletionGracePeriodSeconds ownerReferences finalizers "
    "managedFields"
)
_SPEC_USED = _words(
    "containers initContainers volumes restartPolicy terminationGracePeriodSeconds securityContext"
)
_SPEC_OTHER = _words(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy "
    "enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers "
    "hostname hostnameOverride imagePullSecrets nodeName nodeSelector os overhead "
    "preemptionPolicy priority priorityClassName readinessGates resourceClaims resources "
    "runtimeClassName schedulerName schedulingGates serviceAccount serviceAccountName "
    "setHostnameAsFQDN shareProcessNamespace subdomain tolerations topologySpreadConstraints"
)
_CONTAINER_USED = _words(
    "name image command args env envFrom workingDir volumeMounts securityContext resources ports "
    "restartPolicy"
)
_CONTAINER_OTHER = _words(
    "imagePullPolicy lifecycle livenessProbe readinessProbe startupProbe resizePolicy "
    "restartPolicyRules stdin stdinOnce terminationMessagePath terminationMessagePolicy tty "
    "volumeDevices"
)
_SECURITY_USED = _words("runAsUser runAsGroup runAsNonRoot")
_SECURITY_OTHER = _words(
    "allowPrivilegeEscalation appArmorProfile capabilities privileged procMount "
    "readOnlyRootFilesystem seLinuxOptions seccompProfile windowsOptions"
)
_POD_SECURITY_USED = (*_SECURITY_USED, *_words("fsGroup supplementalGroups"))
_POD_SECURITY_OTHER = _words(
    "appArmorProfile fsGroupChangePolicy seLinuxChangePolicy seLinuxOptions seccompProfile "
    "supplementalGroupsPolicy sysctls windowsOptions"
)
_VOLUMES = _words(
    "emptyDir hostPath awsElasticBlockStore azureDisk azureFile cephfs cinder configMap csi "
    "downwardAPI ephemeral fc flexVolume flocker gcePersistentDisk gitRepo glusterfs image iscsi "
    "nfs persistentVolumeClaim photonPersistentDisk portworxVolume projected quobyte rbd scaleIO "
    "secret storageos vsphereVolume"
)
_HOST_TYPES = _words("DirectoryOrCreate Directory FileOrCreate File Socket CharDevice BlockDevice")
_SOURCES = _words("fieldRef resourceFieldRef configMapKeyRef secretKeyRef fileKeyRef")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[ -<>-~]+")
_MAX_ID = 2**31 - 1


def _kind(document: Node) -> str:
    if not isinstance(document.value, dict):
        document.wrong("an object with apiVersion, kind and metadata")
    for name in ("apiVersion", "kind"):
        if document.value.get(name) is None:
            document.missing(name, "v1" if name == "apiVersion" else "Pod")
    kind = Node(document.source, "kind", document.value["kind"]).text()
    if kind not in _KINDS:
        choices = " or ".join([", ".join(_KINDS[:-1]), _KINDS[-1]])
        Node(document.source, "kind", kind).wrong(choices, repr(kind) + hint(kind, _KINDS))
    Node(document.source, "apiVersion", document.value["apiVersion"]).one_of("v1")
    return kind


def _pod(document: Node) -> Pod:
    fields = document.fields(_DOCUMENT)
    if "metadata" not in fields:
        document.missing("metadata", "an object with the name of the Pod")
    metadata = fields["metadata"].fields(_METADATA)
    if "name" not in metadata:
        fields["metadata"].missing("name", "the name of the Pod")
    name = metadata["name"].text()
    if len(name) > 253 or not all(_LABEL.fullmatch(part) for part in name.split(".")):
        metadata["name"].wrong("lower-case letters, digits, '-' and '.', at most 253")
    if "spec" not in fields:
        document.missing("spec", "an object with the containers of the Pod")
    spec = fields["spec"].fields((*_SPEC_USED, *_SPEC_OTHER))
    others = [node.path for key, node in spec.items() if key in _SPEC_OTHER]
    security = spec.get("securityContext")
    inside = security.fields((*_POD_SECURITY_USED, *_POD_SECURITY_OTHER)) if security else {}
    others += [node.path for key, node in inside.items() if key in _POD_SECURITY_OTHER]

    volumes = _volumes(spec.get("volumes"), others)
    names: dict[str, str] = {}
    if "containers" not in spec or not spec["containers"].value:
        fields["spec"].missing("containers", "a list of at least one container")
    containers = _containers(spec["containers"], volumes, names, others, init=False)
    init: tuple[Container, ...] = ()
    if "initContainers" in spec:
        init = _containers(spec["initContainers"], volumes, names, others, init=True)
    return Pod(
        source=document.source,
        name=name,
        namespace=pick(metadata, "namespace", Node.text, "default"),
        labels=pick(metadata, "labels", Node.map, {}),
        annotations=pick(metadata, "annotations", Node.map, {}),
        containers=containers,
        init=init,
        volumes=tuple(volumes.values()),
        restart=pick(
            spec, "restartPolicy", lambda n: n.one_of("Always", "OnFailure", "Never"), "Always"
        ),
        grace=pick(spec, "terminationGracePeriodSeconds", Node.whole, 30),
        security=_security(inside),
        fs_group=pick(inside, "fsGroup", _id, None),
        groups=pick(
            inside, "supplementalGroups", lambda n: tuple(_id(item) for item in n.items()), ()
        ),
        others=tuple(others),
        document=document.value,
    )


def _service(document: Node) -> Service:
    metadata = document.value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None:
        document.missing("metadata.name", "the name of the Service")
    named = Node(document.source, "metadata.name", name)
    if not _LABEL.fullmatch(named.text()):
        named.wrong("at most 63 lower-case letters, digits and '-', not at the ends")
    spec = document.value.get("spec")
    selector = spec.get("selector") if isinstance(spec, dict) else None
    labels = Node(document.source, "spec.selector", selector or {}).map()
    return Service(document.source, named.text(), labels, document.value)


def _id(node: Node) -> int:
    return node.whole(0, _MAX_ID)


def _security(fields: Mapping[str, Node]) -> Security:
    return Security(
        user=pick(fields, "runAsUser", _id, None),
        group=pick(fields, "runAsGroup", _id, None),
        non_root=pick(fields, "runAsNonRoot", Node.flag, None),
    )


def _named(node: Node, fields: Mapping[str, Node], what: str, names: Collection[str]) -> str:
    """The name of a volume or container, which no other may have."""
    if "name" not in fields:
        node.missing("name", f"the name of the {what}")
    name = fields["name"].text()
    if not _LABEL.fullmatch(name):
        fields["name"].wrong("at most 63 lower-case letters, digits and '-', not at the ends")
    if name in names:
        fields["name"].wrong(f"a name that no other {what} of the Pod has")
    return name


def _volumes(node: Node | None, others: list[str]) -> dict[str, Volume]:
    found: dict[str, Volume] = {}
    for item in node.items() if node else ():
        fields = item.fields(("name", *_VOLUMES))
        # `emptyDir:` with nothing after it is an emptyDir without options.
        kinds = [key for key in item.value if key != "name"]
        name = _named(item, {k: v for k, v in fields.items() if k == "name"}, "volume", found)
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
    return Volume(path, name, kind)


def _containers(
    node: Node,
    volumes: Mapping[str, Volume],
    names: dict[str, str],
    others: list[str],
    *,
    init: bool,
) -> tuple[Container, ...]:
    found = []
    for item in node.items():
        fields = item.fields((*_CONTAINER_USED, *_CONTAINER_OTHER))
        name = _named(item, fields, "container", names)
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
    sidecar = False
    if "restartPolicy" in fields:
        if not init:
            fields["restartPolicy"].wrong("nothing here: only an init container may have one")
        sidecar = fields["restartPolicy"].one_of("Always") == "Always"
    security: dict[str, Node] = {}
    if "securityContext" in fields:
        security = fields["securityContext"].fields((*_SECURITY_USED, *_SECURITY_OTHER))
        others += [node.path for key, node in security.items() if key in _SECURITY_OTHER]
    memory, cpu = _limits(fields.get("resources"), others)
    directory = pick(fields, "workingDir", Node.text, "") or None
    if directory is not None and not directory.startswith("/"):
        fields["workingDir"].wrong("an absolute path")
    env_from = fields["envFrom"].items() if "envFrom" in fields else []
    return Container(
        path=item.path,
        name=name,
        image=fields["image"].text(),
        command=pick(fields, "command", Node.texts, ()),
        args=pick(fields, "args", Node.texts, ()),
        env=_env(fields.get("env")),
        env_from=tuple(node.path for node in env_from),
        directory=directory,
        mounts=_mounts(fields.get("volumeMounts"), volumes, others),
        security=_security(security),
        memory=memory,
        cpu=cpu,
        ports=_ports(fields.get("ports")),
        sidecar=sidecar,
    )


def _limits(node: Node | None, others: list[str]) -> tuple[int | None, float | None]:
    if node is None:
        return None, None
    fields = node.fields(("limits", "requests", "claims"))
    others += [at.path for key, at in fields.items() if key == "claims"]
    amounts: dict[str, dict[str, Any]] = {}
    for key in ("limits", "requests"):
        found = fields[key].value if key in fields else {}
        if not isinstance(found, dict):
            fields[key].wrong("an object such as {memory: 64Mi, cpu: 500m}")
        amounts[key] = {}
        for resource, value in found.items():
            at = Node(node.source, f"{fields[key].path}.{resource}", value)
            known = ("memory", "cpu", "ephemeral-storage")
            is_own = "/" in str(resource) or str(resource).startswith("hugepages-")
            if resource not in known and not is_own:
                at.wrong("memory, cpu, ephemeral-storage or DOMAIN/NAME", repr(resource))
            amount = at.bytes() if resource == "memory" else at.quantity()
            amounts[key][resource] = amount
            if key == "requests" and amount > amounts["limits"].get(resource, amount):
                at.wrong(f"at most its limit, {fields['limits'].value[resource]}")
            if key == "requests" or resource not in ("memory", "cpu"):
                others.append(at.path)
    limits = amounts["limits"]
    return limits.get("memory"), float(limits["cpu"]) if "cpu" in limits else None


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
        sources = fields["valueFrom"].fields(_SOURCES)
        if len(sources) != 1:
            fields["valueFrom"].wrong(f"one of {', '.join(_SOURCES)}")
        ((kind, source),) = sources.items()
        path = kind
        if kind == "fieldRef":
            inside = source.fields(("apiVersion", "fieldPath"))
            if "fieldPath" not in inside:
                source.missing("fieldPath", "a field such as metadata.name")
            path = inside["fieldPath"].text()
        found.append(Variable(source.path, name, None, path))
    return tuple(found)


def _mounts(
    node: Node | None, volumes: Mapping[str, Volume], others: list[str]
) -> tuple[Mount, ...]:
    found: list[Mount] = []
    known = _words("name mountPath readOnly subPath subPathExpr mountPropagation recursiveReadOnly")
    for item in node.items() if node else ():
        fields = item.fields(known)
        for name, what in (("name", "the name of a volume"), ("mountPath", "an absolute path")):
            if name not in fields:
                item.missing(name, what)
        volume = fields["name"].text()
        if volume not in volumes:
            there = ", ".join(volumes) or "there is none"
            expected = f"the name of a volume in spec.volumes ({there})"
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
        fields = item.fields(_words("containerPort hostIP hostPort name protocol"))
        if "containerPort" not in fields:
            item.missing("containerPort", "a port from 1 to 65535")
        pick(fields, "protocol", lambda n: n.one_of("TCP", "UDP", "SCTP"), "TCP")
        pick(fields, "name", Node.text, "")
        found.append(fields["containerPort"].whole(1, 65535))
    return tuple(found)
