"""Manifests of what has a Pod template: the Pod that is read, its notes, what is refused."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT

from podipc.pod import manifest, notes_of
from podipc.pod.errors import ManifestError
from podipc.pod.kubernetes import objects

KINDS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}


def made(kind: str, spec: dict[str, Any] | None = None, **pod: Any) -> dict[str, Any]:
    """A document; `spec` is merged into its spec, `pod` into that of its Pod."""
    job = kind.endswith("Job")
    container: dict[str, Any] = {"name": "a", "image": "i", "command": ["sh", "-c", "echo $POD"]}
    container["env"] = [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    template = {
        "metadata": {"labels": {"app": "x"}, "annotations": {"b": "c"}},
        "spec": {"containers": [container]} | ({"restartPolicy": "Never"} if job else {}) | pod,
    }
    inside: dict[str, Any] = {"template": template}
    if not job:
        inside["selector"] = {"matchLabels": {"app": "x"}}
    if kind == "CronJob":
        inside = {"schedule": "* * * * *", "jobTemplate": {"spec": inside}}
    return {
        "apiVersion": KINDS[kind],
        "kind": kind,
        "metadata": {"name": "web", "namespace": "team", "labels": {"not": "of the Pod"}},
        "spec": inside | (spec or {}),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_its_template_is_one_pod(kind: str) -> None:
    pod = manifest.read(made(kind)).pod()
    at = "spec.jobTemplate.spec.template" if kind == "CronJob" else "spec.template"
    assert (pod.owner, pod.template) == (f"{kind} web", at)
    assert pod.name == ("web-0" if kind == "StatefulSet" else "web")
    assert (pod.namespace, pod.labels) == ("team", {"app": "x"})
    assert pod.containers[0].path == f"{at}.spec.containers[0]"
    assert pod.restart == ("Never" if kind.endswith("Job") else "Always")
    # What is given to podman and to a cluster is a Pod that reads as the same one.
    alone = manifest.read(pod.document).pod()
    assert (alone.name, alone.namespace, alone.labels) == (pod.name, "team", pod.labels)
    assert alone.annotations == {"b": "c"}
    assert alone.containers[0].path == "spec.containers[0]"
    assert objects.pod(pod, "team", None, "1")["kind"] == "Pod"


def test_what_is_not_used_is_said() -> None:
    pod = manifest.read(
        made("Deployment", {"replicas": 3, "strategy": {}}, nodeSelector={"a": "b"})
    ).pod()
    said = notes_of(pod, "local")
    assert said[0] == (
        "Deployment web: its template is run as one Pod, web; not used: spec.replicas, "
        "spec.strategy"
    )
    assert "spec.template.spec.nodeSelector: not used, has no meaning on one machine" in said
    assert any(
        line.startswith("spec.template.metadata.labels") for line in notes_of(pod, "kubernetes")
    )
    pod = manifest.read(made("Deployment", {"replicas": 1})).pod()
    assert notes_of(pod, "local")[0] == "Deployment web: its template is run as one Pod, web"
    pod = manifest.read(made("CronJob")).pod()
    assert notes_of(pod, "local")[0].endswith("not used: spec.schedule")


def test_volumes_of_claims() -> None:
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    document = made("StatefulSet", {"volumeClaimTemplates": [claim]})
    document["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [
        {"name": "data", "mountPath": "/data"}
    ]
    pod = manifest.read(document).pod()
    (volume,) = pod.volumes
    assert (volume.kind, volume.path) == ("persistentVolumeClaim", "spec.volumeClaimTemplates[0]")
    assert pod.document["spec"]["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}
    ]


WRONG = [
    # (kind, path of what is changed, value, path said, part of the text)
    ("Deployment", "spec", ..., "spec", "an object with the template of the Deployment"),
    ("Deployment", "spec.template", ..., "spec.template", "is missing"),
    ("Deployment", "spec.template", "x", "spec.template", "expected an object"),
    ("Deployment", "spec.template.spec", ..., "spec.template.spec", "is missing"),
    ("Deployment", "spec.template.spec", "abc", "spec.template.spec", "expected an object"),
    ("Deployment", "spec.template.metadata", "abc", "spec.template.metadata", "expected an object"),
    ("Deployment", "spec.template.spec.volumes", "x", "spec.template.spec.volumes", "a list"),
    ("Deployment", "spec.replica", 2, "spec.replica", "did you mean 'replicas'?"),
    ("Deployment", "spec.replicas", "2", "spec.replicas", "a whole number"),
    ("Deployment", "spec.selector", ..., "spec.selector", "is missing; expected matchLabels"),
    ("Deployment", "spec.selector", {}, "spec.selector", "expected matchLabels"),
    (
        "Deployment",
        "spec.selector.matchLabels",
        {"app": "y"},
        "spec.selector.matchLabels.app",
        "expected a label of the template (spec.template.metadata.labels), not 'y'",
    ),
    (
        "Deployment",
        "spec.template.metadata",
        None,
        "spec.selector.matchLabels.app",
        "expected a label of the template",
    ),
    ("Deployment", "metadata.name", ..., "metadata.name", "the name of the Deployment"),
    ("Deployment", "apiVersion", "v1", "apiVersion", "expected 'apps/v1', not 'v1'"),
    (
        "Deployment",
        "spec.template.spec.restartPolicy",
        "Never",
        "spec.template.spec.restartPolicy",
        "expected 'Always' in a Deployment, not 'Never'",
    ),
    (
        "Job",
        "spec.template.spec.restartPolicy",
        ...,
        "spec.template.spec.restartPolicy",
        "expected 'OnFailure' or 'Never' in a Job, not nothing",
    ),
    (
        "Deployment",
        "spec.template.spec.containers",
        [{"name": "a"}],
        "spec.template.spec.containers[0].image",
        "is missing",
    ),
    (
        "CronJob",
        "spec.jobTemplate.spec.template.spec.containers",
        [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "spec.jobTemplate.spec.template.spec.containers[0].volumeMounts[0].name",
        "a volume in spec.jobTemplate.spec.template.spec.volumes (there is none)",
    ),
    ("CronJob", "spec.schedule", ..., "spec.schedule", "is missing"),
    ("CronJob", "spec.jobTemplate", ..., "spec.jobTemplate", "is missing"),
    ("CronJob", "spec.jobTemplate.spec", ..., "spec.jobTemplate.spec", "is missing"),
    (
        "StatefulSet",
        "spec.volumeClaimTemplates",
        [{"spec": {}}],
        "spec.volumeClaimTemplates[0].metadata.name",
        "is missing",
    ),
]


@pytest.mark.parametrize(
    ("kind", "field", "value", "path", "text"),
    WRONG,
    ids=[f"{w[3]}-{i}" for i, w in enumerate(WRONG)],
)
def test_what_is_wrong(kind: str, field: str, value: Any, path: str, text: str) -> None:
    document = copy.deepcopy(made(kind))
    *words, last = field.split(".")
    at: Any = document
    for word in words:
        at = at[word]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    with pytest.raises(ManifestError) as caught:
        manifest.read(document)
    assert caught.value.path == path
    assert text in str(caught.value)


def test_a_job_runs(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(made("Job", {"backoffLimit": 0})))
    ran = subprocess.run(
        [sys.executable, "-m", "podipc", "pod", "run", "--runtime", "local", str(file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (ran.returncode, ran.stdout) == (0, "a | web\n"), ran.stderr
    assert "Job web: its template is run as one Pod, web; not used: spec.backoffLimit" in ran.stderr
