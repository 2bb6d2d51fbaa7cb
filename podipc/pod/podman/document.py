"""The manifest that podman is given, made from that of the user.

Podman creates the containers of it, and this process starts them. So init containers and
sidecars are containers among others there, nothing is restarted by podman, and an
``emptyDir`` is a volume that was made for it, and so are the files of a ConfigMap.

A Pod of ``podman kube play`` has the exit policy ``stop``, which no option changes: when a
container ends, podman ends the Pod unless one is found that is not over, and takes one
that is just being started with it. A cluster keeps the Pod's namespaces until the Pod is
deleted. So there is one more container, which is never started: podman takes it for one
that is still to come.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from podipc.pod.manifest import Container, Pod, environment

LABEL = "podipc.pod"

DROPPED = (
    *("restartPolicy", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"),
    *("ports", "envFrom", "stdin", "stdinOnce", "tty", "resizePolicy", "restartPolicyRules"),
)
"""Fields of a container that podman would refuse, or that are not for it to see to."""

DROPPED_OF_POD = (
    *("initContainers", "hostNetwork", "hostIPC", "hostPID", "activeDeadlineSeconds"),
    *("nodeName", "nodeSelector", "affinity", "tolerations", "dnsConfig", "dnsPolicy"),
    *("imagePullSecrets", "readinessGates", "schedulingGates", "topologySpreadConstraints"),
)


def made(
    pod: Pod,
    environments: Mapping[str, Mapping[str, str]],
    volumes: Mapping[str, str],
    files: Mapping[str, str],
    token: str,
) -> dict[str, Any]:
    """The document for podman.

    Parameters
    ----------
    environments
        Of each container.
    volumes
        The podman volume that stands for each ``emptyDir`` and ``configMap``.
    files
        The directory of the host in which the files of each ``configMap`` are.
    token
        The value of the label by which all of this Pod is found.
    """
    document: dict[str, Any] = copy.deepcopy(dict(pod.document))
    metadata, spec = document["metadata"], document["spec"]
    metadata["labels"] = {**(metadata.get("labels") or {}), LABEL: token}
    found = [*(spec.get("initContainers") or ()), *spec["containers"]]
    for name in DROPPED_OF_POD:
        spec.pop(name, None)
    spec["containers"] = [
        _container(given, container, environments[container.name])
        for given, container in zip(found, pod.everyone(), strict=True)
    ]
    spec["containers"].append(_never_started(spec["containers"][0]["image"], token))
    spec["restartPolicy"] = "Never"
    if pod.fs_group is not None:
        security = spec["securityContext"]
        groups = security.get("supplementalGroups") or []
        security["supplementalGroups"] = sorted({*groups, pod.fs_group})
    single: list[dict[str, Any]] = []
    for container in spec["containers"]:
        if container.get("volumeMounts"):
            container["volumeMounts"] = [
                _mount(given, files, single, token) for given in container["volumeMounts"]
            ]
    mounted = {mount.volume for container in pod.everyone() for mount in container.mounts}
    spec["volumes"] = [
        _volume(given, volumes) for given in spec.get("volumes") or () if given["name"] in mounted
    ] + single
    return document


def _container(
    given: Mapping[str, Any], container: Container, env: Mapping[str, str]
) -> dict[str, Any]:
    kept = {name: value for name, value in given.items() if name not in DROPPED}
    # What is not there is said by us, and nothing is fetched.
    kept["imagePullPolicy"] = "Never"
    kept["env"] = [{"name": name, "value": value} for name, value in env.items()]
    for name, words in (("command", container.command), ("args", container.args)):
        if words:
            kept[name] = [environment.expand(word, env) for word in words]
    return kept


def _never_started(image: str, token: str) -> dict[str, Any]:
    return {"name": f"keeps-the-pod-{token[:8]}", "image": image, "imagePullPolicy": "Never"}


def _mount(
    given: Mapping[str, Any], files: Mapping[str, str], single: list[dict[str, Any]], token: str
) -> Mapping[str, Any]:
    """A mount; a path in a configMap, which podman before 5.0 cannot mount, goes to `single`."""
    if given["name"] not in files:
        return given
    kept = {**given, "readOnly": True}
    path = kept.pop("subPath", None)
    if path:
        kept["name"] = f"{token}-{len(single)}"
        host_path = {"path": f"{files[given['name']]}/{path}"}
        single.append({"name": kept["name"], "hostPath": host_path})
    return kept


def _volume(given: Mapping[str, Any], volumes: Mapping[str, str]) -> Mapping[str, Any]:
    name = given["name"]
    if name not in volumes:
        return given
    return {"name": name, "persistentVolumeClaim": {"claimName": volumes[name]}}


def value_at(document: Mapping[str, Any], path: str) -> Any:
    """What is at a path such as ``spec.containers[0].image``; None if there is nothing."""
    value: Any = document
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            value = value[int(index)] if index else value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value
