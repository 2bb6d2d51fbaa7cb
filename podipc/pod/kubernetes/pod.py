"""A Pod of a manifest in a cluster.

The cluster starts, restarts and ends containers; here their states are watched, and what
they print is kept. A thread watches the Pod, and one for each container its log.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Sequence

from podipc._core import PodipcError
from podipc.pod import manifest as manifests
from podipc.pod import observed, runtime
from podipc.pod.errors import CommandNotFound, PodError
from podipc.pod.kubernetes import notes, objects, states
from podipc.pod.kubernetes.cluster import (
    Cluster,
    Json,
    Stream,
    Unreachable,
    path,
)
from podipc.pod.kubernetes.container import LAST_WORDS, Container
from podipc.pod.kubernetes.guard import Guard
from podipc.pod.kubernetes.logs import Collector
from podipc.pod.kubernetes.objects import delete, find
from podipc.pod.kubernetes.program import Link

__all__ = ["Pod"]

_SILENCE = 330.0
"""Seconds after which a connection is taken for dead; a watch is told to end after 300."""
_UNREACHABLE = 20.0
"""Seconds in which a server that is not reached is asked again to remove a Pod."""
_REMOVAL = 60.0
"""Seconds that the cluster may take to remove a Pod, besides its grace period."""


class Pod(observed.Pod):
    """A Pod in a cluster.

    Parameters
    ----------
    spec
        From `manifest.read`.
    grace
        Instead of ``terminationGracePeriodSeconds``; whole seconds, at least 1.
    backoff
        Not used: it is the cluster's.
    at_end
        More paths to remove when the Pod ends, however that happens.
    namespace
        Where the manifest names none; default: that of the context.
    context
        Of the kubeconfig; default: its current one.

    Attributes
    ----------
    namespace
        Where it is.

    Raises
    ------
    ManifestError
        The cluster does not take such a Pod.
    NotHere
        There is no cluster, or it does not permit it.
    PodError
        There is such a Pod already, or the server refuses it for another reason.
    """

    runtime = "kubernetes"

    def __init__(
        self,
        spec: manifests.Pod,
        *,
        grace: float | None = None,
        backoff: float = 10.0,
        at_end: Sequence[str] = (),
        namespace: str | None = None,
        context: str | None = None,
    ) -> None:
        super().__init__(spec, grace)
        self.containers: dict[str, Container] = {
            c.name: Container(self, c) for c in spec.everyone()
        }
        self.notes = notes.of(spec)
        self._main = [c for c in self.containers.values() if not c.is_init]
        self._ending = self._is_over = self._is_gone = self._closed = False
        self._is_left = False
        self._watch: Stream | None = None
        self._doubt: threading.Timer | None = None
        self._instance = secrets.token_hex(8)
        self._cluster = Cluster(context)
        try:
            self.namespace = objects.namespace_of(spec, self._cluster, namespace)
            # Whatever is in the way is said before there is anything to clear up.
            objects.check(self._cluster, spec, self.namespace)
            self._path = path(self.namespace, "pods", self.name)
            self._link = Link(self._cluster, f"{self._path}/exec")
            self._guard = Guard(at_end, self.namespace, self.name, self._instance, context)
        except BaseException:
            self._cluster.close()
            raise
        try:
            found = self._create(grace)
        except BaseException as error:
            # Whether a request that got no answer made it is not known.
            is_known = isinstance(error, PodipcError) and not isinstance(error, Unreachable)
            self._guard.close(is_gone=is_known and not self._is_left)
            self._cluster.close()
            raise
        for container in self.containers.values():
            container._collector = self._collect(container)
        self._thread = threading.Thread(
            target=self._run, args=(found,), name=f"podipc-pod-{self.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End all containers in order, then the Pod; nothing of it is left. Idempotent.

        Raises
        ------
        PodError
            The cluster does not say that it is gone: the text says how to remove it.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = self._ending = True
        try:
            problem = self._remove()
        except BaseException:
            self._release(is_gone=False)
            raise
        # What could not be done here, the guardian cannot do either.
        problems = self._release(is_gone=True)
        if problem is not None:
            problems.append(self._left(problem))
        if problems:
            raise PodError(f"Pod {self.name!r}: {'; '.join(problems)}")

    # How it begins and ends

    def _create(self, grace: float | None) -> Json:
        body = objects.pod(self.spec, self.namespace, grace, self._instance)
        found = objects.create_pod(self._cluster, self.spec, body)
        self._uid = str(found["metadata"]["uid"])
        try:
            objects.create_beside(self._cluster, self.spec, found, self.namespace)
        except BaseException as error:
            problem = self._remove()
            self._is_left = problem is not None
            if problem is not None and isinstance(error, PodipcError):
                raise PodError(f"{error}; {self._left(problem)}") from error
            raise
        return found

    def _left(self, problem: str) -> str:
        return (
            f"it may still be in the cluster: {problem}; kubectl -n {self.namespace} delete "
            f"pod {self.name} removes it"
        )

    def _remove(self) -> str | None:
        """Delete it and wait until it is gone; what is in the way of that."""
        grace = objects.seconds(self.grace)
        deadline = time.monotonic() + grace + _REMOVAL
        asked = False
        lost: float | None = None
        problem = f"it is not gone after {grace + _REMOVAL:.0f} s"
        while time.monotonic() < deadline:
            try:
                if not asked:
                    delete(self._cluster, self.namespace, self.name, self._uid, grace)
                    asked = True
                elif find(self._cluster, self.namespace, self.name, self._instance) is None:
                    return None
            except PodipcError as error:
                lost = lost or time.monotonic()
                is_lost = isinstance(error, Unreachable)
                if not is_lost or time.monotonic() > lost + _UNREACHABLE:
                    return str(error)
            else:
                lost = None
            with self._changed:
                if self._changed.wait_for(lambda: self._is_gone, 1.0):
                    return None
        return problem

    def _release(self, *, is_gone: bool) -> list[str]:
        """Let go of everything here; what could not be cleared."""
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()
            if self._doubt is not None:
                self._doubt.cancel()
            if self._watch is not None:
                self._watch.stop()
        self._thread.join()
        for container in self.containers.values():
            if container._collector is not None and not container._collector.join(LAST_WORDS):
                container._collector.stop()
                container._collector.join(LAST_WORDS)
        self._link.close()
        problems = self._guard.close(is_gone=is_gone)
        self._cluster.close()
        return problems

    # What is seen of it

    def _collect(self, container: Container) -> Collector:
        def next_run(last: int) -> int:
            with self._changed:
                self._changed.wait_for(
                    lambda: container._runs > last or self._is_over or self._is_gone
                )
                return container._runs if container._runs > last else 0

        def is_over(run: int) -> bool:
            with self._changed:
                return self._changed.wait_for(
                    lambda: (
                        container._runs > run
                        or container.state != "running"
                        or self._is_over
                        or self._is_gone
                    ),
                    0.5,
                )

        def ask(query: dict[str, str]) -> Stream:
            query = {"container": container.name, **query}
            return self._cluster.stream(f"{self._path}/log", query, silence=_SILENCE)

        return Collector(ask, container._log, next_run, is_over)

    def _run(self, found: Json) -> None:
        """Watch it until it is gone or there is nothing more to see."""
        try:
            latest: Json | None = found
            while latest is not None and not self._is_gone:
                self._take(latest)
                # A watch ends now and then, and what was seen last may be too long ago.
                with contextlib.suppress(PodipcError):
                    self._follow(str(latest["metadata"]["resourceVersion"]))
                latest = self._look_again()
        except BaseException as error:
            self._fail(PodError(f"Pod {self.name!r}: {error!r}"))
            raise
        finally:
            self._finish()

    def _look_again(self) -> Json | None:
        """What it is now, once the server is reached; None if it is gone."""
        while not self._is_gone:
            try:
                found = find(self._cluster, self.namespace, self.name, self._instance)
            except PodipcError:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_gone, 1.0)
                continue
            if found is None:
                self._vanished()
            return found
        return None

    def _follow(self, version: str) -> None:
        """Take what happens to it after that version, until the watch ends."""
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self.name}",
            "resourceVersion": version,
            "timeoutSeconds": 300,
        }
        stream = self._cluster.stream(path(self.namespace, "pods"), query, silence=_SILENCE)
        try:
            with self._changed:
                self._watch = stream
                if self._is_gone:
                    return
            for line in stream.lines():
                event = _event(line)
                if event is None:
                    return
                kind, pod = event
                if (pod.get("metadata") or {}).get("uid") != self._uid:
                    continue
                self._take(pod)
                if kind == "DELETED":
                    self._vanished()
                    return
        finally:
            with self._changed:
                self._watch = None
            stream.close()

    def _take(self, pod: Json) -> None:
        """See what its status says."""
        status = pod.get("status") or {}
        seen = states.everyone(pod)
        with self._changed:
            for name, container in self.containers.items():
                state = seen.get(name, states.State())
                container.state, container.reason = state.state, state.reason
                container.returncode, container.restarts = state.returncode, state.restarts
                container._runs = max(container._runs, state.runs)
            over = status.get("phase") in runtime.OVER
            self._is_over = self._is_over or over
            if self.phase == "Pending" and all(c._runs for c in self._main):
                self.phase = "Running"
            self._changed.notify_all()
        if self.phase in runtime.OVER:
            return
        self._complain(pod, seen)
        if over:
            if (pod.get("metadata") or {}).get("deletionTimestamp") and not self._ending:
                self.message = self.message or f"{self._who()} was deleted by somebody else"
            good = status["phase"] == "Succeeded"
            text = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
            self._conclude("" if good else text or self._failure())

    def _complain(self, pod: Json, seen: dict[str, states.State]) -> None:
        """End it if it will not come up."""
        doubts = []
        for complaint in states.complaints(self.spec, pod):
            text = f"{self.spec.source}: {complaint.path}: {complaint.text}"
            kind = CommandNotFound if states.is_no_program(complaint.text) else PodError
            if complaint.final:
                self._fail(kind(text))
                return
            doubts.append(text)
        for name, container in self.containers.items():
            loops = seen.get(name, states.State()).waits_for == "CrashLoopBackOff"
            # Once the Pod is up, a sidecar is started again for as long as it takes.
            is_first = container.is_init and not container.spec.sidecar
            if loops and (self.phase == "Pending" or is_first):
                self._fail(PodError(f"{container.obituary()} (CrashLoopBackOff)"))
                return
        with self._changed:
            if not doubts and self._doubt is not None:
                self._doubt.cancel()
                self._doubt = None
            if doubts and self._doubt is None:
                error = PodError(f"{doubts[0]}; it was so for {states.PATIENCE:.0f} s")
                self._doubt = threading.Timer(states.PATIENCE, self._fail, [error])
                self._doubt.daemon = True
                self._doubt.start()

    def _fail(self, error: PodipcError) -> None:
        """It has failed and is taken down."""
        with self._changed:
            if self._ending or self.phase in runtime.OVER:
                return
            self._error, self.message, self.phase = error, str(error), "Failed"
            self._is_over = True
            self._changed.notify_all()
        with contextlib.suppress(PodipcError):
            # What is in the way of that is said by close().
            delete(self._cluster, self.namespace, self.name, self._uid, 1)

    def _failure(self) -> str:
        for container in self.containers.values():
            if container.returncode and not container.spec.sidecar:
                return container.obituary()
        return f"Pod {self.name!r} was ended"

    def _who(self) -> str:
        return f"Pod {self.name!r} in namespace {self.namespace!r}"

    def _conclude(self, message: str) -> None:
        """It has ended; before that is known, what it has printed is here."""
        for container in self.containers.values():
            if container._collector is not None:
                container._collector.has(container._runs, LAST_WORDS)
        with self._changed:
            self.message = self.message or message
            self.phase = "Failed" if self.message else "Succeeded"
            self._changed.notify_all()

    def _vanished(self) -> None:
        with self._changed:
            self._is_gone = True
            if not self._ending and self.phase not in runtime.OVER:
                self.message = f"{self._who()} was deleted by somebody else"
            self._changed.notify_all()

    def _finish(self) -> None:
        with self._changed:
            self._is_gone = True
            for container in self.containers.values():
                container.state = "terminated" if container._runs else "waiting"
            self._changed.notify_all()
        if self.phase not in runtime.OVER:
            good = not self.message and all(c.returncode == 0 for c in self._main)
            self._conclude("" if good else self._failure())


def _event(line: bytes) -> tuple[str, Json] | None:
    """Type and object of a line of a watch; None if it is over."""
    try:
        found = json.loads(line)
        kind, pod = str(found["type"]), found["object"]
    except (ValueError, LookupError, TypeError):
        return None
    return (kind, pod) if kind != "ERROR" and isinstance(pod, dict) else None
