"""What the status of a Pod in a cluster means, in the words of `podipc.pod.runtime`."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from podipc.pod import manifest as manifests

_SIGNALS = range(129, 129 + 64)

PATIENCE = 15.0
"""Seconds that what may mend itself is given: no node has room, a ConfigMap is on its way."""

_AT_ONCE = {
    "ImagePullBackOff": ".image",
    "InvalidImageName": ".image",
    "ErrImageNeverPull": ".image",
    "RunContainerError": ".command",
    "StartError": ".command",
    "ContainerCannotRun": ".command",
}
_IN_A_WHILE = {"CreateContainerConfigError": "", "CreateContainerError": ""}
_ADVICE = {
    "ImagePullBackOff": "push it to a registry that the nodes reach, or load it into them",
    "ErrImageNeverPull": "load it into the nodes, or set imagePullPolicy: IfNotPresent",
    "InvalidImageName": "expected the name of an image",
}
_UNSCHEDULABLE = (
    (r"Insufficient (\S+?)[,.]?(\s|$)", ".resources.requests"),
    (r"node affinity/selector", "spec.nodeSelector"),
    (r"untolerated taint", "spec.tolerations"),
    (r"free ports", ".ports"),
    (r"persistentvolumeclaim", "spec.volumes"),
)


@dataclass(frozen=True)
class State:
    """Of one container, once."""

    state: str = "waiting"
    returncode: int | None = None
    reason: str = ""
    restarts: int = 0
    runs: int = 0
    waits_for: str = ""
    message: str = ""


@dataclass(frozen=True)
class Complaint:
    """Why a Pod does not come up: the field, what is the matter, and whether waiting may help."""

    path: str
    text: str
    final: bool


def exit_code(code: int, number: int = 0) -> int:
    """An exit code as `subprocess` has it: minus the signal if one ended the program.

    Runtimes of containers report 128 and the signal. A program that itself exits with such
    a code cannot be told from one that a signal ended.
    """
    if number:
        return -number
    return 128 - code if code in _SIGNALS else code


def is_no_program(text: str) -> bool:
    """Whether the runtime of the containers says that a program is not in the image."""
    return "executable file not found" in text or "no such file or directory" in text


def of(status: Mapping[str, Any]) -> State:
    """What an element of ``containerStatuses`` says."""
    now = _dict(status, "state")
    running, waiting = _dict(now, "running"), _dict(now, "waiting")
    ended = _dict(now, "terminated") or _dict(_dict(status, "lastState"), "terminated")
    restarts = int(status.get("restartCount") or 0)
    if "running" in now:
        state = "running"
    elif "terminated" in now:
        state = "terminated"
    else:
        state = "backoff" if ended else "waiting"
    code = int(ended.get("exitCode") or 0)
    return State(
        state=state,
        returncode=exit_code(code, int(ended.get("signal") or 0)) if ended else None,
        reason="" if state == "running" else str(ended.get("reason") or ""),
        restarts=restarts,
        runs=restarts + 1 if ended or running or "running" in now else 0,
        waits_for=str(waiting.get("reason") or ""),
        message=str(waiting.get("message") or ended.get("message") or ""),
    )


def everyone(pod: Mapping[str, Any]) -> dict[str, State]:
    """Of each container that the status names."""
    status = _dict(pod, "status")
    found = {}
    for key in ("initContainerStatuses", "containerStatuses"):
        for each in status.get(key) or ():
            found[str(each.get("name"))] = of(each)
    return found


def complaints(spec: manifests.Pod, pod: Mapping[str, Any]) -> Iterator[Complaint]:
    """What keeps the Pod from coming up."""
    status = _dict(pod, "status")
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable" and condition.get("status") == "False":
            text = str(condition.get("message") or "no node takes it")
            yield Complaint(_field(spec, text), f"Unschedulable: {text}", final=False)
    states = everyone(pod)
    for container in spec.everyone():
        state = states.get(container.name, State())
        reason = state.waits_for or (state.reason if state.state == "terminated" else "")
        if reason in _AT_ONCE or reason in _IN_A_WHILE:
            field = _AT_ONCE.get(reason, _IN_A_WHILE.get(reason, ""))
            what = f"container {container.name!r}: {reason}"
            if field == ".image":
                what += f" of {container.image!r}"
            advice = _ADVICE.get(reason)
            parts = [what, state.message, advice and f"({advice})"]
            text = ": ".join(filter(None, parts[:2])) + (f" {parts[2]}" if advice else "")
            yield Complaint(f"{container.path}{field}", text, final=reason in _AT_ONCE)


def seconds(moment: str) -> float | None:
    """A moment of the API, as ``2026-01-02T03:04:05.678901234Z``, in seconds."""
    match = re.fullmatch(r"(\d+-\d+-\d+T\d+:\d+:\d+)(\.\d+)?(Z|[+-]\d\d:\d\d)", moment)
    if match is None:
        return None
    zone = "+00:00" if match[3] == "Z" else match[3]
    whole = datetime.datetime.fromisoformat(match[1] + zone).timestamp()
    return whole + float(match[2] or 0)


def _field(spec: manifests.Pod, text: str) -> str:
    for pattern, field in _UNSCHEDULABLE:
        if match := re.search(pattern, text):
            if not field.startswith("."):
                return spec.at(field)
            what = f".{match[1]}" if field == ".resources.requests" else ""
            return f"{spec.containers[0].path}{field}{what}"
    return spec.at("spec")


def _dict(of: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = of.get(key)
    return found if isinstance(found, dict) else {}
