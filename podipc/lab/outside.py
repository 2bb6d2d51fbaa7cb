"""Start the Pod of a comparison, in any runtime, and bring its results here.

The Pod is that of k8s/pods/compare.yaml, of which compare.json is a copy, or one
like it. All measuring happens in it: from here it is given its options, its log is
read, and it is taken down. What it prints is input, and checked.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from podipc._core import NotPermitted
from podipc.console import printable
from podipc.lab import inputs, pair
from podipc.lab.inputs import InputError
from podipc.lab.listen import Listener
from podipc.lab.plan import SHM_BYTES, Plan
from podipc.lab.results import Results, ResultsError
from podipc.pod import manifest as manifests
from podipc.pod import notes_of, runtime, start
from podipc.pod.errors import ManifestError

MANIFEST = "k8s/pods/compare.yaml"
_INPUT = "/podipc-input"
_GRACE = 2.0
_READY = 600.0
"""Seconds; an image may have to be pulled."""

Progress = Callable[[int, int, str], None]


class ComparisonFailed(RuntimeError):
    """The containers could not measure; the text says which, why, and what it said last."""


def compare(
    plan: Plan,
    runtime: str | None = None,
    *,
    shm_bytes: int = SHM_BYTES,
    manifest: str | os.PathLike[str] | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Results:
    """Measure in two containers.

    Parameters
    ----------
    runtime
        One of `RUNTIMES`; None: ``local``, or ``plain`` where the host does not permit that.
    shm_bytes
        Size of the Pod's ``/dev/shm``; that of plain processes is the machine's.
    manifest
        A Pod with containers ``producer`` and ``consumer`` in place of k8s/pods/compare.yaml.

    Raises
    ------
    InputError
        The file of tensors cannot be used.
    ComparisonFailed
        A container died, fell silent, or the two did not find each other.
    PodipcError
        The Pod could not be started: `ManifestError`, `NotHere`, or what the runtime says.
    """
    if plan.input is not None:
        inputs.check(plan.input)
    document = _document(manifest)
    progress(0, 0, "starting two containers")
    try:
        return _compare(plan, runtime or "local", shm_bytes, document, progress)
    except NotPermitted as error:
        if runtime is not None:
            raise
        results = _compare(plan, "plain", shm_bytes, document, progress)
        results.about["notes"].insert(0, f"not in containers: {error}")
        return results


def _compare(
    plan: Plan, runtime: str, shm_bytes: int, document: dict[str, Any], progress: Progress
) -> Results:
    with contextlib.ExitStack() as stack:
        if runtime == "plain":
            pod = stack.enter_context(_plain(document, plan))
        else:
            adapted = _adapted(document, plan, runtime)
            options: dict[str, Any] = {}
            if runtime == "local":
                options["shm_bytes"] = shm_bytes
            else:
                _mount_shm(adapted, shm_bytes)
            spec = _spec(adapted)
            pod = start(spec, runtime, grace=_GRACE, **options)
            stack.callback(pod.close)
        listener = Listener(pod)
        pod.ready(_READY)
        head, rows = _heard(listener, plan, progress)
        results = _results(head, rows)
        try:
            _complete(results.about, pod, runtime, shm_bytes)
        except (LookupError, TypeError, AttributeError) as error:
            raise ComparisonFailed(
                f"the results of container 'producer' do not say what they are of: {error!r}"
            ) from error
        listener.say_rest()
        return results


def _heard(listener: Listener, plan: Plan, progress: Progress) -> tuple[dict[str, Any], list[Any]]:
    """What the producer tells, to its end."""
    rows: list[Any] = []
    for event in listener.events():
        kind = event.get("event")
        if kind == "progress":
            text = printable(str(event.get("text"))[:200])
            progress(_count(event, "done"), _count(event, "total"), text)
        elif kind == "row":
            rows.append(event.get("row"))
        elif kind == "results":
            if event.get("rows") != len(rows):
                raise ComparisonFailed(
                    f"of {event.get('rows')} rows {len(rows)} came: the log of container "
                    "'producer' has lost the others"
                )
            return event, rows
        elif kind == "error":
            if event.get("kind") == "input" and plan.input is not None:
                raise InputError(_with_path(printable(str(event.get("text"))), plan.input))
            raise ComparisonFailed(listener.obituary(event))
    raise ComparisonFailed(listener.obituary(None))


def _count(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) else 0


def _with_path(text: str, path: Path) -> str:
    """The name of the file here, not in the container; and why it may be closed there."""
    text = text.replace(f"{_INPUT}/{path.name}", str(path))
    if text.endswith("Permission denied"):
        text += " for the user of the container: chmod o+r"
    return text


def _results(head: dict[str, Any], rows: list[Any]) -> Results:
    try:
        return Results.from_object(head | {"rows": rows})
    except ResultsError as error:
        raise ComparisonFailed(
            f"what container 'producer' says are its results are none: {error}; is the podipc of "
            "its image of another version?"
        ) from error


def _complete(about: dict[str, Any], pod: runtime.Pod, name: str, shm_bytes: int) -> None:
    """What only the outside knows of a measurement."""
    general = set(notes_of(pod.spec, pod.runtime))
    notes: list[str] = list(about.get("notes") or ())
    said: list[str] = []
    for note in pod.notes:
        of_manifest = note in general or note.startswith(pod.spec.at("spec.")) or name == "plain"
        (said if of_manifest else notes).append(note)
    about["runtime"] = name
    about["runtime_version"] = pod.version or None
    about["manifest"] = {"name": pod.name, "source": pod.spec.source, "notes": said}
    there = (about["containers"]["producer"]["shm"] or {}).get("size", 0)
    if there < shm_bytes - (1 << 20):
        notes.append(
            f"/dev/shm has {there >> 20} MiB, not {shm_bytes >> 20}: "
            "what needs more is not measured"
        )
    about["notes"] = notes
    about["plan"]["shm_bytes"] = shm_bytes


# The manifest


def _document(manifest: str | os.PathLike[str] | None) -> dict[str, Any]:
    """That of the file, or ours. Raises `ManifestError`."""
    if manifest is None:
        document = json.loads(Path(__file__).with_name("compare.json").read_text())
        return {"source": MANIFEST, "pod": document}
    spec = manifests.read(manifest).pod()
    there = [container.name for container in spec.containers]
    if missing := {"producer", "consumer"} - set(there):
        raise ManifestError(
            f"{spec.source}: spec.containers: expected containers 'producer' and 'consumer' as in "
            f"{MANIFEST}, not {', '.join(there)}: {', '.join(sorted(missing))} is missing",
            spec.source,
            "spec.containers",
        )
    return {"source": spec.source, "pod": dict(spec.document)}


def _spec(document: dict[str, Any]) -> manifests.Pod:
    return dataclasses.replace(manifests.read(document["pod"]).pod(), source=document["source"])


def _containers(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in document["pod"]["spec"]["containers"]}


def _adapted(document: dict[str, Any], plan: Plan, runtime: str) -> dict[str, Any]:
    """The manifest with a name of its own, and with what is to be measured."""
    document = copy.deepcopy(document)
    metadata = document["pod"]["metadata"]
    metadata["name"] = f"{metadata['name'][:50]}-{secrets.token_hex(3)}"
    containers = _containers(document)
    producer = containers["producer"]
    place = None
    if plan.input is not None:
        place = _mounted(document, plan.input, runtime)
    given = [*map(str, producer.get("args") or ())]
    words = plan.arguments(place)
    if place is None and any(word.partition("=")[0] == "--input" for word in given):
        del words[words.index("--sizes") : words.index("--sizes") + 2]
    producer["args"] = [*given, *words]
    for name in ("producer", "consumer"):
        containers[name]["args"] = [*(containers[name].get("args") or ()), "--events"]
    if document["source"] == MANIFEST:  # limits of somebody else's are as they are meant
        _raise_limits(document, plan)
    if runtime in ("local", "plain"):
        _as_programs_of_ours(document)
    return document


def _mounted(document: dict[str, Any], path: Path, runtime: str) -> str:
    """Give the producer the file; where it finds it. Raises `InputError`."""
    if runtime == "kubernetes":
        raise InputError(
            f"{path} is on this machine, not in the cluster: put the file on a volume or into the "
            "image, and say where in the manifest (--manifest): args: [--input, PATH]"
        )
    if runtime == "plain":
        return str(path.resolve())
    place = f"{_INPUT}/{path.name}"
    volume = {"name": "podipc-input", "hostPath": {"path": str(path.resolve()), "type": "File"}}
    document["pod"]["spec"].setdefault("volumes", []).append(volume)
    mount = {"name": "podipc-input", "mountPath": place, "readOnly": True}
    producer = _containers(document)["producer"]
    # The containers of the file may share one list.
    producer["volumeMounts"] = [*(producer.get("volumeMounts") or ()), mount]
    return place


def _mount_shm(document: dict[str, Any], size: int) -> None:
    """A /dev/shm of that size, where it cannot be had but as a volume: 64 MiB are the default."""
    containers = [_containers(document)[name] for name in ("producer", "consumer")]
    mounts = [m for c in containers for m in c.get("volumeMounts") or ()]
    if any(mount.get("mountPath") == "/dev/shm" for mount in mounts):
        return
    volume = {"name": "podipc-shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}
    document["pod"]["spec"].setdefault("volumes", []).append(volume)
    for container in containers:
        mount = {"name": "podipc-shm", "mountPath": "/dev/shm"}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def _raise_limits(document: dict[str, Any], plan: Plan) -> None:
    """Memory limits that leave room for the biggest tensor: several are on their way at once."""
    biggest = max(plan.sizes) if plan.input is None else inputs.size(plan.input)
    need = (1 << 30) + 8 * biggest
    containers = _containers(document)
    for container in _spec(document).containers:
        if container.memory is not None and container.memory < need:
            fields = containers[container.name]
            limits = fields["resources"]["limits"] | {"memory": str(need)}
            fields["resources"] = fields["resources"] | {"limits": limits}


_WHO = ("runAsUser", "runAsGroup", "runAsNonRoot", "fsGroup", "supplementalGroups")


def _as_programs_of_ours(document: dict[str, Any]) -> None:
    """There is no image: they run as whoever starts them, with the podipc that runs here."""
    spec = document["pod"]["spec"]
    path = os.pathsep.join(p for p in sys.path if p)
    for part in (spec, *spec["containers"]):
        context = part.get("securityContext") or {}
        part["securityContext"] = {k: v for k, v in context.items() if k not in _WHO}
    for container in spec["containers"]:
        container["env"] = [
            *(container.get("env") or ()),
            {"name": "PYTHONPATH", "value": path.replace("$", "$$")},
        ]


@contextlib.contextmanager
def _plain(document: dict[str, Any], plan: Plan) -> Iterator[runtime.Pod]:
    """The containers as plain processes: without volumes, limits and namespaces."""
    from podipc.pod import local

    document = _adapted(document, plan, "plain")
    spec = document["pod"]["spec"]
    spec.pop("volumes", None)
    # Not made here: until the Pod is there, nobody would remove it after a SIGKILL.
    name = f"podipc-compare-{secrets.token_hex(8)}"
    disk, memory = Path(tempfile.gettempdir()) / name, Path("/dev/shm") / name
    places = ["--memory", str(memory), "--disk", str(disk)]
    for container in spec["containers"]:
        container.pop("volumeMounts", None)
        container.pop("resources", None)
        container["args"] = [*container["args"], *places]
    at_end: Sequence[str] = (str(memory), str(disk))
    try:
        pod = local.Pod(_spec(document), grace=_GRACE, at_end=at_end, isolate=False)
        try:
            yield pod
        finally:
            pod.close()
    finally:
        pair.sweep(memory)
        shutil.rmtree(disk, ignore_errors=True)
