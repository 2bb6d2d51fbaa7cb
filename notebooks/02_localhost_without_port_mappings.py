# %% [markdown]
# # 02 Localhost without port mappings
#
# The containers of a Pod have one network between them: one set of addresses, one space of ports,
# one `127.0.0.1`. So a program in one container reaches a server in another as if both ran side
# by side on one machine. Nothing has to be published or mapped. This notebook shows what is
# shared, what the field `ports:` of a manifest does, and what a round trip costs.
#
# You will be able to
#
# - say which addresses and ports two containers of a Pod share, and prove it from inside,
# - say what `ports:` in a manifest does, and what it does not do,
# - read a distribution of round trip times, and say what a median hides,
# - recognise the 40 ms that a badly written client can lose on every request.
#
# **Predict first**
#
# 1. 64 bytes go from one container to the other over a socket on `127.0.0.1`, and come back. How
#    many microseconds does that take? And how many as an HTTP request?
# 2. A server in one container listens on port 8080. What happens if the other container binds
#    port 8080 as well?
# 3. The manifest gains `ports: [{containerPort: 8080}]`. How many more sockets listen after that?

# %% [markdown]
# ## Two containers
#
# The manifest has two containers, `server` and `client`, and no `ports:`. Their own programs are
# not started: the cells below are what runs in them.

# %%
import os
from pathlib import Path

import numpy as np
from IPython.display import Markdown, display

import podipc.lab
import podipc.pod
from podipc.lab.plots import chart
from podipc.lab.spoken import duration
from podipc.lab.table import size

%load_ext podipc.lab
QUICK = podipc.lab.quick()  # PODIPC_QUICK=1: shorter measurements
RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")

# %%
%pod up ../k8s/pods/localhost.yaml --runtime {RUNTIME}

# %% [markdown]
# ## One network
#
# Each container says which addresses it has, and which *network namespace* it is in. A network
# namespace is the kernel's word for a network of its own: interfaces, addresses, ports. The
# kernel gives each a number.

# %%
%%containers server client -o network
import os, re

local = re.findall(r"-- (\S+)\n\s+/32 host LOCAL", open("/proc/net/fib_trie").read())
network = {
    "addresses": ", ".join(sorted(set(local))),
    "network namespace": os.stat("/proc/self/ns/net").st_ino,
    "process namespace": os.stat("/proc/self/ns/pid").st_ino,
}

# %%
rows = "\n".join(
    f"| {fact} | {network['server'][fact]} | {network['client'][fact]} "
    f"| {'yes' if network['server'][fact] == network['client'][fact] else 'no'} |"
    for fact in network["server"]
)
Markdown(f"| | server | client | the same? |\n|---|---|---|---|\n{rows}")

# %% [markdown]
# ## Three servers
#
# All three send back what they get. They go on in threads, in the container `server`, while the
# cells below ask them.
#
# 1. Port 8080: a plain *socket*, the kernel's end point of a connection. A connection is a stream
#    of bytes. So the client says once how many bytes a message has, and both sides read until
#    they are there.
# 2. Port 8081: HTTP, from Python's standard library.
# 3. Port 8082: podipc. A channel goes one way, so there is a second one for the way back.

# %%
%%containers server client
def exactly(connection, n):
    """The next n bytes of a stream, however many pieces they come in."""
    data = bytearray(n)
    missing = memoryview(data)
    while missing:
        got = connection.recv_into(missing)
        if not got:
            raise EOFError("the other side has closed")
        missing = missing[got:]
    return data

# %%
%%container server
import socket, struct, threading

def echo(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        (n,) = struct.unpack("<Q", exactly(connection, 8))
        while True:
            connection.sendall(exactly(connection, n))
    except (EOFError, ConnectionError):
        connection.close()

def serve(listening):
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()

listening = socket.create_server(("127.0.0.1", 8080))
threading.Thread(target=serve, args=(listening,), daemon=True).start()

# %%
%%container server
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"    # the connection stays open after an answer
    disable_nagle_algorithm = True   # see "The 40 milliseconds" below

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):       # no line for each request
        pass

web = ThreadingHTTPServer(("127.0.0.1", 8081), Echo)
threading.Thread(target=web.serve_forever, daemon=True).start()

# %%
%%container server
import podipc

def tensors():
    with podipc.receiver("tcp://127.0.0.1:8082") as rx:
        with podipc.sender("tcp://127.0.0.1:8083") as tx:
            for x in rx:
                tx.send(x)

threading.Thread(target=tensors, daemon=True).start()

# %% [markdown]
# ## One table of ports
#
# The kernel lists the TCP sockets of a network namespace in `/proc/net/tcp`. Both containers read
# it now. Only one of them has opened a server.

# %%
%%containers server client -o listens
def listening_sockets():
    """Address and port of every TCP socket that waits for connections."""
    found = []
    for line in open("/proc/net/tcp").readlines()[1:]:
        local, state = line.split()[1], line.split()[3]
        if state == "0A":  # LISTEN
            address, port = local.split(":")
            octets = bytes.fromhex(address)[::-1]  # written as a little-endian number
            found.append(f"{'.'.join(map(str, octets))}:{int(port, 16)}")
    return sorted(found)

listens = listening_sockets()

# %%
same = listens["server"] == listens["client"]
Markdown(
    f"The container `server` sees {', '.join(listens['server'])}.\n\n"
    f"The container `client` sees {', '.join(listens['client'])}.\n\n"
    + ("**It is one table**: the client has opened none of these." if same else
       "**These are two tables**: here, the containers do not share a network.")
)

# %% [markdown]
# One table means that a port can be taken once, by whichever container comes first. The client
# tries.

# %%
%%container client -o bound
import errno, socket

bound = {}
for address in ("127.0.0.1:8080", "0.0.0.0:8080", "127.0.0.1:8084"):
    host, port = address.split(":")
    with socket.socket() as s:
        try:
            s.bind((host, int(port)))
            bound[address] = "free"
        except OSError as error:
            bound[address] = errno.errorcode[error.errno]

# %%
%%container client -o said
import podipc

try:
    podipc.receiver("tcp://127.0.0.1:8080").close()
    said = "nothing: the port was free"
except podipc.AddressInUse as error:
    said = str(error)

# %%
rows = "\n".join(f"| {address} | {outcome} |" for address, outcome in bound.items())
Markdown(
    f"| the client binds | outcome |\n|---|---|\n{rows}\n\n"
    "`EADDRINUSE` is the error *address already in use*. Two images that both want port 8080 "
    "cannot be put into one Pod unless one of them can be told to use another port.\n\n"
    f"podipc says of it: *{said}*"
)

# %% [markdown]
# ## What `ports:` is for
#
# This notebook runs outside of the Pod. It has a `127.0.0.1` too. Is the server there?

# %%
import socket


def reached(address, port):
    """What comes of a connection from here: 8 bytes of size, then a message that is sent back."""
    try:
        with socket.create_connection((address, port), timeout=2) as s:
            s.sendall((5).to_bytes(8, "little") + b"hello")
            return "the server answers" if s.recv(5) == b"hello" else "somebody else answers"
    except OSError as error:
        return f"{type(error).__name__}"


outside = reached("127.0.0.1", 8080)
Markdown(f"From outside of the Pod, `127.0.0.1:8080`: **{outside}**.")

# %% [markdown]
# Now a second Pod of the same manifest, with one difference: the server has `ports:
# [{containerPort: 8080}]`. Nothing runs in it. What listens there, and what can be reached?

# %%
import yaml

manifest = yaml.safe_load(Path("../k8s/pods/localhost.yaml").read_text())
without = [container.get("ports", "none") for container in manifest["spec"]["containers"]]
manifest["metadata"]["name"] = "localhost-with-ports"
manifest["spec"]["containers"][0]["ports"] = [{"containerPort": 8080}]

LISTENING = """
sockets = [line.split() for line in open("/proc/net/tcp")][1:]
[local for _, local, _, state, *_ in sockets if state == "0A"]
"""
with podipc.pod.up(manifest, RUNTIME, idle=True) as second:
    in_second = second["server"].run(LISTENING).unwrap()
    outside_second = reached("127.0.0.1", 8080)

# %%
Markdown(
    f"`ports:` in the first Pod: {', '.join(without)}; its server was reached by the client all "
    "the same.\n\n`ports:` in the second: 8080. Sockets that listen there: "
    f"**{len(in_second)}**. From outside, `127.0.0.1:8080`: **{outside_second}**."
)

# %% [markdown]
# So `containerPort` opens nothing and publishes nothing. It is information: for people, for
# tools, and as a name that a Service may refer to. What a client can reach is decided by the
# address that the server binds: `127.0.0.1` is for this Pod only, `0.0.0.0` is for whoever can
# reach the Pod's own address. (Two fields do reach out: `hostPort`, which takes a port of the
# node, and a Service, which is an object of its own.)
#
# ## Round trips of 64 bytes
#
# The client sends 64 bytes, waits until it has them back, and sends again. In the time is all of
# it: the client's Python, the kernel's way there, the server's Python, the way back. Making the
# connection is not in it.
#
# A fourth way is the plain socket used badly: the 64 bytes are sent in two pieces, a head of 8
# bytes and a body of 56. Many hand-written protocols do that. The server is the same.

# %%
%%container client
import struct

def connected(n):
    connection = socket.create_connection(("127.0.0.1", 8080), 30)
    connection.sendall(struct.pack("<Q", n))  # from now on, messages have n bytes
    return connection

def plain_socket(n):
    connection, data = connected(n), bytes(n)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def trip():
        connection.sendall(data)
        return exactly(connection, n)
    return trip

def in_two_pieces(n):
    connection, head, body = connected(n), bytes(8), bytes(n - 8)
    def trip():
        connection.sendall(head)
        connection.sendall(body)
        return exactly(connection, n)
    return trip

# %%
%%container client
import http.client

def http_post(n):
    connection, data = http.client.HTTPConnection("127.0.0.1", 8081), bytes(n)
    def trip():
        connection.request("POST", "/", data)
        return connection.getresponse().read()
    return trip

# %%
%%container client
import numpy as np

rx = podipc.receiver("tcp://127.0.0.1:8083")
tx = podipc.sender("tcp://127.0.0.1:8082")

def podipc_tcp(n):
    tensor = np.zeros(n, np.uint8)
    def trip():
        tx.send(tensor, timeout=30)
        return rx.recv(timeout=30)
    return trip

# %%
%%container client
import time

def measure(ways, n, seconds, repetitions):
    """Nanoseconds of each round trip; the ways take turns, so that a noisy moment hits all."""
    trips = {name: way(n) for name, way in ways.items()}
    times = {name: [] for name in ways}
    for trip in trips.values():
        for _ in range(10):  # not counted: caches, buffers and the interpreter warm up
            assert len(trip()) == n
    for _ in range(repetitions):
        for name, trip in trips.items():
            end = time.perf_counter_ns() + seconds * 1e9
            while (began := time.perf_counter_ns()) < end:
                trip()
                times[name].append(time.perf_counter_ns() - began)
    return {name: np.array(found) for name, found in times.items()}

# %%
seconds, repetitions = (0.1, 3) if QUICK else (0.5, 10)

# %%
%%container client -i seconds,repetitions -o small
small = measure(
    {"podipc tcp://": podipc_tcp, "plain socket": plain_socket, "HTTP": http_post,
     "in two pieces": in_two_pieces},
    64, seconds, repetitions,
)

# %%
middle = {name: duration(np.median(times)) for name, times in small.items()}
chart.cdf(
    small,
    x="round trip of 64 bytes (µs, ms)",
    title=f"There and back: {middle['plain socket']} over a socket, {middle['HTTP']} over HTTP",
    caption=f"{repetitions} turns of {seconds} s for each way.",
    about=pod,
)

# %%
def microseconds(times, percentile):
    return np.percentile(times, percentile) / 1e3


rows = "\n".join(
    f"| {name} | {len(times):,} | {microseconds(times, 50):,.1f} | {microseconds(times, 99):,.1f} "
    f"| {microseconds(times, 99) / microseconds(times, 50):.1f} |"
    for name, times in small.items()
)
Markdown(
    "| way | round trips | median (µs) | 99th percentile (µs) | ratio |\n"
    "|---|---|---|---|---|\n" + rows
)

# %%
middle = {name: microseconds(times, 50) for name, times in small.items()}
sentences = [
    f"A plain socket takes {middle['plain socket']:.0f} µs there and back, HTTP "
    f"{middle['HTTP'] / middle['plain socket']:.0f} times as long. The bytes are carried by the "
    "same kernel; what HTTP adds is Python that writes and reads headers, on both sides, and a "
    "second write each way: the headers go first, then the body.",
]
cpus = pod.facts().containers["client"].cpus  # its limit, None without one
if cpus is not None and cpus < 2:
    why = (
        "Where it may, podipc looks for news for up to 50 µs before it sleeps. Here it may not: "
        f"the container has a cpu limit of {cpus:g}, and looking would use up what the work "
        "needs."
    )
else:
    why = (
        "podipc looks for news for up to 50 µs before it sleeps, which costs cpu time, and "
        "stops doing so where it does not pay, as on a machine that is busy with other things."
    )
sentences.append(
    f"podipc's `tcp://` takes {middle['podipc tcp://']:.0f} µs over the same kind of socket, "
    f"{middle['podipc tcp://'] / middle['plain socket']:.1f} times the plain one. It carries a "
    f"dtype and a shape, and says when the other side has died. {why}"
)
tail = microseconds(small["HTTP"], 99)
sentences.append(
    f"A median hides the slow ones: one HTTP request in a hundred took {tail:,.0f} µs or more, "
    f"{tail / middle['HTTP']:.1f} times the median. Who makes 100 of them for one answer meets "
    f"such a one in {1 - 0.99**100:.0%} of the answers."
)
Markdown("\n\n".join(sentences))

# %% [markdown]
# ### The 40 milliseconds
#
# Two mechanisms of TCP, each sensible by itself, wait for one another. *Nagle's algorithm* holds
# a small piece back while an earlier one has not been acknowledged, so that the network is not
# flooded by tiny packets. The *delayed acknowledgement* holds the acknowledgement back, on Linux
# for some 40 ms, hoping that an answer will carry it. If a request is sent in two pieces, the
# server waits for the second before it answers, and the second waits for the acknowledgement of
# the first.
#
# The cure is one of: send the message in one piece, or set `TCP_NODELAY`, which turns Nagle's
# algorithm off. Here is the same client, once more in two pieces, with and without.

# %%
%%container client -i seconds,repetitions -o pieces
def in_two_pieces_nodelay(n):
    connection, head, body = connected(n), bytes(8), bytes(n - 8)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def trip():
        connection.sendall(head)
        connection.sendall(body)
        return exactly(connection, n)
    return trip

pieces = measure({"without": in_two_pieces, "with": in_two_pieces_nodelay}, 64, seconds, 3)

# %%
with_nodelay, without_nodelay = (microseconds(pieces[way], 50) for way in ("with", "without"))
Markdown(
    f"In two pieces: {without_nodelay / 1000:.1f} ms without `TCP_NODELAY`, {with_nodelay:.0f} "
    "µs with it"
    + (f", {without_nodelay / with_nodelay:,.0f} times less."
       if without_nodelay > 5 * with_nodelay else
       ". The acknowledgement was not delayed on this machine.")
)

# %% [markdown]
# ## Round trips of larger messages
#
# The same three ways, with messages of different sizes. They travel both ways in full.

# %%
sizes = [64, 4096, 65536, 1 << 20] if QUICK else [64 * 4**k for k in range(9)]
seconds, repetitions = (0.05, 3) if QUICK else (0.2, 5)

# %%
%%container client -i sizes,seconds,repetitions -o by_size
ways = {"podipc tcp://": podipc_tcp, "plain socket": plain_socket, "HTTP": http_post}
by_size = {name: [] for name in ways}
for n in sizes:
    for name, times in measure(ways, n, seconds, repetitions).items():
        by_size[name].append(np.percentile(times, [50, 1, 99]))  # middle, low, high
by_size = {name: np.array(found) for name, found in by_size.items()}

# %%
ratio = by_size["HTTP"][:, 0] / by_size["plain socket"][:, 0]
curves = {name: (sizes, *found.T) for name, found in by_size.items()}
chart.lines(
    curves,
    x="size of the message (B, KiB, MiB)",
    y="round trip (µs, ms)",
    x_axis="bytes",
    y_axis="time",
    title=f"HTTP costs {ratio[0]:.1f} times a plain socket at {size(sizes[0])}, "
    f"{ratio[-1]:.1f} times at {size(sizes[-1])}",
    caption=f"Median, band from p1 to p99; {repetitions} turns of {seconds} s for each way.",
    about=pod,
)

# %%
rate = 2 * sizes[-1] / by_size["plain socket"][-1, 0]  # bytes per nanosecond are GB/s
Markdown(
    f"At {size(sizes[0])}, HTTP takes {ratio[0]:.1f} times as long as the plain socket; at "
    f"{size(sizes[-1])}, {ratio[-1]:.1f} times. The cost of HTTP is one for each request, and "
    f"the larger the message, the less it counts. At {size(sizes[-1])} the plain socket moves "
    f"{rate:.1f} GB/s, there and back together: the time is that of copying into the kernel and "
    "out of it, on each side. Shared memory does without (notebook 06)."
)

# %% [markdown]
# ## In this notebook

# %%
known = "one network namespace" if same else "different network namespaces"
display(Markdown(f"""
- The containers are in {known}: {network['client']['addresses']} for both, and one table of ports.
- A second bind to a port of the other container: `{bound['127.0.0.1:8080']}`.
- No `ports:` was needed; adding it opened {len(in_second)} sockets.
- Median round trip of 64 bytes: {middle['podipc tcp://']:.0f} µs with podipc,
  {middle['plain socket']:.0f} µs with a plain socket, {middle['HTTP']:.0f} µs with HTTP.
- The same bytes in two pieces, without `TCP_NODELAY`: {without_nodelay / 1000:.1f} ms.
"""))

# %% [markdown]
# ## Exercises
#
# **1. One port, two servers.** With the socket option `SO_REUSEPORT`, set by both before they
# bind, two sockets of one user may listen on the same port. Let both containers listen on port
# 8090 in that way, make 200 connections from the client, and count which container accepted how
# many.
#
# The solution is in the folded cell.

# %% tags=["solution"]
%%containers server client -o accepted
import socket, threading, time

shared = socket.socket()
shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
shared.bind(("127.0.0.1", 8090))
shared.listen(256)
deadline = time.monotonic() + 10
while listening_sockets().count("127.0.0.1:8090") < 2 and time.monotonic() < deadline:
    time.sleep(0.01)                # until both listen
time.sleep(0.1)
if CONTAINER == "client":
    for _ in range(200):
        socket.create_connection(("127.0.0.1", 8090), 5).close()
else:
    time.sleep(0.5)
accepted = 0
shared.settimeout(0.5)
try:
    while True:
        shared.accept()[0].close()  # what waits in the queue of this container
        accepted += 1
except TimeoutError:
    shared.close()
print("accepted", accepted)

# %% tags=["solution"]
Markdown(
    f"The server accepted {accepted['server']}, the client {accepted['client']}, of 200. The "
    "kernel chooses by a hash of the connection's addresses and ports: it spreads load without "
    "a load balancer, and a client cannot say whom it gets."
)

# %% [markdown]
# **2. A connection for each request.** How much of the time of an HTTP request is the connection?
# Measure HTTP with a connection of its own for every request, side by side with one that stays
# open.

# %% tags=["solution"]
%%container client -i seconds,repetitions -o connections
def http_anew(n):
    data = bytes(n)
    def trip():
        connection = http.client.HTTPConnection("127.0.0.1", 8081)
        connection.request("POST", "/", data)
        answer = connection.getresponse().read()
        connection.close()
        return answer
    return trip

connections = measure({"kept": http_post, "anew": http_anew}, 64, seconds, repetitions)

# %% tags=["solution"]
kept, anew = (microseconds(connections[way], 50) for way in ("kept", "anew"))
Markdown(
    f"Median: {kept:.0f} µs over a connection that stays open, {anew:.0f} µs with one for each "
    f"request, {anew / kept:.1f} times as long. Besides the connection, the server starts a "
    "thread for each."
)

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/localhost.yaml](../k8s/pods/localhost.yaml); its containers check all
#   this by themselves
# - `tcp://` and the other addresses: [README](../README.md#addresses)
# - Manual pages: `network_namespaces(7)`, `tcp(7)`, `socket(7)`, `proc(5)`
# - Kubernetes: [Pod
#   networking](https://kubernetes.io/docs/concepts/workloads/pods/#pod-networking),
#   [Service](https://kubernetes.io/docs/concepts/services-networking/service/)

# %%
%pod down
