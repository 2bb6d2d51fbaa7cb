"""What is created in the cluster and deleted there: a Pod, and what its file has beside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from podipc.pod import manifest as manifests
from podipc.pod.errors import ManifestError, NotHere, PodError
from podipc.pod.kubernetes.cluster import Cluster, Forbidden, Refused, gone, path

INSTANCE = "podipc/instance"
"""The annotation by which a Pod of ours is told from another of that name."""
_LABEL = "app.kubernetes.io/managed-by"
_KINDS = {"Service": "services", "ConfigMap": "configmaps"}


def namespace_of(spec: manifests.Pod, cluster: Cluster, wanted: str | None) -> str:
    """Where the Pod goes: where its manifest says, what is `wanted`, where the context says.

    Raises
    ------
    ManifestError
        The manifest says something else than `wanted`.
    """
    own = _metadata(spec.document).get("namespace")
    if own and wanted and own != wanted:
        raise ManifestError(
            f"{spec.source}: metadata.namespace: expected {wanted}, as was asked for, or nothing, "
            f"not {own}",
            spec.source,
            "metadata.namespace",
        )
    return str(own or wanted or cluster.namespace)


def pod(spec: manifests.Pod, namespace: str, grace: float | None, instance: str) -> dict[str, Any]:
    """The Pod to create."""
    body = copy.deepcopy(dict(spec.document))
    body.pop("status", None)
    metadata = body["metadata"]
    metadata["namespace"] = namespace
    metadata["annotations"] = {**(metadata.get("annotations") or {}), INSTANCE: instance}
    metadata["labels"] = {_LABEL: "podipc", **(metadata.get("labels") or {})}
    if grace is not None:
        body["spec"]["terminationGracePeriodSeconds"] = seconds(grace)
    return body


def seconds(grace: float) -> int:
    """As the API takes it; 0 would mean not to wait until the containers are gone."""
    return max(1, math.ceil(grace))


def check(cluster: Cluster, spec: manifests.Pod, namespace: str) -> None:
    """See whether the Pod may be there, without creating it.

    Raises
    ------
    NotHere, PodError
        As `create_pod`, as far as that can be known.
    """
    try:
        cluster.request("GET", path(namespace, "pods", spec.name))
    except Forbidden as error:
        _forbidden(spec, namespace, error)
    except Refused as error:
        if not gone(error):
            _refused(spec, namespace, "Pod", spec.name, error)
        return
    raise _taken(spec, namespace, "Pod", spec.name)


def create_pod(cluster: Cluster, spec: manifests.Pod, body: dict[str, Any]) -> dict[str, Any]:
    """Create it; as it is in the cluster.

    Raises
    ------
    ManifestError
        The cluster takes no such Pod.
    NotHere, PodError
        It is not permitted, there is one already, or there is no such namespace.
    """
    namespace = body["metadata"]["namespace"]
    try:
        return cluster.request("POST", path(namespace, "pods"), body)
    except Forbidden as error:
        _forbidden(spec, namespace, error)
    except Refused as error:
        _refused(spec, namespace, "Pod", spec.name, error)


def create_beside(
    cluster: Cluster, spec: manifests.Pod, owner: Mapping[str, Any], namespace: str
) -> None:
    """Create the Services and ConfigMaps of the file, which go when the Pod goes.

    Raises
    ------
    ManifestError, NotHere, PodError
        As `create_pod`.
    """
    for document in spec.beside:
        body = copy.deepcopy(dict(document))
        kind = str(body["kind"])
        metadata = body.setdefault("metadata", {})
        name = str(metadata.get("name") or "")
        if metadata.get("namespace", namespace) != namespace:
            raise ManifestError(
                f"{spec.source}: {kind} {name}: metadata.namespace: expected that of the Pod, "
                f"{namespace}, not {metadata['namespace']}",
                spec.source,
                "metadata.namespace",
            )
        metadata["namespace"] = namespace
        metadata["labels"] = {_LABEL: "podipc", **(metadata.get("labels") or {})}
        metadata["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
            }
        ]
        try:
            cluster.request("POST", path(namespace, _KINDS[kind]), body)
        except Forbidden as error:
            _forbidden(spec, namespace, error)
        except Refused as error:
            _refused(spec, namespace, kind, name, error)


def find(cluster: Cluster, namespace: str, name: str, instance: str) -> dict[str, Any] | None:
    """That Pod; None if it is not there."""
    try:
        found = cluster.request("GET", path(namespace, "pods", name))
    except Refused as error:
        if gone(error):
            return None
        raise
    annotations = (found.get("metadata") or {}).get("annotations") or {}
    return found if annotations.get(INSTANCE) == instance else None


def delete(cluster: Cluster, namespace: str, name: str, uid: str, grace: int) -> None:
    """Tell the cluster to end that very Pod; nothing happens if it is gone."""
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": grace,
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }
    try:
        cluster.request("DELETE", path(namespace, "pods", name), options)
    except Refused as error:
        # 409: the name is that of another Pod by now.
        if error.status not in (404, 409):
            raise


def _forbidden(spec: manifests.Pod, namespace: str, error: Forbidden) -> NoReturn:
    text = error.message
    if "exceeded quota" in text or "must specify" in text:
        advice = (
            "lower resources in the manifest, or ask for a larger ResourceQuota: "
            f"kubectl -n {namespace} describe quota"
        )
    elif "violates PodSecurity" in text:
        advice = (
            "set what it names in the manifest; k8s/overlays/restricted has all that the profile "
            "restricted wants"
        )
    elif "maximum " in text or "minimum " in text:
        advice = f"kubectl -n {namespace} describe limitrange"
    else:
        advice = "the rights that are needed are in k8s/rbac.yaml"
    raise NotHere(f"{spec.source}: namespace {namespace!r}: {error}; {advice}") from error


def _refused(spec: manifests.Pod, namespace: str, kind: str, name: str, error: Refused) -> NoReturn:
    if error.reason == "AlreadyExists":
        raise _taken(spec, namespace, kind, name) from error
    if error.status == 404:
        raise NotHere(
            f"{spec.source}: metadata.namespace: there is no namespace {namespace!r} in the "
            f"cluster; kubectl create namespace {namespace} makes it"
        ) from error
    if error.status in (400, 422):
        causes = error.details.get("causes") or ()
        field = str(causes[0].get("field") or "") if causes else ""
        if field and kind == "Pod":
            field = spec.at(field)
        raise ManifestError(
            f"{spec.source}: {field or kind}: the cluster does not take it: {error}",
            spec.source,
            field,
        ) from error
    raise PodError(f"{spec.source}: {kind} {name!r} is not created: {error}") from error


def _taken(spec: manifests.Pod, namespace: str, kind: str, name: str) -> PodError:
    there = f"a {kind} {name!r} is in the namespace {namespace!r} already"
    return PodError(
        f"{spec.source}: metadata.name: {there}; delete it (kubectl -n {namespace} delete "
        f"{kind.lower()} {name}) or give this one another name"
    )


def _metadata(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("metadata")
    return found if isinstance(found, dict) else {}
