"""A Kubernetes Pod manifest as frozen dataclasses, checked as the API server would.

Of what has a Pod template, such as a Deployment or a Job, that is read, as one Pod.
``read("pod.yaml")`` raises `ManifestError` with the file, the path of the field,
what was expected and what there is. What is a field of Kubernetes but not of these
classes is kept by its path in `Pod.others`, so that a runtime can say that it does
not use it.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from podipc.pod.errors import ManifestError
from podipc.pod.manifest.containers import SECURITY_USED, identity, read_containers, security_of
from podipc.pod.manifest.document import Node, documents, hint, pick, words
from podipc.pod.manifest.model import (
    ConfigMap,
    Container,
    Manifest,
    Mount,
    Pod,
    Probe,
    Security,
    Service,
    Variable,
    Volume,
)
from podipc.pod.manifest.volumes import read_volumes
from podipc.pod.manifest.workloads import KINDS, Template, template

__all__ = [
    "ConfigMap",
    "Container",
    "Manifest",
    "Mount",
    "Pod",
    "Probe",
    "Security",
    "Service",
    "Variable",
    "Volume",
    "read",
]


def read(
    file: str | os.PathLike[str] | Mapping[str, Any], *, others_pass: bool = False
) -> Manifest:
    """Read a file of one or more documents, or one that has been read.

    Parameters
    ----------
    file
        Its path, or the document.
    others_pass
        Whether things of other kinds, such as a Secret, are listed in `Manifest.unread`
        instead of being refused.

    Raises
    ------
    ManifestError
        Anything is wrong with it.
    """
    source = "manifest" if isinstance(file, Mapping) else os.fspath(file)
    pods: list[Pod] = []
    services: list[Service] = []
    config_maps: dict[str, ConfigMap] = {}
    others: list[tuple[str, str]] = []
    unread: list[tuple[str, str]] = []
    things: list[Mapping[str, Any]] = []
    if isinstance(file, Mapping):
        found: Iterable[Node] = [Node(source, "", dict(file))]
    else:
        found = documents(Path(file))
    for document in found:
        if others_pass and (other := _of_another_kind(document.value)):
            unread.append(other)
            continue
        kind = _kind(document)
        if kind in ("Service", "ConfigMap", *_LEFT):
            metadata = document.value.get("metadata")
            name = metadata.get("name") if isinstance(metadata, dict) else None
            others.append((kind, str(name or "")))
            if kind not in _LEFT:
                things.append(document.value)
            if kind == "Service":
                services.append(_service(document))
            elif kind == "ConfigMap":
                found_map = _config_map(document, config_maps)
                config_maps[found_map.name] = found_map
            continue
        pod = _pod(document) if kind == "Pod" else _pod_of(kind, document)
        if any(other.name == pod.name for other in pods):
            Node(document.source, "metadata.name", pod.name).wrong("a name that no other Pod has")
        pods.append(pod)
    if not pods:
        there = ", ".join(f"{kind} {name}".strip() for kind, name in (*others, *unread))
        raise ManifestError(f"{source}: expected a Pod; there is only {there}", source)
    used = {name for pod in pods for name in _config_maps_of(pod)}
    beside = _beside(pods, services, things)
    return Manifest(
        source,
        tuple(
            dataclasses.replace(pod, config_maps=config_maps, beside=tuple(beside[pod.name]))
            for pod in pods
        ),
        tuple(services),
        tuple(pair for pair in others if pair[0] != "ConfigMap" or pair[1] not in used),
        tuple(unread),
    )


def _beside(
    pods: Sequence[Pod], services: Sequence[Service], things: Iterable[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    """Each thing of a file with one of its Pods."""
    found: dict[str, list[Mapping[str, Any]]] = {pod.name: [] for pod in pods}
    for thing in things:
        selects = [s for s in services if s.document is thing]
        pod = next((pod for pod in pods if any(s.selects(pod) for s in selects)), pods[0])
        found[pod.name].append(thing)
    return found


def _config_maps_of(pod: Pod) -> set[str]:
    """The names of those that it refers to."""
    found = {volume.config_map for volume in pod.volumes}
    for container in pod.everyone():
        found |= {keys.config_map for keys in container.env_from}
        found |= {variable.key.config_map for variable in container.env if variable.key}
    return found


_KINDS = {
    "Pod": "v1",
    **{kind: "batch/v1" if kind.endswith("Job") else "apps/v1" for kind in KINDS},
    "Service": "v1",
    "ConfigMap": "v1",
}
"""The kinds that are read, and the apiVersion of each."""
_LEFT = words(
    "ClusterRole ClusterRoleBinding HorizontalPodAutoscaler Ingress LimitRange Namespace "
    "NetworkPolicy PersistentVolume PersistentVolumeClaim PodDisruptionBudget PriorityClass "
    "ResourceQuota Role RoleBinding Secret ServiceAccount StorageClass"
)
"""The kinds that may be there as well, and are not read."""
_DOCUMENT = words("apiVersion kind metadata spec status")
_METADATA = words(
    "name namespace labels annotations generateName uid resourceVersion generation selfLink "
    "creationTimestamp deletionTimestamp deletionGracePeriodSeconds ownerReferences finalizers "
    "managedFields"
)
_SPEC_USED = words(
    "containers initContainers volumes restartPolicy terminationGracePeriodSeconds securityContext"
)
_SPEC_OTHER = words(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy "
    "enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers "
    "hostname hostnameOverride imagePullSecrets nodeName nodeSelector os overhead "
    "preemptionPolicy priority priorityClassName readinessGates resourceClaims resources "
    "runtimeClassName schedulerName schedulingGates serviceAccount serviceAccountName "
    "setHostnameAsFQDN shareProcessNamespace subdomain tolerations topologySpreadConstraints"
)
_SECURITY_USED = (*SECURITY_USED, *words("fsGroup supplementalGroups"))
_SECURITY_OTHER = words(
    "appArmorProfile fsGroupChangePolicy seLinuxChangePolicy seLinuxOptions seccompProfile "
    "supplementalGroupsPolicy sysctls windowsOptions"
)


def _kind(document: Node) -> str:
    if not isinstance(document.value, dict):
        document.wrong("an object with apiVersion, kind and metadata")
    for name in ("apiVersion", "kind"):
        if document.value.get(name) is None:
            document.missing(name, "v1 for a Pod" if name == "apiVersion" else "Pod")
    kind = Node(document.source, "kind", document.value["kind"]).text()
    if kind in _LEFT:
        return kind
    if kind not in _KINDS:
        *some, last = _KINDS
        choices = f"{', '.join(some)} or {last}"
        Node(document.source, "kind", kind).wrong(
            choices, repr(kind) + hint(kind, (*_KINDS, *_LEFT))
        )
    Node(document.source, "apiVersion", document.value["apiVersion"]).one_of(_KINDS[kind])
    return kind


def _of_another_kind(document: Any) -> tuple[str, str] | None:
    """Kind and name of a thing of Kubernetes that is not read here; None if it has to be."""
    if not isinstance(document, dict):
        return None
    version, kind = document.get("apiVersion"), document.get("kind")
    if not (isinstance(version, str) and isinstance(kind, str)) or kind in _KINDS:
        return None
    if hint(kind, _KINDS) and version in ("v1", "apps/v1", "batch/v1"):
        return None  # a slip, such as Pods
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return kind, str(name or "")


def _pod(document: Node) -> Pod:
    metadata = _metadata(document, "Pod")
    fields = document.fields(_DOCUMENT)
    if "spec" not in fields:
        document.missing("spec", "an object with the containers of the Pod")
    return _read(fields["spec"], metadata["name"].subdomain(), metadata, document.value)


def _pod_of(kind: str, document: Node) -> Pod:
    """The Pod that a template describes."""
    own = _metadata(document, kind)
    found = template(kind, document, own["name"].subdomain())
    metadata = found.metadata.fields(_METADATA)
    metadata.pop("namespace", None)
    if "namespace" in own:
        metadata["namespace"] = own["namespace"]
    namespace = pick(own, "namespace", Node.text, None)
    pod = _read(found.spec, found.pod_name, metadata, {}, found)
    return dataclasses.replace(pod, document=found.document(namespace))


def _metadata(document: Node, kind: str) -> dict[str, Node]:
    fields = document.fields(_DOCUMENT)
    if "metadata" not in fields:
        document.missing("metadata", f"an object with the name of the {kind}")
    metadata = fields["metadata"].fields(_METADATA)
    if "name" not in metadata:
        fields["metadata"].missing("name", f"the name of the {kind}")
    return metadata


def _read(
    at: Node,
    name: str,
    metadata: Mapping[str, Node],
    document: Mapping[str, Any],
    of: Template | None = None,
) -> Pod:
    """The Pod whose spec is `at`, and which is in a template or not."""
    spec = at.fields((*_SPEC_USED, *_SPEC_OTHER))
    others = [node.path for key, node in spec.items() if key in _SPEC_OTHER]
    security = spec.get("securityContext")
    inside = security.fields((*_SECURITY_USED, *_SECURITY_OTHER)) if security else {}
    others += [node.path for key, node in inside.items() if key in _SECURITY_OTHER]

    volumes = read_volumes(spec.get("volumes"), others)
    for claim in of.claims if of else ():
        volume = claim.value["metadata"]["name"]
        volumes[volume] = Volume(claim.path, volume, "persistentVolumeClaim")
    names: dict[str, str] = {}
    if "containers" not in spec or not spec["containers"].value:
        at.missing("containers", "a list of at least one container")
    containers = read_containers(spec["containers"], volumes, names, others, init=False)
    init: tuple[Container, ...] = ()
    if "initContainers" in spec:
        init = read_containers(spec["initContainers"], volumes, names, others, init=True)
    pod = Pod(
        source=at.source,
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
        security=security_of(inside),
        fs_group=pick(inside, "fsGroup", identity, None),
        groups=pick(
            inside, "supplementalGroups", lambda n: tuple(identity(item) for item in n.items()), ()
        ),
        others=tuple(others),
        document=document,
        owner=f"{of.kind} {of.name}" if of else "",
        template=of.at if of else "",
        unused=of.unused if of else (),
    )
    if of:
        of.check(pod, spec)
    return pod


def _service(document: Node) -> Service:
    metadata = document.value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None:
        document.missing("metadata.name", "the name of the Service")
    named = Node(document.source, "metadata.name", name)
    spec = document.value.get("spec")
    selector = spec.get("selector") if isinstance(spec, dict) else None
    labels = Node(document.source, "spec.selector", selector or {}).map()
    return Service(document.source, named.label(), labels, document.value)


_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_CONFIG_MAP_BYTES = 1 << 20


def _config_map(document: Node, others: Mapping[str, ConfigMap]) -> ConfigMap:
    fields = document.fields(("apiVersion", "kind", "metadata", "data", "binaryData", "immutable"))
    if "metadata" not in fields or "name" not in fields["metadata"].fields(_METADATA):
        document.missing("metadata.name", "the name of the ConfigMap")
    at = fields["metadata"].fields(_METADATA)["name"]
    name = at.subdomain()
    if name in others:
        at.wrong("a name that no other ConfigMap has")
    data: dict[str, str] = pick(fields, "data", Node.map, {})
    binary = {}
    for key, text in pick(fields, "binaryData", Node.map, {}).items():
        where = Node(document.source, f"binaryData.{key}", text)
        try:
            binary[key] = base64.b64decode(text, validate=True)
        except ValueError:
            where.wrong("bytes in base64")
        if key in data:
            where.wrong("a key that is not in data", repr(key))
    for key in (*data, *binary):
        if not _KEY.fullmatch(key) or key in (".", ".."):
            what = "data" if key in data else "binaryData"
            expected = "a key of at most 253 letters, digits, '-', '_' and '.'"
            Node(document.source, f"{what}.{key}", key).wrong(expected)
    size = sum(len(text.encode()) for text in data.values()) + sum(map(len, binary.values()))
    if size > _CONFIG_MAP_BYTES:
        document.wrong("at most 1 MiB in a ConfigMap", f"{size} bytes")
    return ConfigMap(document.source, name, data, binary)
