"""Containers that run as different users, and what lets them meet."""

import os

import pytest
from support import PATIENCE

from podipc.pod import up

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="not possible here: only root can start containers as other users"
)

SEND = f"""
import numpy as np, podipc
with podipc.sender(address, mode=mode) as tx:
    tx.send(np.arange(1000), timeout={PATIENCE})
"""
RECEIVE = f"""
import podipc
with podipc.receiver(address, mode=mode) as rx:
    total = int(rx.recv(timeout={PATIENCE}, copy=True).sum())
total
"""


def manifest(fs_group: int | None, *gids: int) -> dict:
    """Two containers with a volume, UIDs 1001 and 1002 and these groups."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "users"},
        "spec": {
            "securityContext": {} if fs_group is None else {"fsGroup": fs_group},
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "containers": [
                {
                    "name": name,
                    "image": "any",
                    "command": ["true"],
                    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                    "securityContext": {"runAsUser": 1001 + number, "runAsGroup": gids[number]},
                }
                for number, name in enumerate(("a", "b"))
            ],
        },
    }


@pytest.mark.parametrize("first", ["a", "b"], ids=["receiver first", "sender first"])
@pytest.mark.parametrize(
    "address", ["shm:///shared/c", "file:///shared/c", "unix:///shared/c", "fifo:///shared/c"]
)
def test_a_common_fs_group(monkeypatch, address, first):
    """The volume's group is enough: nobody runs with it as his own."""
    monkeypatch.delenv("PODIPC_DIR")
    with up(manifest(2000, 1001, 1002), "local", idle=True) as pod:
        variables = {"address": address, "mode": 0o660}
        if first == "a":
            received = pod["a"].background(RECEIVE, variables=variables)
            pod["b"].run(SEND, variables=variables).check()
        else:
            sent = pod["b"].background(SEND, variables=variables)
            received = pod["a"].background(RECEIVE, variables=variables)
            sent.wait(PATIENCE).check()
        assert received.wait(PATIENCE).unwrap() == 499500


@pytest.mark.parametrize("address", ["shm:///shared/c", "file:///shared/c"])
def test_no_common_group(monkeypatch, address):
    monkeypatch.delenv("PODIPC_DIR")
    with up(manifest(None, 1001, 1002), "local", idle=True) as pod:
        variables = {"address": address, "mode": 0o660}
        begin = "import podipc; rx = podipc.receiver(address, mode=mode)"
        pod["a"].run(begin, variables=variables).check()
        result = pod["b"].run(SEND, variables=variables)
        assert result.error is not None
        assert result.error.name == "NotPermitted"
        for word in ("UID 1001", "UID 1002", "0o666"):
            assert word in result.error.message
