"""The API server of a cluster: where it is, who we are there, and one request at a time.

Where it is, the credentials and TLS come from the official client, as kubectl has them;
objects are plain JSON. What a server refuses becomes an error that says what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from podipc._core import Closed
from podipc.pod.errors import NotHere, PodError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ANSWER = 30.0
"""Seconds that a server may take for an answer."""
_LARGEST = 16 << 20
"""Bytes of an answer that are read: far more than any object of a cluster may have."""

Json = dict[str, Any]


class Refused(PodError):
    """The server's answer is not the one that was asked for.

    Attributes
    ----------
    status
        The HTTP status.
    reason
        The server's word for it, as ``AlreadyExists``; "" if there is none.
    details
        Of its `Status` object.
    """

    def __init__(self, text: str, status: int, reason: str = "", details: Json | None = None):
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.details = details or {}


class Unreachable(NotHere):
    """There was no answer."""


class Stream:
    """An answer that goes on; iterate over its pieces. `stop` may be called by any thread.

    Attributes
    ----------
    broken
        Whether it ended before the server said that it was complete.
    """

    def __init__(self, response: Any) -> None:
        self._response = response
        self.broken = False

    def __iter__(self) -> Iterator[bytes]:
        """Pieces until the server ends it; also when the connection is lost."""
        import urllib3

        try:
            yield from self._response.stream(65536, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError):
            self.broken = True

    def lines(self) -> Iterator[bytes]:
        """Whole lines."""
        rest = b""
        for piece in self:
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
            if len(rest) > _LARGEST:
                return

    def stop(self) -> None:
        """End whoever waits for the next piece."""
        connection = self._response.connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, for what is left of the answer will not be read."""
        self._response.close()
        self._response.release_conn()


class Cluster:
    """A cluster as one user of it sees it. Any thread may use it.

    Parameters
    ----------
    context
        Of the kubeconfig, instead of its current one.

    Attributes
    ----------
    namespace
        The one to use where a manifest names none.
    host
        The URL of the API server.

    Raises
    ------
    NotHere
        The client is not installed; there are no credentials, or they cannot be read.
    """

    def __init__(self, context: str | None = None) -> None:
        try:
            from kubernetes import client
            from kubernetes.client import rest
        except ImportError as error:
            raise NotHere(
                "the runtime kubernetes needs the Python client of Kubernetes: "
                f"pip install 'podipc[k8s]' ({error})"
            ) from error
        self._configuration = client.Configuration()
        self._configuration.retries = False
        self.namespace, self._source = _load(self._configuration, context)
        self.host = str(self._configuration.host).rstrip("/")
        try:
            self._pool = rest.RESTClientObject(self._configuration).pool_manager
        except (OSError, ValueError) as error:
            raise NotHere(
                f"{self._source}: the certificates for {self.host} cannot be read: {error}"
            ) from error

    def close(self) -> None:
        """Close the connections that are kept for the next request."""
        self._pool.clear()

    def request(
        self, method: str, path: str, body: object = None, query: Mapping[str, object] | None = None
    ) -> Json:
        """Send a request; the object that is the answer.

        Raises
        ------
        NotHere
            The server is not reached, does not know us, or does not permit it.
        Refused
            Any other answer but the one that was asked for.
        """
        response = self._send(method, path, body, query, _ANSWER)
        try:
            return _object(_all(response))
        finally:
            response.release_conn()

    def stream(
        self, path: str, query: Mapping[str, object] | None = None, *, silence: float
    ) -> Stream:
        """As `request`, for an answer that goes on; it ends after `silence` seconds without any."""
        return Stream(self._send("GET", path, None, query, silence))

    def connect(self, path: str, query: Sequence[tuple[str, object]], protocol: str) -> Any:
        """Open a WebSocket that speaks `protocol`.

        Returns
        -------
        websocket.WebSocket
            Connected; the server has agreed to the protocol.

        Raises
        ------
        NotHere, Refused
            As `request`.
        """
        import websocket
        from kubernetes.stream import ws_client

        headers = {**self._headers(), "sec-websocket-protocol": protocol}
        # ws for http, wss for https.
        url = f"ws{self.host.removeprefix('http')}{path}?{urlencode(query)}"
        make: Any = ws_client.create_websocket
        try:
            return make(self._configuration, url, headers)
        except websocket.WebSocketBadStatusException as error:
            body = getattr(error, "resp_body", None) or b""
            raise self._refusal(error.status_code, body) from error
        except (websocket.WebSocketException, OSError) as error:
            raise self._unreachable(error) from error

    def _headers(self) -> dict[str, str]:
        # A token that is about to expire is fetched again by this call.
        found: Iterable[Any] = self._configuration.auth_settings().values()
        return {
            str(each["key"]).lower(): str(each["value"])
            for each in found
            if each.get("in") == "header" and each.get("value")
        }

    def _send(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, object] | None,
        patience: float,
    ) -> Any:
        import urllib3

        headers = {"accept": "application/json, */*", **self._headers()}
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = json.dumps(body, default=str).encode()
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._pool.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=10.0, read=patience),
                retries=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        if 200 <= response.status < 300:
            return response
        try:
            raise self._refusal(response.status, _all(response))
        finally:
            response.release_conn()

    def _unreachable(self, error: Exception) -> Unreachable:
        cause = getattr(error, "reason", None) or error
        return Unreachable(
            f"the API server of the cluster, {self.host} ({self._source}), is not reached: {cause}"
            "; is the cluster up, and is this its context? kubectl cluster-info asks the same"
        )

    def _refusal(self, status: int, body: bytes) -> PodError:
        found = _object(body) if body else {}
        message = str(found.get("message") or body[:500].decode(errors="replace") or "no reason")
        if status == 401:
            return NotHere(
                f"{self.host} does not know who asks ({message}): the credentials in "
                f"{self._source} are missing or have expired; kubectl auth whoami tells"
            )
        if status == 403:
            return Forbidden(f"{self.host} forbids it: {message}", message)
        details = found.get("details")
        return Refused(
            f"{self.host} answers {status}: {message}",
            status,
            str(found.get("reason") or ""),
            details if isinstance(details, dict) else None,
        )


class Forbidden(NotHere):
    """We are known, but may not. `message` is the server's."""

    def __init__(self, text: str, message: str) -> None:
        super().__init__(text)
        self.message = message


def path(namespace: str, kind: str, *names: str) -> str:
    """Where objects of the API are: ``path("default", "pods", "a", "log")``."""
    parts = ["api", "v1", "namespaces", namespace, kind, *names]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def gone(error: PodError) -> bool:
    """Whether the answer is that there is no such thing."""
    return isinstance(error, Refused) and error.status == 404


def closed(pod: str) -> Closed:
    """The error of whoever asks for something of a Pod that is not there any more."""
    return Closed(f"Pod {pod!r} is not in the cluster any more")


def _all(response: Any) -> bytes:
    import urllib3

    try:
        data = response.read(_LARGEST)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unreachable(f"the answer of the API server broke off: {error}") from error
    return bytes(data)


def _object(data: bytes) -> Json:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _load(configuration: Any, context: str | None) -> tuple[str, str]:
    """Fill in where the cluster is and who we are: the namespace, and where that was found."""
    import kubernetes.config

    config: Any = kubernetes.config
    files = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    there = [file for file in files.split(os.pathsep) if file and os.path.exists(file)]
    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ
    if not there and not in_cluster:
        raise NotHere(
            f"there is no cluster: no kubeconfig ({files}) and this is no Pod of one; set "
            "KUBECONFIG, or use --runtime local"
        )
    try:
        if there:
            config.load_kube_config(files, context=context, client_configuration=configuration)
            contexts, active = config.list_kube_config_contexts(files)
            if context is not None:
                active = next(found for found in contexts if found["name"] == context)
            return str(active["context"].get("namespace") or "default"), files
        config.load_incluster_config(client_configuration=configuration)
        return _ACCOUNT.read_text().strip() or "default", "the service account of this Pod"
    # The client raises whatever reading and wrong contents lead to.
    except Exception as error:
        source = files if there else "the service account of this Pod"
        raise NotHere(f"{source}: is no way to a cluster: {error}") from error
