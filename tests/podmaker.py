"""Pods of the local runtime for the tests: manifests, what a Pod could leave, other users."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import PATIENCE, SESSION, said_by_ordinary_user, unique_name

from podipc.pod import up
from podipc.pod.local import cgroups
from podipc.pod.local.pod import Pod

MEMORY = {"medium": "Memory", "sizeLimit": "4Mi"}
FOREVER = ["sh", "-c", "trap 'echo ends; exit 0' TERM; echo runs; while :; do sleep 0.05; done"]


def container(name: str, command: list[str] | str, **fields: Any) -> dict[str, Any]:
    if isinstance(command, str):
        command = ["sh", "-c", command]
    return {"name": name, "image": "image", "command": command, **fields}


def mount(volume: str, path: str, **fields: Any) -> dict[str, Any]:
    return {"name": volume, "mountPath": path, **fields}


class Maker:
    """Writes manifests of its own names and starts them; what still runs is closed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = contextlib.ExitStack()

    def write(self, *containers: dict[str, Any], **spec: Any) -> Path:
        name = unique_name("pod").replace("_", "-").lower()
        mark = {"name": "POD", "value": name}
        for each in [*containers, *spec.get("initContainers", ())]:
            each["env"] = [*each.get("env", ()), mark]
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 20,
                "containers": list(containers),
                **spec,
            },
        }
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps(document))
        return file

    def up(self, *containers: dict[str, Any], backoff: float = 10.0, **spec: Any) -> Pod:
        pod = up(self.write(*containers, **spec), "local", backoff=backoff)
        self._stack.callback(pod.close)
        pod.ready(PATIENCE)
        return pod

    def close(self) -> None:
        self._stack.close()


def host_traces() -> dict[str, Any]:
    """What the Pods of this test run could leave on the host; that of others may change."""
    places = {c.parent for c in cgroups.controllers().values() if c.parent}
    scratch = [p for d in ("/var/tmp", "/tmp") for p in Path(d).glob(f"podipc-{SESSION}-*")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "mounts": [line for line in mounts if SESSION in line],
        "cgroups": sorted(str(p) for place in places for p in place.glob(f"podipc-{SESSION}-*")),
        "scratch": sorted(map(str, scratch)),
        "processes": sorted(map(str, _processes_of_pods())),
    }


def _processes_of_pods() -> Iterator[int]:
    """Processes in whose environment or command line a Pod of this test run is named."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if f"POD={SESSION}".encode() in text:
                    yield int(entry.name)


def finished(pod: Pod) -> Pod:
    pod.wait(PATIENCE)
    return pod


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


UNTIL_IT_ENDS = """
import json, os, sys
import encodings.idna, podipc.pod.local.pod, podipc.pod.manifest, podipc.pod
become()
with podipc.pod.up(sys.argv[1], "local") as pod:
    phase = pod.wait(60)
    logs = {name: c.logs() for name, c in pod.containers.items()}
    print(json.dumps([phase, pod.message, pod.notes, logs, pod.isolation, pod._sandbox.scratch]))
"""


def run_as_user(file: Path, first: str = "") -> list[Any]:
    """Phase, message, notes, logs, isolation and scratch directory of a Pod that has ended."""
    said = said_by_ordinary_user(
        UNTIL_IT_ENDS.replace("become()", f"become(); {first}"), file.read_text()
    )
    found: list[Any] = json.loads(said)
    return found
