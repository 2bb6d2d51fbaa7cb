"""A small API server of Kubernetes whose Pods really run: ``python apiserver.py DIRECTORY``.

With ``DIRECTORY/tls.crt`` and ``tls.key`` it speaks TLS. Who asks has the rights of
``k8s/rbac.yaml`` and no more.

It answers the requests that podipc sends as a real one does: Status objects, watches with
resource versions, logs with moments, exec over WebSocket (v4 and v5). Behind it is no
cluster but the local runtime. What that cannot have (an image that is nowhere, a node that
has no room) is answered by the rules at `Entry`. Requests to ``/test`` set faults.

It writes DIRECTORY/kubeconfig and prints its URL.
"""

import contextlib
import copy
import datetime
import json
import select
import signal
import socket
import ssl
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import websocket_server
import yaml

from podipc import PodipcError
from podipc.pod import local, manifest
from podipc.pod.errors import ManifestError

TOKEN = "secret-token"
NAMESPACES = ("default", "team")
KINDS = {"pods": "Pod", "services": "Service", "configmaps": "ConfigMap"}
VERBS = {"POST": "create", "GET": "get", "DELETE": "delete"}
RBAC = Path(__file__).parent.parent.parent / "k8s/rbac.yaml"


class LocalPod(local.Pod):
    """Knows where in the output of a container each of its runs begins."""

    def __init__(self, *args, **kwargs):
        self.begins = {}
        super().__init__(*args, **kwargs)

    def _start(self, container):
        super()._start(container)
        self.begins.setdefault(container.name, []).append(container._log.read()[1])


def now():
    moment = time.time_ns()
    whole = datetime.datetime.fromtimestamp(moment // 10**9, datetime.UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{moment % 10**9:09}Z"


class Refusal(Exception):
    """An answer that is a Status object."""

    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            "details": details,
        }


class Entry:
    """A Pod. Images of registry.invalid are nowhere, and no node fits a nodeSelector."""

    def __init__(self, server, document):
        self.server, self.document = server, document
        self.name = document["metadata"]["name"]
        self.namespace = document["metadata"]["namespace"]
        self.spec = document["spec"]
        self.pod = None
        self.error = None
        self.logs = {c["name"]: [] for c in self.everyone()}
        self.read = dict.fromkeys(self.logs, 0)
        self.rest = dict.fromkeys(self.logs, b"")
        self.ends = threading.Event()
        self.grace = None
        document["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        self.thread = threading.Thread(target=self.run, daemon=True)

    def everyone(self):
        return [*(self.spec.get("initContainers") or []), *self.spec["containers"]]

    def run(self):
        while not self.ends.is_set() and (status := self.missing()):
            self.publish(status)
            self.ends.wait(0.02)
        if not self.ends.is_set():
            self.start()
        while not self.ends.wait(0.01):
            self.look()
        if self.pod is not None:
            self.pod.grace = self.grace
            ending = threading.Thread(target=self.pod.close)
            ending.start()
            while ending.is_alive():
                self.look()
                ending.join(0.01)
            self.look()
        self.server.remove(self)

    def missing(self):
        """The status of a Pod that cannot be started yet; None if it can."""
        if self.spec.get("nodeSelector"):
            return {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available: 1 node(s) didn't match Pod's node "
                        "affinity/selector.",
                    }
                ],
            }
        waiting = {}
        for container in self.everyone():
            if container["image"].startswith("registry.invalid/"):
                message = f'Back-off pulling image "{container["image"]}"'
                waiting[container["name"]] = {"reason": "ImagePullBackOff", "message": message}
            for source in container.get("envFrom") or []:
                name = source["configMapRef"]["name"]
                if ("configmaps", self.namespace, name) not in self.server.objects:
                    message = f'configmap "{name}" not found'
                    waiting[container["name"]] = {
                        "reason": "CreateContainerConfigError",
                        "message": message,
                    }
        if not waiting:
            return None
        return {
            "phase": "Pending",
            "containerStatuses": [
                {
                    "name": c["name"],
                    "restartCount": 0,
                    "state": {"waiting": waiting.get(c["name"], {"reason": "PodInitializing"})},
                }
                for c in self.spec["containers"]
            ],
        }

    def start(self):
        document = copy.deepcopy(self.document)
        del document["status"]
        for container in document["spec"]["containers"]:
            for source in container.pop("envFrom", None) or []:
                key = ("configmaps", self.namespace, source["configMapRef"]["name"])
                data = self.server.objects[key]["data"]
                container.setdefault("env", []).extend(
                    {"name": name, "value": value} for name, value in data.items()
                )
        self.pod = LocalPod(manifest.read(document).pod(), backoff=0.3)

    def look(self):
        """Take what is printed, and what has become of the containers."""
        if self.pod is None:
            return
        with self.pod._changed:
            # What a container that has ended printed is there before its state says so.
            seen = {
                name: (c.state, c._runs, (c.returncode, c.reason))
                for name, c in self.pod.containers.items()
            }
            phase = self.pod.phase
            error = self.pod._error
        for name, (state, *_) in seen.items():
            self.take(name, state != "running")
        statuses = {}
        for name, (state, runs, end) in seen.items():
            statuses[name] = {"name": name, **status_of(state, runs, end, error)}
        inits = {c["name"] for c in self.spec.get("initContainers") or []}
        if not self.pod._main[0]._runs and phase == "Running":
            phase = "Pending"
        self.publish(
            {
                "phase": phase,
                "initContainerStatuses": [s for n, s in statuses.items() if n in inits],
                "containerStatuses": [s for n, s in statuses.items() if n not in inits],
            }
        )

    def take(self, name, ended):
        """Move what was printed into the log of the run that printed it, line by line."""
        begins = self.pod.begins.get(name, [])
        data, end = self.pod.containers[name]._log.read(self.read[name])
        position = self.read[name]
        for run, begin in enumerate(begins):
            while len(self.logs[name]) <= run:
                self.flush(name)
                self.logs[name].append([])
            until = begins[run + 1] if run + 1 < len(begins) else end
            piece = data[max(0, begin - position) : max(0, until - position)]
            if not piece:
                continue
            *lines, self.rest[name] = (self.rest[name] + piece).split(b"\n")
            self.logs[name][run] += [(now(), line + b"\n") for line in lines]
        self.read[name] = end
        if ended:
            self.flush(name)

    def flush(self, name):
        if self.rest[name] and self.logs[name]:
            self.logs[name][-1].append((now(), self.rest[name]))
        self.rest[name] = b""

    def publish(self, status):
        with self.server.changed:
            if {**self.document["status"], **status} != self.document["status"]:
                self.document["status"] = {**self.document["status"], **status}
                self.server.event("MODIFIED", self.document)


def status_of(state, runs, end, error):
    """What is said of a container; `end` is the exit code of its last run, and the reason."""
    code, reason = end
    ended = {
        "exitCode": code if code is None or code >= 0 else 128 - code,
        "reason": reason or "Completed",
    }
    status = {"restartCount": max(0, runs - 1), "lastState": {}}
    if state == "running":
        status["state"] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    elif state == "terminated" and runs:
        status["state"] = {"terminated": ended}
    elif state == "backoff":
        status["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    elif error is not None and not runs:
        # As containerd words it.
        text = 'exec: "none": executable file not found in $PATH: unknown'
        status["state"] = {"terminated": {"exitCode": 128, "reason": "StartError", "message": text}}
    else:
        status["state"] = {"waiting": {"reason": "PodInitializing"}}
    if runs > 1 or state == "backoff":
        status["lastState"] = {"terminated": ended} if code is not None else {}
    return status


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.objects = {}
        self.entries = {}
        self.events = []
        self.faults = {}
        self.requests = []
        self.streams = set()
        (role,) = [d for d in yaml.safe_load_all(RBAC.read_text()) if d["kind"] == "Role"]
        self.rules = role["rules"]

    def event(self, kind, document):
        with self.changed:
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            self.events.append((self.version, kind, copy.deepcopy(document)))
            self.changed.notify_all()

    def create(self, kind, namespace, body):
        if namespace not in NAMESPACES:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
        try:
            kubernetes_validate.validate(body, "1.30", strict=True)
        except kubernetes_validate.ValidationError as error:
            field = ".".join(map(str, error.path))
            cause = {"field": field, "message": error.message}
            raise Refusal(422, "Invalid", f"{body['kind']} is invalid", causes=[cause]) from error
        name = body["metadata"]["name"]
        key = (kind, namespace, name)
        with self.changed:
            if key in self.objects:
                raise Refusal(409, "AlreadyExists", f'{kind} "{name}" already exists')
            document = copy.deepcopy(body)
            document["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": namespace}
            self.objects[key] = document
            if kind != "pods":
                self.version += 1
                document["metadata"]["resourceVersion"] = str(self.version)
                return document
            try:
                manifest.read(document)
            except ManifestError as error:
                del self.objects[key]
                cause = {"field": error.path, "message": str(error)}
                raise Refusal(422, "Invalid", str(error), causes=[cause]) from error
            entry = Entry(self, document)
            self.entries[namespace, name] = entry
            self.event("ADDED", document)
            answer = copy.deepcopy(document)
        entry.thread.start()
        return answer

    def remove(self, entry):
        with self.changed:
            del self.objects["pods", entry.namespace, entry.name]
            del self.entries[entry.namespace, entry.name]
            uid = entry.document["metadata"]["uid"]
            for key, thing in list(self.objects.items()):
                owners = thing["metadata"].get("ownerReferences") or []
                if any(owner["uid"] == uid for owner in owners):
                    del self.objects[key]
            self.event("DELETED", entry.document)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.answer()

    do_GET = do_DELETE = do_POST

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        words = parts.path.strip("/").split("/")
        try:
            if words == ["test"]:
                self.test(body)
                return
            self.server.requests.append(f"{self.command} {parts.path}")
            self.check(words, query)
            self.route(words, query, body)
        except Refusal as refusal:
            self.send(refusal.code, refusal.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def check(self, words, query):
        faults = self.server.faults
        verb = "watch" if "watch" in query else VERBS[self.command]
        resource = "/".join([*words[4:5], *words[6:7]])
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        if message := faults.get(f"{self.command} {words[4] if len(words) > 4 else ''}"):
            raise Refusal(403, "Forbidden", message)
        if not any(
            resource in rule["resources"] and verb in rule["verbs"] for rule in self.server.rules
        ):
            text = f'User "podipc" cannot {verb} resource "{resource}" in API group ""'
            raise Refusal(403, "Forbidden", text)

    def route(self, words, query, body):
        match words, self.command:
            case ["api", "v1", "namespaces", namespace, kind], "POST" if kind in KINDS:
                self.send(201, self.server.create(kind, namespace, body))
            case ["api", "v1", "namespaces", namespace, "pods"], "GET":
                self.watch(namespace, query)
            case ["api", "v1", "namespaces", namespace, kind, name], "GET" if kind in KINDS:
                self.send(200, self.find(kind, namespace, name))
            case ["api", "v1", "namespaces", namespace, "pods", name], "DELETE":
                self.delete(namespace, name, body)
            case ["api", "v1", "namespaces", namespace, "pods", name, "log"], "GET":
                self.find("pods", namespace, name)
                self.log(self.server.entries[namespace, name], query)
            case ["api", "v1", "namespaces", namespace, "pods", name, "exec"], "GET":
                self.find("pods", namespace, name)
                self.exec(self.server.entries[namespace, name], query)
            case _:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")

    def test(self, body):
        """Set faults; say what was requested and what there is."""
        self.server.faults |= body
        if body.get("cut"):
            for stream in list(self.server.streams):
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)
        there = ["/".join(key) for key in self.server.objects]
        requests, self.server.requests = self.server.requests, []
        self.send(200, {"objects": there, "requests": requests})

    def find(self, kind, namespace, name):
        with self.server.changed:
            found = self.server.objects.get((kind, namespace, name))
            if found is None:
                raise Refusal(404, "NotFound", f'{kind} "{name}" not found')
            return copy.deepcopy(found)

    def send(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @contextlib.contextmanager
    def chunks(self):
        """Send an answer in chunks, the last one only if nothing is in the way."""
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.server.streams.add(self.connection)
        try:
            yield lambda data: self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        finally:
            self.server.streams.discard(self.connection)

    def is_left(self):
        """Whether the client is gone."""
        ready, _, _ = select.select([self.connection], [], [], 0)
        # A client says nothing while it listens.
        return bool(ready)

    def watch(self, namespace, query):
        version = int(query["resourceVersion"][0])
        name = query["fieldSelector"][0].removeprefix("metadata.name=")
        ends = time.monotonic() + self.server.faults.get("watch", 300)
        with self.chunks() as send:
            if self.server.faults.pop("expire", None):
                status = Refusal(410, "Expired", f"too old resource version: {version}").status
                send(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                return
            while not self.is_left() and time.monotonic() < ends:
                with self.server.changed:
                    events = [e for e in self.server.events if e[0] > version]
                    if not events:
                        self.server.changed.wait(0.1)
                for at, kind, document in events:
                    version = at
                    metadata = document["metadata"]
                    if (metadata["namespace"], metadata["name"]) == (namespace, name):
                        line = json.dumps({"type": kind, "object": document})
                        # Pieces need not be lines.
                        send(line[:100].encode())
                        send(line[100:].encode() + b"\n")

    def delete(self, namespace, name, body):
        found = self.find("pods", namespace, name)
        wanted = (body.get("preconditions") or {}).get("uid")
        if wanted and wanted != found["metadata"]["uid"]:
            raise Refusal(409, "Conflict", "the UID in the precondition does not match")
        entry = self.server.entries[namespace, name]
        with self.server.changed:
            entry.grace = body.get("gracePeriodSeconds", 30)
            if "deletionTimestamp" not in entry.document["metadata"]:
                entry.document["metadata"]["deletionTimestamp"] = now()
                self.server.event("MODIFIED", entry.document)
        entry.ends.set()
        self.send(200, self.find("pods", namespace, name) if entry.thread.is_alive() else found)

    def log(self, entry, query):
        container = query["container"][0]
        runs = entry.logs[container]
        run = len(runs) - (2 if query.get("previous") == ["true"] else 1)
        if run < 0:
            what = "is waiting to start: PodInitializing"
            raise Refusal(400, "BadRequest", f'container "{container}" in pod "x" {what}')
        since = query.get("sinceTime", [""])[0]
        follow = query.get("follow") == ["true"]
        sent = 0
        with self.chunks() as send:
            while True:
                ended = not follow or self.has_ended(entry, container, run)
                lines = runs[run][sent:]
                sent += len(lines)
                for moment, line in lines:
                    if moment >= since:
                        send(moment.encode() + b" " + line)
                if (ended and not lines) or self.is_left():
                    return
                time.sleep(0.01)

    def has_ended(self, entry, container, run):
        statuses = entry.document["status"]
        for key in ("containerStatuses", "initContainerStatuses"):
            for status in statuses.get(key) or ():
                if status["name"] == container:
                    return "running" not in status["state"] or status["restartCount"] > run
        return not entry.thread.is_alive()

    def exec(self, entry, query):
        offered = self.headers.get("sec-websocket-protocol", "").replace(" ", "").split(",")
        known = self.server.faults.get("protocols", [websocket_server.V5, websocket_server.V4])
        protocol = next((one for one in offered if one in known), None)
        if protocol is None:
            # As golang.org/x/net/websocket, without a Status.
            self.send_response(403)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        container = query["container"][0]
        command = query["command"]
        if command[0] == "sh" and container in self.server.faults.get("shellless", ()):
            command = ["sh-is-not-there"]
        link = websocket_server.accept(self, protocol)
        self.close_connection = True
        try:
            program = entry.pod[container].exec(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except PodipcError as error:
            message = str(error)
            if "there is no program" in message:
                message = f'exec: "{command[0]}": executable file not found in $PATH: unknown'
            message = f"Internal error occurred: error executing command in container: {message}"
            link.send(3, json.dumps(Refusal(500, "InternalError", message).status).encode())
            link.close()
            return
        self.server.streams.add(self.connection)
        try:
            websocket_server.serve(link, program, has_input=query.get("stdin") == ["true"])
        finally:
            self.server.streams.discard(self.connection)


def main():
    directory = Path(sys.argv[1])
    server = Server()
    certificate, ca = directory / "tls.crt", {}
    if certificate.exists():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, directory / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        ca = {"certificate-authority": str(certificate)}
    url = f"http{'s' if ca else ''}://127.0.0.1:{server.server_address[1]}"
    users = [("good", {"token": TOKEN}), ("bad", {"token": "wrong"})]
    places = [("here", url, "good", "team"), ("stranger", url, "bad", "team")]
    places += [("down", "http://127.0.0.1:1", "good", "team"), ("plain", url, "good", None)]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": n, "cluster": {"server": u, **ca}} for n, u, _, _ in places],
        "users": [{"name": name, "user": user} for name, user in users],
        "contexts": [
            {
                "name": name,
                "context": {"cluster": name, "user": user, **({"namespace": ns} if ns else {})},
            }
            for name, _, user, ns in places
        ],
    }
    (directory / "kubeconfig").write_text(yaml.safe_dump(config))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(json.dumps(url), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
