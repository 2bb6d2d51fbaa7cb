"""k8s/lab/lab.yaml: JupyterLab asks for its token, and the workers next to it work."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support import PATIENCE, ROOT, eventually

import podipc.pod
from podipc.pod.runtime import Pod

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: the extra notebook")
pytest.importorskip("yaml", reason="PyYAML is not installed")

LAB = ROOT / "k8s/lab/lab.yaml"

ASKED = """
import urllib.error, urllib.request
try:
    with urllib.request.urlopen(f"http://127.0.0.1:8888/api/contents{query}", timeout=30) as answer:
        status = answer.status
except urllib.error.HTTPError as error:
    status = error.code
status
"""

WORKED = """
import numpy, podipc
x = numpy.random.default_rng(0).random((50, 20))
with podipc.sender("shm://raw") as tx, podipc.receiver("shm://answers") as rx:
    tx.send(x, timeout=60)
    found = rx.recv(timeout=60, copy=True)
bool(numpy.allclose(found, numpy.linalg.svd((x - x.mean()) / x.std(), compute_uv=False)))
"""


@pytest.fixture
def pod(podipc_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    monkeypatch.delenv("PODIPC_DIR")  # of the host; the Pod has its own /dev/shm
    with podipc.pod.up(LAB, "local", grace=1) as made:
        yield made


def test_jupyterlab_next_to_two_workers(pod: Pod) -> None:
    jupyter = pod["jupyter"]
    for _ in range(20):  # the workers go on when a sender has closed
        assert jupyter.run(WORKED, timeout=PATIENCE).unwrap() is True
    address = re.compile(r"127\.0\.0\.1:8888/\S*\?token=(\w+)")
    said = eventually(lambda: address.search(jupyter.logs()), "JupyterLab says where it is")
    for query, status in (("", 403), ("?token=wrong", 403), (f"?token={said[1]}", 200)):
        asked = jupyter.run(ASKED, variables={"query": query}, timeout=PATIENCE)
        assert asked.unwrap() == status
    assert [c.restarts for c in pod.containers.values()] == [0, 0, 0]
