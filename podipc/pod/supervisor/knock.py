"""Ask a server once whether it answers: a program that a runtime starts within the Pod.

Its text is passed to ``python -c``, so that it needs nothing but the standard library:

    tcp HOST PORT SECONDS
    http HOST PORT SECONDS SCHEME PATH [NAME VALUE]...

It exits with 0 if the server takes a connection, or answers with a status from 200 to 399,
as for a kubelet; but a redirection is not followed.
"""

import http.client
import socket
import ssl
import sys


def main(kind: str, host: str, port: str, seconds: str, *rest: str) -> str:
    """Why it did not answer, or ""."""
    where = (host, int(port))
    try:
        if kind == "tcp":
            socket.create_connection(where, timeout=float(seconds)).close()
            return ""
        scheme, path, *pairs = rest
        headers = {"User-Agent": "kube-probe/podipc", "Accept": "*/*", "Connection": "close"}
        headers |= dict(zip(pairs[::2], pairs[1::2], strict=True))
        if scheme == "HTTPS":
            # As in a cluster, whose certificate it is does not matter.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *where, timeout=float(seconds), context=context
            )
        else:
            connection = http.client.HTTPConnection(*where, timeout=float(seconds))
        connection.request("GET", path, headers=headers)
        status = connection.getresponse().status
        return "" if 200 <= status < 400 else f"{path} answered with status {status}"
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port}: {error or type(error).__name__}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) or 0)
