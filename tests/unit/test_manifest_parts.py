"""Manifests: probes, ConfigMaps, and what a variable is taken from."""

import base64
import copy
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from podipc.pod import manifest
from podipc.pod.errors import ManifestError
from podipc.pod.manifest import config, environment
from podipc.pod.manifest.model import Probe

CONFIG: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "settings"},
    "data": {"SIZE": "64", "text": "a\nb\n"},
    "binaryData": {"raw": base64.b64encode(b"\0\1").decode()},
}


def read(tmp_path: Path, spec: dict[str, Any], *others: dict[str, Any], **fields: Any) -> Any:
    """The Pod of a file of several documents; `fields` are those of its container."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    container = {"name": "a", "image": "i", **fields}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [container], **spec},
    }
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump_all([pod, *others]))
    return manifest.read(file).pod()


def refused(tmp_path: Path, spec: dict[str, Any], *others: Any, **fields: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        pod = read(tmp_path, spec, *others, **fields)
        environment.variables(pod, pod.containers[0], "uid", "local")
        for volume in pod.volumes:
            config.files(pod, volume)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "pod.yaml"))
    assert caught.value.path in text
    return text.partition(": ")[2]


# Probes


def test_a_probe_with_its_defaults(tmp_path: Path) -> None:
    probe = {"httpGet": {"port": "web"}, "timeoutSeconds": 0}
    ports = [{"name": "web", "containerPort": 80}]
    (a,) = read(tmp_path, {}, startupProbe=probe, ports=ports).containers
    assert a.startup == Probe("spec.containers[0].startupProbe", "httpGet", port=80)
    assert (a.startup.period, a.startup.timeout, a.startup.failures, a.startup.url) == (
        *(10, 1, 3),
        "/",
    )
    assert not any(
        "startupProbe" in path
        for path in read(tmp_path, {}, startupProbe=probe, ports=ports).others
    )


def test_a_probe_with_everything(tmp_path: Path) -> None:
    probe = {
        "httpGet": {
            "host": "127.0.0.2",
            "port": 1,
            "path": "x?y=1",
            "scheme": "HTTPS",
            "httpHeaders": [{"name": "A", "value": "b c"}],
        },
        "initialDelaySeconds": 2,
        "periodSeconds": 3,
        "timeoutSeconds": 4,
        "failureThreshold": 5,
        "successThreshold": 1,
        "terminationGracePeriodSeconds": 6,
    }
    found = read(tmp_path, {}, startupProbe=probe).containers[0].startup
    assert (found.host, found.port, found.url, found.scheme) == ("127.0.0.2", 1, "/x?y=1", "HTTPS")
    assert found.headers == (("A", "b c"),)
    assert (found.delay, found.period, found.timeout, found.failures, found.grace) == (
        2,
        3,
        4,
        5,
        6,
    )


AT = "spec.containers[0].startupProbe"
WRONG_PROBES: list[tuple[dict[str, Any], str]] = [
    ({}, f"{AT}: expected one of exec, httpGet, tcpSocket, grpc, not none"),
    ({"exec": {"command": ["x"]}, "grpc": {"port": 1}}, f"{AT}: expected one of exec, httpGet,"),
    ({"exec": {}}, f"{AT}.exec.command: is missing; expected a program"),
    ({"exec": {"command": "x"}}, f"{AT}.exec.command: expected a list, not 'x'"),
    ({"httpget": {"port": 1}}, f"{AT}.httpget: there is no such field; did you mean 'httpGet'?"),
    ({"httpGet": {}}, f"{AT}.httpGet.port: is missing; expected a port"),
    ({"httpGet": {"port": 0}}, f"{AT}.httpGet.port: expected a whole number from 1 to 65535"),
    ({"tcpSocket": {"port": "web"}}, f"{AT}.tcpSocket.port: expected a number, or the name"),
    ({"grpc": {"port": "web"}}, f"{AT}.grpc.port: expected a whole number from 1"),
    (
        {"httpGet": {"port": 1, "path": "/a b"}},
        f"{AT}.httpGet.path: expected a path without spaces",
    ),
    (
        {"httpGet": {"port": 1, "scheme": "http"}},
        f"{AT}.httpGet.scheme: expected 'HTTP' or 'HTTPS'",
    ),
    (
        {"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "b\r\nc"}]}},
        f"{AT}.httpGet.httpHeaders[0].value: expected printable ASCII",
    ),
    ({"exec": {"command": ["x"]}, "successThreshold": 2}, f"{AT}.successThreshold: expected 1, no"),
    ({"exec": {"command": ["x"]}, "periodSeconds": -1}, f"{AT}.periodSeconds: expected a whole nu"),
    ({"exec": {"command": ["x"]}, "timeoutSecond": 1}, f"{AT}.timeoutSecond: there is no such f"),
]


@pytest.mark.parametrize(("probe", "text"), WRONG_PROBES, ids=[text for _, text in WRONG_PROBES])
def test_what_is_wrong_with_a_probe(tmp_path: Path, probe: dict[str, Any], text: str) -> None:
    assert refused(tmp_path, {}, startupProbe=probe).startswith(text)


def test_other_probes_are_checked_and_named(tmp_path: Path) -> None:
    ready = {"exec": {"command": ["x"]}, "successThreshold": 2}
    pod = read(tmp_path, {}, readinessProbe=ready)
    assert "spec.containers[0].readinessProbe" in pod.others
    assert "livenessProbe.exec.command" in refused(tmp_path, {}, livenessProbe={"exec": {}})
    once = {"name": "i", "image": "i", "startupProbe": {"exec": {"command": ["x"]}}}
    assert "unless it is a sidecar" in refused(tmp_path, {"initContainers": [once]})


# ConfigMaps


def variable(name: str, **source: Any) -> dict[str, Any]:
    return {"name": name, "valueFrom": source}


def environment_of(pod: Any) -> dict[str, str]:
    return environment.variables(pod, pod.containers[0], "uid", "local")


def test_variables_of_a_config_map(tmp_path: Path) -> None:
    pod = read(
        tmp_path,
        {},
        CONFIG,
        envFrom=[
            {"configMapRef": {"name": "settings"}, "prefix": "S_"},
            {"configMapRef": {"name": "none", "optional": True}},
        ],
        env=[
            variable("A", configMapKeyRef={"name": "settings", "key": "SIZE"}),
            variable("B", configMapKeyRef={"name": "settings", "key": "x", "optional": True}),
            {"name": "C", "value": "$(A)/$(S_SIZE)"},
        ],
    )
    assert environment_of(pod) == {"S_SIZE": "64", "S_text": "a\nb\n", "A": "64", "C": "64/64"}


def test_a_config_map_that_is_used_is_not_among_the_others(tmp_path: Path) -> None:
    other = {**copy.deepcopy(CONFIG), "metadata": {"name": "other"}}
    read(tmp_path, {}, CONFIG, other, envFrom=[{"configMapRef": {"name": "settings"}}])
    assert manifest.read(tmp_path / "pod.yaml").others == (("ConfigMap", "other"),)


def test_files_of_a_config_map(tmp_path: Path) -> None:
    items = [{"key": "text", "path": "d/t", "mode": 0o400}, {"key": "raw", "path": "r"}]
    volumes = [
        {"name": "all", "configMap": {"name": "settings"}},
        {"name": "some", "configMap": {"name": "settings", "items": items, "defaultMode": 0o600}},
        {"name": "none", "configMap": {"name": "none", "optional": True}},
    ]
    pod = read(tmp_path, {"volumes": volumes}, CONFIG)
    every, some, none = (config.files(pod, volume) for volume in pod.volumes)
    assert every == {"SIZE": (b"64", 0o644), "text": (b"a\nb\n", 0o644), "raw": (b"\0\1", 0o644)}
    assert some == {"d/t": (b"a\nb\n", 0o400), "r": (b"\0\1", 0o600)}
    assert none == {}


def volume(**fields: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "configMap": {"name": "settings", **fields}}]}


def test_what_is_wrong_with_a_config_map(tmp_path: Path) -> None:
    def item(**fields: Any) -> dict[str, Any]:
        return volume(items=[{"key": "text", "path": "x"}, {"key": "raw", **fields}])

    for spec, text in (
        (
            volume(name="other"),
            "spec.volumes[0].configMap.name: expected the name of a ConfigMap in",
        ),
        (volume(name=None), "spec.volumes[0].configMap.name: is missing"),
        (volume(defaultMode=0o1000), "spec.volumes[0].configMap.defaultMode: expected a whole"),
        (item(), "spec.volumes[0].configMap.items[1].path: is missing"),
        (item(path="/a"), "spec.volumes[0].configMap.items[1].path: expected a relative path"),
        (item(path="a/../../b"), "spec.volumes[0].configMap.items[1].path: expected a relative"),
        (
            item(path="./x"),
            "spec.volumes[0].configMap.items[1].path: expected a path that no other",
        ),
        (
            item(path="x/y"),
            "spec.volumes[0].configMap.items[1].path: expected a path that no other",
        ),
        (
            volume(items=[{"key": "no", "path": "x"}]),
            "spec.volumes[0].configMap.items[0].key: expected a key of the ConfigMap (SIZE, text,",
        ),
    ):
        assert refused(tmp_path, spec, CONFIG).startswith(text)
    for changes, text in (
        ({"data": {"a/b": ""}}, "document 2: data.a/b: expected a key of at most 253 letters"),
        ({"data": {"..": ""}}, "document 2: data...: expected a key"),
        ({"data": {"a": 1}}, "document 2: data.a: expected a string (put it in quotation marks)"),
        (
            {"data": {"a": "x" * (1 << 20) + "y"}},
            "document 2: the document: expected at most 1 MiB",
        ),
        ({"binaryData": {"a": "?"}}, "document 2: binaryData.a: expected bytes in base64"),
        ({"binaryData": {"a": "ü"}}, "document 2: binaryData.a: expected bytes in base64"),
        (
            {"binaryData": {"SIZE": ""}},
            "document 2: binaryData.SIZE: expected a key that is not in",
        ),
        ({"metadata": {}}, "document 2: metadata.name: is missing"),
        ({"dat": {}}, "document 2: dat: there is no such field; did you mean 'data'?"),
    ):
        with pytest.raises(ManifestError) as caught:
            read(tmp_path, {}, {**CONFIG, **changes})
        assert text in str(caught.value)
    with pytest.raises(ManifestError, match="a name that no other ConfigMap has"):
        read(tmp_path, {}, CONFIG, CONFIG)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"env": [variable("A", configMapKeyRef={"name": "settings", "key": "no"})]},
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: expected a key of the Config",
        ),
        (
            {"env": [variable("A", configMapKeyRef={"name": "no", "key": "no"})]},
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.name: expected the name of a Conf",
        ),
        (
            {"env": [variable("A", configMapKeyRef={"name": "no"})]},
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: is missing",
        ),
        (
            {"envFrom": [{"configMapRef": {"name": "no"}}]},
            "spec.containers[0].envFrom[0].configMapRef.name: expected the name of a ConfigMap in "
            "the same file (settings), not 'no'",
        ),
        (
            {"envFrom": [{"prefix": "x"}]},
            "spec.containers[0].envFrom[0]: expected one of configMap",
        ),
        (
            {"env": [variable("A", secretKeyRef={"name": "x", "key": "y"})]},
            "spec.containers[0].env[0].valueFrom.secretKeyRef: the runtime local has no Secrets",
        ),
    ],
)
def test_references_that_lead_nowhere(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    assert refused(tmp_path, {}, CONFIG, **fields).startswith(text)


# Limits and requests as variables


def amount(resource: str, divisor: Any = None, container: str | None = None) -> str:
    return json.dumps({"resource": resource, "divisor": divisor, "containerName": container})


def test_limits_as_variables(tmp_path: Path) -> None:
    resources = {
        "limits": {"memory": "100Mi", "cpu": "1500m"},
        "requests": {"memory": "64Mi"},
    }
    wanted = {
        amount("limits.memory"): str(100 << 20),
        amount("limits.memory", "1Mi"): "100",
        amount("limits.memory", "1G"): "1",
        amount("limits.cpu"): "2",
        amount("limits.cpu", "1m"): "1500",
        amount("limits.cpu", 0): "2",
        amount("requests.memory", "1Ki"): str(64 << 10),
        amount("requests.cpu", "1m"): "1500",
        amount("requests.memory", "1", "b"): "0",
    }
    env = [variable(f"V{i}", resourceFieldRef=json.loads(text)) for i, text in enumerate(wanted)]
    other = {"name": "b", "image": "i"}
    pod = read(
        tmp_path,
        {"containers": [{"name": "a", "image": "i", "env": env, "resources": resources}, other]},
    )
    assert list(environment_of(pod).values()) == list(wanted.values())
    assert pod.containers[0].amounts["limits.cpu"] == Decimal("1.5")
    assert (pod.containers[0].memory, pod.containers[0].cpu) == (100 << 20, 1.5)


def test_without_a_limit_it_is_that_of_the_machine(tmp_path: Path) -> None:
    env = [
        variable(what, resourceFieldRef={"resource": f"limits.{what}"})
        for what in ("cpu", "memory", "ephemeral-storage")
    ]
    found = environment_of(read(tmp_path, {}, env=env))
    total = Path("/proc/meminfo").read_text().split()[1]
    assert abs(int(found["memory"]) / 1024 / int(total) - 1) < 0.1
    assert int(found["cpu"]) >= 1
    assert int(found["ephemeral-storage"]) > 0


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({}, "resource: is missing"),
        ({"resource": "limit.cpu"}, "resource: expected 'limits.cpu' or 'limits.memory'"),
        ({"resource": "limits.cpu", "divisor": "x"}, "divisor: expected a quantity"),
        (
            {"resource": "limits.cpu", "containerName": "b"},
            "containerName: expected a container of",
        ),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, source: dict[str, Any], text: str) -> None:
    said = refused(tmp_path, {}, env=[variable("A", resourceFieldRef=source)])
    assert said.startswith(f"spec.containers[0].env[0].valueFrom.resourceFieldRef.{text}")
