"""The caption of a figure says where it was measured: the Pod, its limits, the machine."""

from support import ROOT

from podipc.lab import machine, where
from podipc.pod import up

MANIFEST = """
kind: Pod
apiVersion: v1
metadata: {name: where}
spec:
  containers:
    - {name: a, image: x, command: [sleep, "60"], resources: {limits: {memory: 96Mi}}}
    - {name: b, image: x, command: [sleep, "60"]}
"""


def test_of_a_pod() -> None:
    with up(ROOT / "k8s/pods/shared-memory-pod.yaml", "local", idle=True, grace=1) as pod:
        said = where.of(pod).replace("\u00a0", " ")
        share = "producer and consumer share "
        runtime, shared, limits, cpu, kernel, *_ = said.split(" · ")
        assert runtime == "runtime local"
        assert shared.startswith(share)
        names = shared.removeprefix(share).split(", ")
        assert {"net", "ipc", "/dev/shm", "a volume"} <= set(names)
        assert not {"mnt", "pid"} & set(names)
        limit = "no memory limit" if pod["producer"].stats().memory_limit is None else "128 MiB"
        assert limits.startswith(limit)
        assert limits.endswith(" each")
        assert machine.host()["cpu"] in cpu
        assert machine.host()["kernel"] in kernel
        # In a cluster the machine is another, and a container is asked what it is.
        asked = pod["producer"].run(where._ASK).unwrap()
        assert asked["kernel"] == machine.host()["kernel"]
        pod["producer"].kill()
        pod["producer"].wait()
        one = where.of(pod)
        assert "share" not in one, "one container runs"
        assert "each" not in one


def test_limits_that_differ(tmp_path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(MANIFEST)
    with up(path, "local", idle=True, grace=1) as pod:
        said = where.of(pod)
        assert "b: no memory limit" in said or "no memory limit, no cpu limit each" in said


def test_a_text_is_taken_as_it_is() -> None:
    assert where.of("runtime plain") == "runtime plain"
