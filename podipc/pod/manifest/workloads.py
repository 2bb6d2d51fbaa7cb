"""What has a Pod template instead of being a Pod: Deployment, Job and the like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podipc.pod.manifest.document import Node, words
from podipc.pod.manifest.model import Pod

__all__ = ["KINDS", "Template", "note_of", "template"]

_OF_ANY = "minReadySeconds selector template"
_JOB = (
    "activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy "
    "manualSelector maxFailedIndexes parallelism podFailurePolicy podReplacementPolicy selector "
    "successPolicy suspend template ttlSecondsAfterFinished"
)
KINDS: Mapping[str, tuple[str, ...]] = {
    "Deployment": words(
        f"{_OF_ANY} paused progressDeadlineSeconds replicas revisionHistoryLimit strategy"
    ),
    "StatefulSet": words(
        f"{_OF_ANY} ordinals persistentVolumeClaimRetentionPolicy podManagementPolicy replicas "
        "revisionHistoryLimit serviceName updateStrategy volumeClaimTemplates"
    ),
    "DaemonSet": words(f"{_OF_ANY} revisionHistoryLimit updateStrategy"),
    "ReplicaSet": words(f"{_OF_ANY} replicas"),
    "Job": words(_JOB),
    "CronJob": words(
        "concurrencyPolicy failedJobsHistoryLimit jobTemplate schedule startingDeadlineSeconds "
        "successfulJobsHistoryLimit suspend timeZone"
    ),
}
"""The fields of the spec of each kind."""

_JOBS = ("Job", "CronJob")
_DOCUMENT = words("apiVersion kind metadata spec status")


@dataclass(frozen=True)
class Template:
    """A Pod that something else describes.

    Attributes
    ----------
    kind, name
        Of what has the template.
    at
        Where the template is, as ``spec.template``.
    metadata, spec
        Of the template.
    pod_name
        What its Pod is called here.
    claims
        The ``volumeClaimTemplates``.
    unused
        The paths of what is said of other Pods than one, or of when and how they come.
    """

    kind: str
    name: str
    at: str
    metadata: Node
    spec: Node
    pod_name: str
    claims: tuple[Node, ...]
    unused: tuple[str, ...]

    def document(self, namespace: str | None) -> dict[str, Any]:
        """The Pod as it would stand in a file of its own; of a template that has been read."""
        metadata = dict(self.metadata.value) | {"name": self.pod_name}
        metadata.pop("generateName", None)
        if namespace is not None:
            metadata["namespace"] = namespace
        spec = dict(self.spec.value)
        if self.claims:
            names = [claim.value["metadata"]["name"] for claim in self.claims]
            given = [each for each in spec.get("volumes") or () if each["name"] not in names]
            spec["volumes"] = given + [
                {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{self.pod_name}"}}
                for name in names
            ]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def check(self, pod: Pod, spec: Mapping[str, Node]) -> None:
        """Refuse a restartPolicy with which there is no such thing. Raises `ManifestError`."""
        policies = ("OnFailure", "Never") if self.kind in _JOBS else ("Always",)
        if pod.restart not in policies:
            nothing = Node(pod.source, f"{self.spec.path}.restartPolicy", None)
            spec.get("restartPolicy", nothing).wrong(
                f"{' or '.join(map(repr, policies))} in a {self.kind}"
            )


def template(kind: str, document: Node, name: str) -> Template:
    """The template in a document of that kind and name.

    Raises
    ------
    ManifestError
        There is none, or what is around it is wrong.
    """
    fields = document.fields(_DOCUMENT)
    if "spec" not in fields:
        document.missing("spec", f"an object with the template of the {kind}")
    spec = fields["spec"].fields(KINDS[kind])
    unused = list(spec.values())
    holder = fields["spec"]
    if kind == "CronJob":
        if "schedule" not in spec:
            holder.missing("schedule", "when it runs, as '0 3 * * *'")
        spec["schedule"].text()
        if "jobTemplate" not in spec:
            holder.missing("jobTemplate", "an object with the spec of a Job")
        job = spec["jobTemplate"].fields(("metadata", "spec"))
        if "spec" not in job:
            spec["jobTemplate"].missing("spec", "an object with the template of the Job")
        holder = job["spec"]
        spec = holder.fields(KINDS["Job"])
        unused += spec.values()
    if "template" not in spec:
        holder.missing("template", "an object with metadata and spec of a Pod")
    inside = spec["template"].fields(("metadata", "spec"))
    if "spec" not in inside:
        spec["template"].missing("spec", "an object with the containers of the Pod")
    metadata = inside.get("metadata") or Node(
        document.source, f"{spec['template'].path}.metadata", {}
    )
    if not isinstance(metadata.value, dict):
        metadata.wrong("an object (a mapping of fields)")
    if kind not in _JOBS:
        _check_selector(holder, spec, metadata)
    for amount in ("replicas", "completions", "parallelism"):
        if amount in spec and spec[amount].whole() == 1:
            unused.remove(spec[amount])
    used = ("template", "jobTemplate", "selector", "volumeClaimTemplates", "serviceName")
    return Template(
        kind=kind,
        name=name,
        at=spec["template"].path,
        metadata=metadata,
        spec=inside["spec"],
        # Programs read their number from the end of it.
        pod_name=f"{name}-0" if kind == "StatefulSet" else name,
        claims=_claims(spec.get("volumeClaimTemplates")),
        unused=tuple(node.path for node in unused if node.path.rpartition(".")[2] not in used),
    )


def note_of(pod: Pod, runtime: str) -> list[str]:
    """One line on what has become of the rest, if the Pod is of a template."""
    if not pod.owner:
        return []
    note = f"{pod.owner}: its template is run as one Pod, {pod.name}"
    if pod.unused:
        note += f"; not used: {', '.join(pod.unused)}"
    found = [note]
    if runtime == "kubernetes" and pod.labels:
        found.append(
            f"{pod.at('metadata.labels')}: the Pod has them, so that what selects them in the "
            "namespace, such as a Service, takes it for one of its own"
        )
    return found


def _check_selector(holder: Node, spec: Mapping[str, Node], metadata: Node) -> None:
    if "selector" not in spec:
        holder.missing("selector", "matchLabels with the labels of the template")
    selector = spec["selector"].fields(("matchLabels", "matchExpressions"))
    if not selector:
        spec["selector"].wrong("matchLabels with the labels of the template")
    if "matchLabels" not in selector:
        return
    labels = metadata.value.get("labels")
    for key, value in selector["matchLabels"].map().items():
        if not isinstance(labels, dict) or labels.get(key) != value:
            Node(holder.source, f"{selector['matchLabels'].path}.{key}", value).wrong(
                f"a label of the template ({metadata.path}.labels)"
            )


def _claims(node: Node | None) -> tuple[Node, ...]:
    found: dict[str, Node] = {}
    for claim in node.items() if node else ():
        fields = claim.fields(words("apiVersion kind metadata spec status"))
        metadata = fields.get("metadata")
        if metadata is None or not isinstance(metadata.value, dict) or "name" not in metadata.value:
            claim.missing("metadata.name", "the name of the volume")
        at = Node(claim.source, f"{metadata.path}.name", metadata.value["name"])
        if at.label() in found:
            at.wrong("a name that no other claim has")
        found[at.label()] = claim
    return tuple(found.values())
