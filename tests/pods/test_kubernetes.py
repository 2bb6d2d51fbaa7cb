"""The runtime kubernetes against a small API server whose Pods really run (`apiserver.py`)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, eventually, unique_name

pytest.importorskip("kubernetes", reason="the client of Kubernetes is not installed")
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from pods.cluster import Cluster, container, pod, write

import podipc
from podipc.pod import up, up_all
from podipc.pod.errors import CommandNotFound, ManifestError, NotHere, PodError
from podipc.pod.kubernetes import cluster as api
from podipc.pod.kubernetes import objects, states
from podipc.pod.local import namespaces
from podipc.pod.runtime import PIPE

pytestmark = pytest.mark.xdist_group("kubernetes")  # one cluster is enough

DELETE = [sys.executable, "-m", "podipc.pod.kubernetes.delete"]
FOREVER = "trap 'echo ends; exit 0' TERM; echo runs; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def running():
    with namespaces.Pod() as here:
        if not here.isolation["mount"] or not here.isolation["pid"]:
            pytest.skip("not possible here: " + "; ".join(here.notes))
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(running, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", running.kubeconfig)
    yield running
    assert running.objects() == [], "nothing is left in the cluster"


def start(document, **options):
    return up(document, "kubernetes", **options)


# A Pod from its beginning to its end


def test_run(cluster, tmp_path):
    file = write(tmp_path, pod("echo one; printf two", "echo three >&2"))
    out, err = cluster.podipc("pod", "run", "--runtime", "kubernetes", file)
    assert sorted(out.splitlines()) == ["a | one", "a | two", "b | three"]
    assert err == ""
    file = write(tmp_path, pod("echo why; exit 3"))
    out, err = cluster.podipc("pod", "run", "--runtime", "kubernetes", file, code=1)
    assert out == "a | why\n"
    assert f"{file}: spec.containers[0]: container 'a' ended with Error, exit code 3" in err
    assert "it last said: why" in err


def test_run_is_interrupted(cluster, tmp_path):
    file = write(tmp_path, pod(FOREVER))
    with subprocess.Popen(
        [sys.executable, "-m", "podipc", "pod", "run", "--runtime", "kubernetes", file],
        stdout=subprocess.PIPE,
        text=True,
        env=cluster.env,
    ) as process:
        assert process.stdout.readline() == "a | runs\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE)[0] == "a | ends\n"
    assert process.returncode == 130


def test_several_pods(cluster, tmp_path):
    """Their Service goes with the Pod that it selects."""
    name = unique_name("two").lower()
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    }
    server = pod(FOREVER, name=f"{name}-s", metadata={"labels": {"app": name}})
    server["spec"]["restartPolicy"] = "Always"
    file = write(tmp_path, pod("echo done", name=f"{name}-c"), service, server)
    with up_all(str(file), "kubernetes") as pods:
        assert pods.wait(PATIENCE) == "Succeeded"
        assert f"services/team/{name}" in cluster.objects()
        pods.end(f"{name}-s")
        assert cluster.objects() == [f"pods/team/{name}-c"]
    out, err = cluster.podipc("pod", "run", "--runtime", "kubernetes", file)
    assert f"{name}-c/a | done" in out
    assert err == ""


def test_up_exec_logs_list_down(cluster, tmp_path):
    place = {"XDG_RUNTIME_DIR": str(tmp_path)}
    file = write(tmp_path, pod(FOREVER, "echo of b; exec sleep 1000"))
    name = file.stem
    words = ["pod", "up", "--runtime", "kubernetes", "--namespace", "default", file]
    assert cluster.podipc(*words, **place)[0] == f"Pod {name} is up\n"
    assert cluster.objects() == [f"pods/default/{name}"]
    (found,) = json.loads(cluster.podipc("pod", "list", "--json", **place)[0])
    assert (found["runtime"], found["phase"]) == ("kubernetes", "Running")
    assert [c["state"] for c in found["containers"]] == ["running", "running"]
    command = ["sh", "-c", "hostname; cat; exit 7"]
    out, _ = cluster.podipc("pod", "exec", name, "-c", "b", "--", *command, code=7, **place)
    assert out == "b\n"
    eventually(
        lambda: cluster.podipc("pod", "logs", name, **place)[0] == "a | runs\nb | of b\n",
        "what they print is there",
    )
    following = subprocess.Popen(
        [sys.executable, "-m", "podipc", "pod", "logs", "-f", name, "-c", "a"],
        stdout=subprocess.PIPE,
        text=True,
        env={**cluster.env, **place},
    )
    assert following.stdout.readline() == "runs\n"
    cluster.podipc("pod", "down", name, **place)
    assert following.communicate(timeout=PATIENCE)[0] == "ends\n"


def test_states_and_logs_outlive_the_pod(cluster):
    document = pod("echo x; exit 4", FOREVER, initContainers=[container("i", "echo first")])
    with start(document) as made:
        assert made.namespace == "team", "that of the context"
        assert made.phase == "Running"
        assert made["a"].wait(PATIENCE) == 4
        assert (made["a"].state, made["a"].reason) == ("terminated", "Error")
        assert (made["b"].state, made["b"].returncode) == ("running", None)
        assert (made["i"].is_init, made["i"].returncode) == (True, 0)
        with pytest.raises(podipc.Timeout, match="'b' still runs"):
            made["b"].wait(0)
        with pytest.raises(podipc.Timeout, match="still runs"):
            made.wait(0)
        eventually(lambda: made["b"].logs() == "runs\n", "its output is here")
    assert made.phase == "Failed"
    assert "container 'a' ended with Error, exit code 4; it last said: x" in made.message
    assert [made[name].logs() for name in "iab"] == ["first\n", "x\n", "runs\nends\n"]
    assert b"".join(made["b"].follow()) == b"runs\nends\n"
    made.close()


def test_succeeded(cluster):
    with start(pod("true", "sleep 0.1")) as made:
        assert made.wait(PATIENCE) == "Succeeded"
        assert made.message == ""
    assert made.phase == "Succeeded"


def test_the_pod_may_be_named_by_the_manifest_the_caller_or_the_context(cluster, tmp_path):
    with start(pod("true", metadata={"namespace": "default"})) as made:
        assert cluster.objects() == [f"pods/default/{made.name}"]
    with start(pod("true"), context="plain") as made:
        assert made.namespace == "default"
    document = pod("true", metadata={"namespace": "team"})
    with pytest.raises(ManifestError, match=r"metadata\.namespace: expected default"):
        start(document, namespace="default")
    file = write(tmp_path, pod("true"))
    err = cluster.podipc("pod", "run", "--namespace", "team", file, code=2)[1]
    assert "--namespace is for --runtime kubernetes" in err


def test_restarts(cluster):
    count = "echo run; trap 'exit 3' TERM; while :; do sleep 0.05; done"
    with start(pod(count, "exec sleep 1000", restartPolicy="Always")) as made:
        a = made["a"]
        a.restart(PATIENCE)
        eventually(lambda: a.state == "running", "it runs again")
        assert (a.restarts, a.returncode) == (1, 3)
        a.send_signal(signal.SIGTERM)
        eventually(lambda: a.restarts == 2 and a.state == "running", "the cluster restarts it")
        eventually(lambda: a.logs() == "run\n" * 3, "of all runs", PATIENCE)
        with pytest.raises(NotHere, match=r"SIGTERM did not end it within 0\.2 s"):
            made["b"].restart(0.2)
        with pytest.raises(NotHere, match="PID 1 gets no SIGKILL"):
            a.kill()
        made["b"].send_signal(signal.SIGUSR1)
        assert made["b"].state == "running", "PID 1 gets what it handles only"
    with (
        start(pod(FOREVER)) as made,
        pytest.raises(NotHere, match=r"spec\.restartPolicy: expected Always, not Never"),
    ):
        made["a"].restart()
    with pytest.raises(podipc.Closed):
        made["a"].exec(["true"])


def test_a_template_is_created_as_a_pod(cluster, tmp_path):
    alone = pod("echo of a template", restartPolicy="OnFailure")
    name = alone["metadata"]["name"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"completions": 2, "template": {"spec": alone["spec"]}},
    }
    file = write(tmp_path, job)
    out, err = cluster.podipc("pod", "run", "--runtime", "kubernetes", file)
    assert out == "a | of a template\n"
    assert err == (
        f"podipc: note: Job {name}: its template is run as one Pod, {name}; "
        "not used: spec.completions\n"
    )


def test_an_idle_pod(cluster):
    """Its containers wait for SIGTERM, which they block and do not handle."""
    with start(pod("exit 1", restartPolicy="Always"), idle=True) as made:
        assert made["a"].run("1 + 1").value == 2
        made["a"].restart(PATIENCE)
        assert made["a"].restarts == 1


def test_what_the_file_has_beside_the_pod_comes_and_goes_with_it(cluster, tmp_path):
    name = unique_name("with").lower()
    beside = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"A": "b c"}},
    ]
    document = pod('echo "A is $A"', name=name)
    document["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": name}}]
    file = write(tmp_path, document, *beside)
    with start(str(file)) as made:
        assert made.wait(PATIENCE) == "Succeeded"
        assert made["a"].logs() == "A is b c\n"
        there = {f"{kind}/team/{name}" for kind in ("pods", "services", "configmaps")}
        assert set(cluster.objects()) == there
    assert cluster.objects() == []
    beside[1]["metadata"]["namespace"] = "default"
    file = write(tmp_path, document, *beside)
    with pytest.raises(ManifestError, match=r"ConfigMap .* expected that of the Pod, team"):
        start(str(file))


# The connection


def test_nothing_is_lost_or_doubled_when_connections_break(cluster):
    count = 300
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); sleep 0.004; done"
    done = threading.Event()

    def cut():
        while not done.wait(0.07):
            cluster.tell(cut=True)

    cutting = threading.Thread(target=cut)
    with start(pod(script)) as made:
        cutting.start()
        try:
            assert made.wait(PATIENCE) == "Succeeded"
        finally:
            done.set()
            cutting.join()
    assert made["a"].logs().splitlines() == [f"line {i}" for i in range(count)]


def fill(stream, data):
    stream.write(data)
    stream.close()


@pytest.mark.skipif(not shutil.which("openssl"), reason="not possible here: no openssl")
def test_over_tls(monkeypatch, running):
    with Cluster(tls=True) as safe:
        monkeypatch.setenv("KUBECONFIG", safe.kubeconfig)
        with start(pod("echo x; exec sleep 1000")) as made:
            program = made["a"].exec(["cat"], stdin=PIPE, stdout=PIPE)
            data = os.urandom(1 << 22)
            writer = threading.Thread(target=fill, args=(program.stdin, data))
            writer.start()
            assert program.stdout.read() == data
            writer.join()
            assert program.wait(PATIENCE) == 0
            program.close()
            eventually(lambda: made["a"].logs() == "x\n", "its output is here")
        config = Path(safe.kubeconfig)
        config.write_text(config.read_text().replace("certificate-authority:", "ignored:"))
        with pytest.raises(NotHere, match=r"is not reached: .*certificate verify failed"):
            start(pod("true"))


def test_watches_end_and_versions_expire(cluster):
    cluster.tell(watch=0.2)
    try:
        with start(pod("sleep 1; exit 5")) as made:
            cluster.tell(expire=True)
            assert made["a"].wait(PATIENCE) == 5
            made.wait(PATIENCE)
        watches = [r for r in cluster.tell()["requests"] if r.endswith("/pods")]
        assert len(watches) >= 3
    finally:
        cluster.tell(watch=300)


def test_deleted_by_somebody_else(cluster):
    with start(pod(FOREVER)) as made:
        subprocess.run(
            [*DELETE, made.namespace, made.name, made._instance], check=True, env=cluster.env
        )
        assert made.wait(PATIENCE) == "Failed"
        assert "deleted by somebody else" in made.message
        with pytest.raises(podipc.Closed):
            made["a"].exec(["true"])


def test_another_pod_of_that_name_is_not_deleted(cluster):
    with start(pod(FOREVER)) as made:
        words = [*DELETE, made.namespace, made.name, "another"]
        subprocess.run(words, check=True, env=cluster.env)
        assert made["a"].state == "running"
        assert cluster.objects()


def test_a_parent_that_is_killed_takes_the_pod_along(cluster, spawn):
    document = pod(FOREVER)
    child = spawn(
        "import podipc.pod\n"
        f"pod = podipc.pod.up({document!r}, 'kubernetes')\n"
        "pod.ready()\n"
        "say(pod.name)\n"
        "hear()",
        env={"KUBECONFIG": cluster.kubeconfig},
    )
    name = child.hear()
    assert cluster.objects() == [f"pods/team/{name}"]
    child.kill()
    eventually(lambda: cluster.objects() == [], "the Pod is gone")


# What is wrong


def test_without_the_client(cluster, tmp_path):
    (tmp_path / "kubernetes.py").write_text("raise ImportError('not installed')")
    file = write(tmp_path, pod("true"))
    words = ["pod", "run", "--runtime", "kubernetes", file]
    err = cluster.podipc(*words, code=1, PYTHONPATH=f"{tmp_path}:{ROOT}")[1]
    assert "pip install 'podipc[k8s]'" in err


def test_no_way_to_a_cluster(cluster, tmp_path, monkeypatch):
    document = pod("true")
    with pytest.raises(NotHere, match=r"kubeconfig: is no way to a cluster.*nowhere"):
        start(document, context="nowhere")
    with pytest.raises(NotHere, match=r"http://127.0.0.1:1 .* is not reached: .*refused"):
        start(document, context="down")
    with pytest.raises(NotHere, match="does not know who asks"):
        start(document, context="stranger")
    broken = tmp_path / "broken"
    broken.write_text("contexts: {")
    monkeypatch.setenv("KUBECONFIG", str(broken))
    with pytest.raises(NotHere, match="broken: is no way to a cluster"):
        start(document)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(NotHere, match=r"there is no cluster: no kubeconfig .*none.*local"):
        start(document)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(NotHere, match="service account of this Pod: is no way to a cluster"):
        start(document)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1', "describe quota"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "overlays/restricted"),
        ('pods is forbidden: User "u" cannot create resource "pods"', "rbac.yaml"),
    ],
)
def test_forbidden(cluster, message, advice):
    cluster.tell(**{"POST pods": message})
    try:
        with pytest.raises(NotHere) as error:
            start(pod("true"))
        assert message in str(error.value)
        assert advice in str(error.value)
    finally:
        cluster.tell(**{"POST pods": ""})


def test_a_pod_that_cannot_be_removed_at_its_start(cluster, tmp_path):
    name = unique_name("left").lower()
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}
    service["spec"] = {"selector": {"app": name}, "ports": [{"port": 80}]}
    file = write(tmp_path, pod("true", name=name), service)
    cluster.tell(**{"POST services": "no Service for you", "DELETE pods": "it stays"})
    try:
        with pytest.raises(PodError, match="no Service for you") as error:
            start(str(file))
    finally:
        cluster.tell(**{"POST services": "", "DELETE pods": ""})
    assert "it may still be in the cluster" in str(error.value)
    assert f"kubectl -n team delete pod {name}" in str(error.value)
    client = api.Cluster()
    try:
        uid = client.request("GET", api.path("team", "pods", name))["metadata"]["uid"]
        objects.delete(client, "team", name, uid, 0)
    finally:
        client.close()
    eventually(lambda: cluster.objects() == [], "it is gone")


def test_taken_names_and_missing_namespaces(cluster, tmp_path):
    with start(pod(FOREVER)) as made:
        with pytest.raises(PodError, match="is in the namespace 'team' already; delete it"):
            start(pod("true", name=made.name))
        assert made["a"].state == "running"
    with pytest.raises(NotHere, match="no namespace 'elsewhere' in the cluster"):
        start(pod("true"), namespace="elsewhere")
    twice = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "twice"}, "data": {}}
    with (
        start(str(write(tmp_path, pod(FOREVER), twice))),
        pytest.raises(PodError, match="a ConfigMap 'twice' is in the namespace"),
    ):
        start(str(write(tmp_path, pod("true"), twice)))


def test_two_at_once_take_one_name(cluster):
    document = pod(FOREVER)
    made, refused = [], []

    def one():
        try:
            made.append(start(document))
        except PodError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in made:
        each.close()
    assert len(made) == 1
    assert all("is in the namespace 'team' already" in text for text in refused)


def test_the_server_dies(running, monkeypatch):
    from podipc.pod.kubernetes import pod as module

    monkeypatch.setattr(module, "_UNREACHABLE", 0.5)
    with Cluster() as other:
        monkeypatch.setenv("KUBECONFIG", other.kubeconfig)
        made = start(pod(FOREVER))
        made.ready(PATIENCE)
        other.kill()
        with pytest.raises(NotHere, match="is not reached"):
            made["a"].exec(["true"])
        with pytest.raises(PodError, match=r"may still be in the cluster.*delete pod"):
            made.close()


def test_the_cluster_does_not_take_it(cluster):
    document = pod("true")
    document["spec"]["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": "long"}}}
    with pytest.raises(ManifestError, match=r"spec.containers.0.lifecycle.*does not take it"):
        start(document)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"image": "registry.invalid/x:1"},
            PodError,
            r"spec.containers\[0\].image: container 'a': ImagePullBackOff of 'registry.invalid/x:1'"
            r".*push it to a registry",
        ),
        (
            {"command": ["none"]},
            CommandNotFound,
            r"spec.containers\[0\].command: container 'a': StartError: .*not found in \$PATH",
        ),
        (
            {"envFrom": [{"configMapRef": {"name": "absent"}}]},
            PodError,
            r"spec.containers\[0\]: container 'a': CreateContainerConfigError.*it was so for",
        ),
    ],
    ids=["image", "command", "config"],
)
def test_what_does_not_come_up(cluster, monkeypatch, change, error, text):
    monkeypatch.setattr(states, "PATIENCE", 0.3)
    document = pod("true")
    document["spec"]["containers"][0].update(change)
    with pytest.raises(error, match=text), start(document):
        pass


def test_no_room(cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(states, "PATIENCE", 0.3)
    document = pod("true", nodeSelector={"disk": "none"})
    made = start(document)
    try:
        with pytest.raises(podipc.Timeout, match=r"is not up after 0.1 s; there is \['a'\]"):
            made.ready(0.1)
        assert list(made["a"].follow()) == [], "ends when the Pod is taken down"
        with pytest.raises(PodError, match=r"spec.nodeSelector: Unschedulable: 0/1 nodes"):
            made.ready(PATIENCE)
    finally:
        made.close()


def test_an_init_container_fails(cluster):
    document = pod("true", initContainers=[container("i", "echo no; exit 2")])
    with pytest.raises(PodError, match=r"initContainers\[0\].*exit code 2; it last said: no"):
        start(document).__enter__()
    document["spec"]["restartPolicy"] = "Always"
    with pytest.raises(PodError, match=r"initContainers\[0\].*exit code 2.*CrashLoopBackOff"):
        start(document).__enter__()


def test_a_sidecar_that_crashes_again_and_again_is_started_again(cluster):
    side = container("side", "sleep 0.3; exit 1", restartPolicy="Always")
    with start(pod(FOREVER, initContainers=[side])) as made:
        eventually(lambda: made["side"].restarts >= 3, "it was started again")
        assert made.phase == "Running", made.message
        assert made["a"].restarts == 0


def test_out_of_memory(cluster):
    from podipc.pod.local import cgroups

    if not cgroups.controllers():
        pytest.skip("not possible here: no cgroup of memory can be written")
    script = [sys.executable, "-c", "x = b'x' * (1 << 28)"]
    document = pod(script)
    document["spec"]["containers"][0]["resources"] = {"limits": {"memory": "32Mi"}}
    with start(document) as made:
        assert made.wait(PATIENCE) == "Failed"
        assert "ended with OOMKilled, signal 9" in made.message
        assert f"spec.containers[0].resources.limits.memory is {32 << 20} bytes" in made.message


def test_notes(cluster, tmp_path):
    document = pod("true", volumes=[{"name": "v", "hostPath": {"path": "/v"}}])
    document["spec"]["containers"][0]["image"] = "localhost/x"
    file = write(tmp_path, document)
    out, err = cluster.podipc("pod", "render", "--runtime", "kubernetes", file)
    assert json.loads(out) == document
    assert "spec.volumes[0].hostPath: a path of whichever node" in err
    assert "spec.containers[0].image: localhost/x comes from no registry" in err
