"""Manifests: what is read out of them, and what is said when they are wrong."""

import copy
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from podipc.pod import manifest
from podipc.pod.errors import ManifestError
from podipc.pod.local import notes
from podipc.pod.manifest import environment

GOOD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "tensors", "labels": {"app": "x"}},
    "spec": {
        "containers": [
            {
                "name": "producer",
                "image": "image",
                "command": ["sh"],
                "volumeMounts": [{"name": "data", "mountPath": "/shared-mem/"}],
            },
            {"name": "consumer", "image": "image"},
        ],
        "volumes": [{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}],
    },
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a manifest, changed at some fields; its path. `...` removes a field."""

    def write(changes: dict[str, Any]) -> Path:
        document = copy.deepcopy(GOOD)
        for path, value in changes.items():
            words = path.replace("[", ".[").split(".")
            at: Any = document
            for word in words[:-1]:
                at = at[int(word[1:-1]) if word[0] == "[" else word]
            last = int(words[-1][1:-1]) if words[-1][0] == "[" else words[-1]
            if value is ...:
                del at[last]
            else:
                at[last] = value
        file = tmp_path / "pod.json"
        file.write_text(json.dumps(document))
        return file

    return write


def read(file: Path) -> manifest.Pod:
    return manifest.read(file).pod()


def test_what_is_read(write: Any) -> None:
    pod = read(
        write(
            {
                "spec.containers[0].resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                "spec.containers[0].env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "spec.containers[0].securityContext": {"runAsUser": 7, "runAsGroup": 8},
                "spec.containers[0].ports": [{"containerPort": 80}],
                "spec.initContainers": [
                    {"name": "once", "image": "i"},
                    {"name": "side", "image": "i", "restartPolicy": "Always"},
                ],
                "spec.restartPolicy": "Never",
                "spec.securityContext": {"fsGroup": 5, "supplementalGroups": [6]},
            }
        )
    )
    first = pod.containers[0]
    assert (pod.name, pod.restart, pod.grace, pod.fs_group, pod.groups) == (
        "tensors",
        "Never",
        30,
        5,
        (6,),
    )
    assert [c.name for c in pod.everyone()] == ["once", "side", "producer", "consumer"]
    assert [c.sidecar for c in pod.init] == [False, True]
    assert (first.memory, first.cpu, first.ports) == (64 << 20, 0.5, (80,))
    assert (first.security.user, first.security.group) == (7, 8)
    assert first.mounts[0].target == "/shared-mem"
    assert pod.volumes[0].memory
    assert pod.volumes[0].size == 64 << 20
    env = environment.variables(pod, first, "uid", "local")
    assert env == {"A": "1", "B": "tensors"}


def test_defaults(write: Any) -> None:
    pod = read(write({"spec.volumes[0].emptyDir": None}))
    assert (pod.restart, pod.grace, pod.namespace) == ("Always", 30, "default")
    assert not pod.volumes[0].memory
    assert pod.containers[1].command == ()
    assert pod.containers[1].memory is None


WRONG = [
    # (field, value, path said, part of the text)
    ("apiVersion", ..., "apiVersion", "is missing; expected v1"),
    ("apiVersion", "v2", "apiVersion", "expected 'v1', not 'v2'"),
    ("kind", ..., "kind", "is missing"),
    ("kind", "Widget", "kind", "Job, CronJob, Service or ConfigMap, not 'Widget'"),
    ("kind", "Deployment", "apiVersion", "expected 'apps/v1', not 'v1'"),
    ("kind", "pod", "kind", "did you mean 'Pod'?"),
    ("metadata", ..., "metadata", "is missing"),
    ("metadata.name", ..., "metadata.name", "is missing"),
    ("metadata.name", "Tensors", "metadata.name", "lower-case"),
    ("metadata.labels", {"a": 1}, "metadata.labels.a", "a string (put it in quotation marks)"),
    ("metadata.label", {}, "metadata.label", "did you mean 'labels'?"),
    ("spec", ..., "spec", "is missing"),
    ("spec", [], "spec", "expected an object (a mapping of fields), not a list"),
    ("spec.containers", ..., "spec.containers", "at least one container"),
    ("spec.containers", [], "spec.containers", "at least one container"),
    ("spec.containers", {}, "spec.containers", "at least one container"),
    ("spec.containers", "x", "spec.containers", "expected a list, not 'x'"),
    ("spec.container", [], "spec.container", "there is no such field; did you mean 'containers'?"),
    ("spec.restartPolicy", "never", "spec.restartPolicy", "did you mean 'Never'?"),
    ("spec.terminationGracePeriodSeconds", -1, "spec.terminationGracePeriodSeconds", "from 0"),
    ("spec.terminationGracePeriodSeconds", True, "spec.terminationGracePeriodSeconds", "not true"),
    ("spec.containers[0].name", ..., "spec.containers[0].name", "is missing"),
    ("spec.containers[0].name", "a_b", "spec.containers[0].name", "not 'a_b'"),
    ("spec.containers[1].name", "producer", "spec.containers[1].name", "no other container"),
    (
        "spec.initContainers",
        [{"name": "producer", "image": "i"}],
        "spec.initContainers[0].name",
        "no other container",
    ),
    ("spec.containers[1].image", ..., "spec.containers[1].image", "the name of an image"),
    ("spec.containers[1].image", "--help", "spec.containers[1].image", "the name of an image"),
    ("spec.containers[0].comand", ["x"], "spec.containers[0].comand", "did you mean 'command'?"),
    ("spec.containers[0].command", "sh", "spec.containers[0].command", "a list, not 'sh'"),
    ("spec.containers[0].command", [5], "spec.containers[0].command[0]", "a string"),
    ("spec.containers[0].command", ["\0"], "spec.containers[0].command[0]", "NUL"),
    ("spec.containers[0].command", ["\ud800"], "spec.containers[0].command[0]", "halves"),
    ("spec.containers[0].workingDir", "x", "spec.containers[0].workingDir", "absolute"),
    ("spec.containers[0].restartPolicy", "Always", "spec.containers[0].restartPolicy", "only an"),
    (
        "spec.containers[0].env",
        [{"name": "A", "value": 1}],
        "spec.containers[0].env[0].value",
        "expected a string (put it in quotation marks), not 1",
    ),
    ("spec.containers[0].env", [{"value": "1"}], "spec.containers[0].env[0].name", "is missing"),
    ("spec.containers[0].env", [{"name": "A=B"}], "spec.containers[0].env[0].name", "without '='"),
    (
        "spec.containers[0].volumeMounts[0].name",
        "dat",
        "spec.containers[0].volumeMounts[0].name",
        "expected the name of a volume in spec.volumes (data), not 'dat'; did you mean 'data'?",
    ),
    ("spec.volumes", ..., "spec.containers[0].volumeMounts[0].name", "there is none"),
    (
        "spec.containers[0].volumeMounts[0].mountPath",
        ...,
        "spec.containers[0].volumeMounts[0].mountPath",
        "an absolute path",
    ),
    (
        "spec.containers[0].volumeMounts[0].mountPath",
        "/",
        "spec.containers[0].volumeMounts[0].mountPath",
        "other than '/'",
    ),
    (
        "spec.containers[0].volumeMounts[0].subPath",
        "../x",
        "spec.containers[0].volumeMounts[0].subPath",
        "without '..'",
    ),
    (
        "spec.containers[0].volumeMounts",
        [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "//a/"}],
        "spec.containers[0].volumeMounts[1].mountPath",
        "no other volume",
    ),
    ("spec.volumes[0].name", ..., "spec.volumes[0].name", "is missing"),
    (
        "spec.volumes",
        [{"name": "data", "emptyDir": {}}, {"name": "data", "emptyDir": {}}],
        "spec.volumes[1].name",
        "no other volume",
    ),
    ("spec.volumes[0]", {"name": "data"}, "spec.volumes[0]", "one kind of volume"),
    ("spec.volumes[0].emptydir", {}, "spec.volumes[0].emptydir", "did you mean 'emptyDir'?"),
    ("spec.volumes[0].emptyDir.medium", "RAM", "spec.volumes[0].emptyDir.medium", "'Memory'"),
    ("spec.volumes[0].emptyDir.sizeLimit", "x", "spec.volumes[0].emptyDir.sizeLimit", "64Mi"),
    ("spec.volumes[0].emptyDir.sizeLimit", "64m", "spec.volumes[0].emptyDir.sizeLimit", "whole"),
    ("spec.volumes[0]", {"name": "data", "hostPath": {}}, "spec.volumes[0].hostPath.path", "miss"),
    (
        "spec.containers[0].resources",
        {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}},
        "spec.containers[0].resources.requests.memory",
        "at most its limit, 1Gi",
    ),
    (
        "spec.containers[0].resources",
        {"limits": {"mem": "1Gi"}},
        "spec.containers[0].resources.limits.mem",
        "memory, cpu",
    ),
    (
        "spec.containers[0].ports",
        [{"containerPort": 70000}],
        "spec.containers[0].ports[0].containerPort",
        "from 1 to 65535",
    ),
    (
        "spec.securityContext",
        {"runAsUser": "root"},
        "spec.securityContext.runAsUser",
        "a whole number",
    ),
]


@pytest.mark.parametrize(
    ("field", "value", "path", "text"), WRONG, ids=[f"{w[2]}-{i}" for i, w in enumerate(WRONG)]
)
def test_what_is_wrong(write: Any, field: str, value: Any, path: str, text: str) -> None:
    file = write({field: value})
    with pytest.raises(ManifestError) as caught:
        read(file)
    assert isinstance(caught.value, ValueError)
    assert caught.value.path == path
    assert caught.value.file == str(file)
    assert str(caught.value).startswith(f"{file}: {path}: ")
    assert text in str(caught.value)


def test_files_that_are_no_manifests(tmp_path: Path) -> None:
    def text_of(content: bytes | None) -> str:
        file = tmp_path / "file"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ManifestError) as caught:
            manifest.read(file)
        assert str(file) in str(caught.value)
        return str(caught.value)

    assert "cannot be read: No such file" in text_of(None)
    assert "byte 1 is no UTF-8" in text_of(b"a\xff")
    assert "is empty" in text_of(b"")
    assert "is empty" in text_of(b"# nothing\n---\n")
    assert "expected an object" in text_of(b"text")
    assert "line 3, column 2: is not YAML" in text_of(b"a:\n  [b\nc: d")
    assert "line 3: the field 'kind' is there twice" in text_of(b"kind: Pod\na: b\nkind: Pod")
    assert "the field 'a' is there twice" in text_of(b'{"a": 1, "a": 2}')
    assert "is not YAML" in text_of(b'{"a": 1')
    assert "too deep" in text_of(b"[" * 100_000)
    assert "too deep" in text_of(b'{"a":' * 100_000)


def test_yaml_is_read_as_kubernetes_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    head = "{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {a: 2020-01-01}}, "
    file.write_text(head + "spec: {containers: [{name: a, image: i, args: [12:30, 1:00:00.5]}]}}")
    pod = read(file)
    assert pod.annotations == {"a": "2020-01-01"}
    assert pod.containers[0].args == ("12:30", "1:00:00.5")
    assert json.loads(json.dumps(pod.document)) == pod.document

    def text_of(affinity: str) -> str:
        pod = "spec: {containers: [{name: a, image: i}], affinity: "
        file.write_text(f"{head}{pod}{affinity}}}}}")
        with pytest.raises(ManifestError) as caught:
            read(file)
        return str(caught.value)

    assert "contains itself" in text_of("&x {a: *x}")
    assert "has more than 1,000,000 values" in text_of(
        "[&a0 [], " + ", ".join(f"&a{i + 1} [*a{i}, *a{i}]" for i in range(64)) + "]"
    )
    assert "a value that JSON has not, b'a'" in text_of("{x: !!binary YQ==}")
    assert "a field whose name JSON has not" in text_of("{!!binary YQ==: x}")
    for affinity in ("!!map [a]", "!!timestamp 2024-02-30", "!!bool x", "!!int ''", "1" * 5000):
        assert "has a value that cannot be read: " in text_of(affinity), affinity
    file.write_text(f'{{"spec": {"1" * 5000}}}')
    with pytest.raises(ManifestError, match="cannot be read: Exceeds the limit"):
        read(file)
    for path in ("a\0b", "\ud800"):
        with pytest.raises(ManifestError, match="is not the path of a file"):
            read(path)


def test_no_code_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = tmp_path / "file"
    file.write_text(f"!!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(ManifestError, match="is not YAML"):
        manifest.read(file)
    assert not mark.exists()


YAML = """\
apiVersion: v1
kind: Service
metadata: {name: web}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec: {containers: [{name: a, image: i}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
"""


def test_several_documents(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(YAML)
    found = manifest.read(file)
    assert [pod.name for pod in found.pods] == ["one"]
    assert found.others == (("Service", "web"), ("ConfigMap", "settings"))
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: YQ==}\n"
    file.write_text(YAML + secret)
    found = manifest.read(file)
    assert found.others[-1] == ("Secret", "s")
    assert {thing["kind"] for thing in found.pod().beside} == {"Service", "ConfigMap"}
    pod = YAML.split("---\n")[1]
    file.write_text(YAML + "---\n" + pod.replace("one", "two"))
    with pytest.raises(ManifestError, match=r"expected one Pod, not 2 \(one, two\)"):
        manifest.read(file).pod()
    file.write_text(YAML + "---\n" + pod)
    with pytest.raises(ManifestError, match=r"document 4: metadata.name: expected a name that no"):
        manifest.read(file)
    file.write_text(YAML + "---\n" + pod.replace("image", "imag"))
    with pytest.raises(ManifestError, match=r"document 4: spec\.containers\[0\]\.imag: there is"):
        manifest.read(file)
    file.write_text(YAML.split("---\n", maxsplit=1)[0])
    with pytest.raises(ManifestError, match="expected a Pod; there is only Service web"):
        manifest.read(file)


def test_json_needs_no_yaml(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert read(write({})).name == "tensors"
    (tmp_path / "pod.yaml").write_text(YAML)
    with pytest.raises(ManifestError, match=r"PyYAML is needed: pip install 'podipc\[pod\]'"):
        manifest.read(tmp_path / "pod.yaml")
    (tmp_path / "pod.json").write_text('{"a": ')
    with pytest.raises(ManifestError, match="is not JSON"):
        manifest.read(tmp_path / "pod.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64Mi", 64 << 20),
        ("1G", 10**9),
        ("1.5Ki", 1536),
        ("1e3", 1000),
        (128, 128),
        ("1Ei", 1 << 60),
        ("2000m", 2),
    ],
)
def test_quantities(write: Any, text: Any, expected: int) -> None:
    pod = read(write({"spec.volumes[0].emptyDir.sizeLimit": text}))
    assert pod.volumes[0].size == expected


@pytest.mark.parametrize(
    "text", ["", "Mi", "1 Mi", "-1", "1Mb", "0", "1e", True, [], "٣", "1e9999", "1e99"]
)
def test_no_quantities(write: Any, text: Any) -> None:
    with pytest.raises(ManifestError, match="sizeLimit: expected a"):
        read(write({"spec.volumes[0].emptyDir.sizeLimit": text}))


def test_a_cpu_limit_of_nothing_is_none(write: Any) -> None:
    pod = read(write({"spec.containers[0].resources": {"limits": {"cpu": "0"}}}))
    assert pod.containers[0].cpu is None
    with pytest.raises(ManifestError, match=r"limits\.cpu: expected a quantity below"):
        read(write({"spec.containers[0].resources": {"limits": {"cpu": "1e999"}}}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$$$(A)", "$1"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert environment.expand(text, {"A": "1"}) == expected


def test_environment_that_cannot_be_had(write: Any) -> None:
    pod = read(
        write(
            {
                "spec.containers[0].env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}
                ]
            }
        )
    )
    with pytest.raises(ManifestError) as caught:
        environment.variables(pod, pod.containers[0], "uid", "local")
    assert caught.value.path == "spec.containers[0].env[0].valueFrom.secretKeyRef"
    pod = read(write({"spec.containers[0].envFrom": [{"secretRef": {"name": "x"}}]}))
    with pytest.raises(ManifestError, match=r"envFrom\[0\].secretRef: .* has no Secrets"):
        environment.variables(pod, pod.containers[0], "uid", "local")


def test_what_has_no_effect_is_said(write: Any) -> None:
    pod = read(
        write(
            {
                "spec.hostNetwork": True,
                "spec.containers[0].livenessProbe": {"exec": {"command": ["true"]}},
                "spec.containers[0].securityContext": {"capabilities": {"drop": ["ALL"]}},
                "spec.containers[0].ports": [{"containerPort": 80}],
                "spec.containers[1].resources": {"requests": {"cpu": 1}},
                "spec.volumes[0].emptyDir": {"sizeLimit": "1Gi"},
            }
        )
    )
    said = notes.of(pod)
    for line in textwrap.dedent(
        """\
        image: not used
        ports: information only
        spec.hostNetwork: not used, the Pod has a network namespace of its own
        spec.containers[0].livenessProbe: not used, only startup probes are made here
        spec.containers[0].securityContext.capabilities: not used, the container keeps
        spec.containers[1].resources.requests.cpu: not used, nothing is scheduled here
        spec.volumes[0].emptyDir.sizeLimit: not enforced
        """
    ).splitlines():
        assert any(note.startswith(line) for note in said), (line, said)
    assert len(said) == 7
