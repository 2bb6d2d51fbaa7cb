# %% [markdown]
# # 04 Pipes and Unix sockets
#
# A *named pipe* (FIFO) and a *Unix socket* look like files on a volume that two containers mount.
# The name is on the volume; the bytes are not: they go from one program to the other through a
# buffer of the kernel. That buffer is small, and it knows nothing of messages. Both facts
# surprise people. This notebook measures them, and what each way of sending a tensor makes of
# them.
#
# You will be able to
#
# - say what happens to a writer that is faster than its reader (*back-pressure*), and how far
#   ahead it gets,
# - explain why a stream of bytes needs *framing*, and write a framing that works,
# - say when several writers may share one pipe,
# - choose between a FIFO, a Unix socket and TCP by their measured throughput.
#
# **Predict first**
#
# 1. A program writes into a FIFO whose reader is asleep. How many KiB can it write before it has
#    to wait?
# 2. It writes 10, then 20, then 30 bytes. How many bytes does the reader's first `read(4096)`
#    return?
# 3. Two containers write messages of 10,000 bytes into one FIFO at the same time. Do they arrive
#    whole?

# %% [markdown]
# ## Two containers and a volume
#
# The manifest mounts an `emptyDir` at `/pipes` in the containers `writer` and `reader`. Their own
# programs are not started: the cells below are what runs in them.

# %%
import os
import select

import numpy as np
from IPython.display import Markdown

import podipc.lab
from podipc.lab.plots import chart
from podipc.lab.spoken import rate
from podipc.lab.table import size

%load_ext podipc.lab
QUICK = podipc.lab.quick()  # PODIPC_QUICK=1: shorter measurements
RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")

# %%
%pod up ../k8s/pods/fifo.yaml --runtime {RUNTIME}

# %% [markdown]
# The writer makes a FIFO, and the reader looks at it. The first letter of its mode is `p`, and
# its size is 0.

# %%
%%container writer
import os

os.mkfifo("/pipes/slow")

# %%
%%container reader -o looks
import os, stat

found = os.stat("/pipes/slow")
looks = f"{stat.filemode(found.st_mode)}, {found.st_size} bytes"

# %%
Markdown(f"`/pipes/slow` in the other container: `{looks}`")

# %% [markdown]
# ## Back-pressure
#
# The writer writes 4 KiB at a time, as fast as it can. The reader opens the FIFO, is busy with
# something else for half a second, and then takes 16 KiB every 40 ms. Each notes when a call came
# back, and how many bytes it has moved until then. `time.monotonic()` is one clock for both
# containers.

# %%
chunks = 64 if QUICK else 128  # of 4 KiB

# %%
%%containers writer reader -i chunks -o moved
import time

log = []
if CONTAINER == "writer":
    with open("/pipes/slow", "wb", buffering=0) as pipe:  # waits until the reader opens it
        for _ in range(chunks):
            pipe.write(bytes(4096))
            log.append((time.monotonic(), 4096))
else:
    with open("/pipes/slow", "rb", buffering=0) as pipe:
        time.sleep(0.5)
        while data := pipe.read(16384):  # nothing: the writer has closed
            log.append((time.monotonic(), len(data)))
            time.sleep(0.04)
moved = log

# %%
%%container writer -o capacity
import fcntl

both_ends = os.open("/pipes/slow", os.O_RDWR)
capacity = fcntl.fcntl(both_ends, fcntl.F_GETPIPE_SZ)
os.close(both_ends)

# %%
def moved_until(log, moments):
    """KiB that had been moved at each of the moments."""
    times, amounts = np.array(log).T
    total = np.concatenate([[0], np.cumsum(amounts)]) / 1024
    return total[np.searchsorted(times, moments, "right")]


start = moved["writer"][0][0]
moments = np.linspace(start, moved["reader"][-1][0] + 0.04, 2000)  # and a little longer
written, taken = (moved_until(moved[name], moments) for name in ("writer", "reader"))
in_pipe = written - taken
stalled = moved["reader"][0][0] - start  # seconds until the first read
ahead = written[moments - start < stalled].max()

# %%
seconds = moments - start
chart.lines(
    {"written": (seconds, written), "read": (seconds, taken), "in the pipe": (seconds, in_pipe)},
    x="time since the first write (s)",
    y="bytes (KiB)",
    title=f"The writer gets {ahead:.0f} KiB ahead, and then waits",
    caption="One run: writes of 4 KiB, as fast as possible; reads of 16 KiB every 40 ms after 0.5 s.",
    about=pod,
    markers=False,
)

# %%
Markdown(
    f"While the reader slept ({stalled:.2f} s), the writer wrote {ahead:.0f} KiB. The "
    f"kernel says that the pipe holds {capacity / 1024:.0f} KiB. From then on every "
    "write waits for a read: **the writer goes at the reader's speed**, without a line of code "
    "for it. That is back-pressure. It keeps memory bounded. It also means that a reader that "
    "hangs makes its writer hang."
)

# %% [markdown]
# ### With a timeout
#
# A plain `write` into a full pipe waits for ever. podipc's `send` takes a timeout. How many
# tensors of 4 KiB does it accept, by method, while a receiver is there that takes none? Then the
# receiver takes them all: is anything lost?

# %%
%%containers writer reader
import numpy as np
import podipc

ADDRESSES = {
    "fifo": "fifo:///pipes/full.fifo",
    "unix": "unix:///pipes/full.sock",
    "tcp": "tcp://127.0.0.1:8090",
}
if CONTAINER == "reader":
    receivers = {method: podipc.receiver(address) for method, address in ADDRESSES.items()}

# %%
%%container writer -o accepted,said
accepted = {}
senders = {method: podipc.sender(address) for method, address in ADDRESSES.items()}
for method, tx in senders.items():
    accepted[method] = 0
    try:
        while True:
            tx.send(np.full(512, accepted[method]), timeout=0.3)
            accepted[method] += 1
    except podipc.Timeout as error:
        said = str(error)

# %%
%%container reader -o arrived
arrived = {}
for method, rx in receivers.items():
    numbers = []
    try:
        while True:
            numbers.append(int(rx.recv(timeout=0.3)[0]))
    except podipc.Timeout:  # no more
        arrived[method] = len(numbers)
        assert numbers == list(range(len(numbers))), "each once, and in order"

# %%
%%containers writer reader
for endpoint in (senders if CONTAINER == "writer" else receivers).values():
    endpoint.close()

# %%
rows = "\n".join(
    f"| `{method}` | {n:,} | {size(4096 * n)} | {arrived[method]:,} |"
    for method, n in accepted.items()
)
lost = {method: n - arrived[method] for method, n in accepted.items() if n != arrived[method]}
Markdown(
    "| method | accepted | that is | arrived, in order |\n|---|---|---|---|\n" + rows +
    f"\n\nThen `send` raised `Timeout`: *{said}*\n\n"
    + ("Nothing was lost and nothing came twice." if not lost else f"**Lost: {lost}.**")
    + " The amounts are the buffers of the kernel: podipc asks for a larger pipe and a larger "
    "socket buffer than the default, and leaves those of TCP to the kernel."
)

# %% [markdown]
# ## A stream has no messages
#
# The writer makes three writes: 10, 20 and 30 bytes. The reader comes a little later. Then the
# writer makes one write of 1 MiB, and the reader reads until it has all of it.

# %%
%%containers writer reader -o reads
reads = {"three": [], "one": []}
if CONTAINER == "writer":
    with open("/pipes/slow", "wb", buffering=0) as pipe:
        for n in (10, 20, 30):
            pipe.write(bytes(n))
        time.sleep(0.4)
        pipe.write(bytes(1 << 20))
else:
    with open("/pipes/slow", "rb", buffering=0) as pipe:
        time.sleep(0.2)
        reads["three"].append(len(pipe.read(4096)))
        while data := pipe.read(1 << 20):
            reads["one"].append(len(data))

# %%
three, one = reads["reader"]["three"], reads["reader"]["one"]
between = f"{min(one):,} to {max(one):,}" if min(one) < max(one) else f"{one[0]:,}"
Markdown(
    f"The first read returned **{three[0]} bytes**"
    + (", all three writes in one" if three[0] == 60 else "")
    + f". The write of 1 MiB came in **{len(one)} reads**, of {between} bytes. Neither the "
    "number of writes nor their sizes can be seen at the other end. A program that takes one "
    "read for one message works as long as messages are small and rare, and fails under load."
)

# %% [markdown]
# *Framing* puts the messages back: before each, its length, in a fixed number of bytes. The
# reader reads the length, then exactly that many bytes, in as many pieces as they come. An end in
# the middle of a message is an error, not a short message.

# %%
%%containers writer reader
import struct

def write_message(pipe, data):
    pipe.write(struct.pack("<Q", len(data)))  # 8 bytes, little-endian
    pipe.write(data)

def read_exactly(pipe, n):
    data = bytearray(n)
    missing = memoryview(data)
    while missing:
        got = pipe.readinto(missing)
        if not got:
            raise EOFError(f"the writer ended {len(missing)} bytes before the end of a message")
        missing = missing[got:]
    return data

def read_message(pipe):
    (n,) = struct.unpack("<Q", read_exactly(pipe, 8))
    return read_exactly(pipe, n)

# %%
%%containers writer reader -o lengths
lengths = [10, 20, 30, 1 << 20, 0, 5]
if CONTAINER == "writer":
    with open("/pipes/slow", "wb", buffering=0) as pipe:
        for n in lengths:
            write_message(pipe, bytes(n))
else:
    with open("/pipes/slow", "rb", buffering=0) as pipe:
        lengths = [len(read_message(pipe)) for _ in lengths]

# %%
whole = lengths["writer"] == lengths["reader"]
Markdown(
    f"Written: {lengths['writer']}. Read: {lengths['reader']}. "
    + ("**Message for message the same.**" if whole else "**Not the same.**")
)

# %% [markdown]
# That is still bytes. A tensor also has a dtype and a shape, and a peer may send nonsense, die
# halfway, or time out in the middle of a message. podipc's framing has all of that in it: a head
# that is checked before anything is allocated, and a trailer that says whether the message is
# complete.

# %%
%%containers writer reader -o seen
if CONTAINER == "writer":
    day = np.array("2024-02-29", "datetime64[D]")
    tensors = [np.eye(3, dtype="float32"), day, np.zeros((0, 7))]
    with podipc.sender("fifo:///pipes/tensors.fifo") as tx:
        for x in tensors:
            tx.send(x, timeout=30)
else:
    with podipc.receiver("fifo:///pipes/tensors.fifo") as rx:
        tensors = list(rx)
seen = [f"{x.dtype} {x.shape}" for x in tensors]

# %%
Markdown(f"Sent: {', '.join(seen['writer'])}.\n\nReceived: {', '.join(seen['reader'])}.")

# %% [markdown]
# ## Two writers, one pipe
#
# Now both containers write into one FIFO, messages full of its own letter, and a thread in the
# container `reader` collects them. POSIX promises that a write of at most `PIPE_BUF` bytes is
# *atomic*: nobody else's bytes get in between. The thread starts late, so that the pipe is full
# and both writers wait.

# %%
lengths_tried = [1000, 4096, 10_000] if QUICK else [100, 1000, 4096, 4100, 5000, 10_000, 100_000]
amount = (2 << 20) if QUICK else (16 << 20)  # bytes from each container

# %%
%%container reader
import os, threading

def collect(pipe, n, expected, found):
    """Read all of it, and count the messages that are not of one letter."""
    time.sleep(0.1)
    with open(pipe, "rb", buffering=0) as file:
        messages = np.frombuffer(read_exactly(file, expected), np.uint8).reshape(-1, n)
    mixed = messages.min(axis=1) != messages.max(axis=1)
    found.append([n, len(messages), int(mixed.sum())])

# %%
%%containers writer reader -i lengths_tried,amount -o torn
torn = []
for n in lengths_tried:
    path, count = f"/pipes/letters-{n}", amount // n
    if CONTAINER == "writer":
        os.mkfifo(path)
    else:
        while not os.path.exists(path):
            time.sleep(0.001)
        both_ends = os.open(path, os.O_RDWR)  # also a writer, so that there is never an end
        thread = threading.Thread(target=collect, args=(both_ends, n, 2 * count * n, torn))
        thread.start()
    pipe = os.open(path, os.O_WRONLY)         # waits until the thread's end is open
    message = CONTAINER[0].encode() * n       # "wwww..." or "rrrr..."
    for _ in range(count):
        os.write(pipe, message)
    os.close(pipe)
    if CONTAINER == "reader":
        thread.join()

# %%
rows = "\n".join(f"| {n:,} bytes | {count:,} | {mixed:,} |" for n, count, mixed in torn["reader"])
small = sum(mixed for n, _, mixed in torn["reader"] if n <= select.PIPE_BUF)
large = sum(mixed for n, _, mixed in torn["reader"] if n > select.PIPE_BUF)
Markdown(
    "| message | messages | with bytes of another |\n|---|---|---|\n" + rows +
    f"\n\n`PIPE_BUF` is {select.PIPE_BUF:,} bytes here. Up to it, {small:,} messages were mixed; "
    f"above it, {large:,}. "
    + ("A length in front of a message does not help: it is mixed in as well. " if large else
       "That was luck: nothing promises it. ")
    + "So podipc lets the senders of a FIFO take turns, one at a time. Each connection of a Unix "
    "socket or of TCP is a stream of its own, and the question does not arise."
)

# %% [markdown]
# ## Throughput against size
#
# The writer sends for a while as fast as it can, then says that it is done; the reader answers
# with the bytes it got. The time ends with that answer, so what is still in a buffer is in the
# time. The first turn of each is not counted. *plain FIFO* is `os.writev` and `readinto` with the
# framing from above; the others are podipc.

# %%
%%containers writer reader
METHODS = {
    "fifo": "fifo:///pipes/fast.fifo",
    "unix": "unix:///pipes/fast.sock",
    "tcp": "tcp://127.0.0.1:8091",
}
if CONTAINER == "writer":
    answers = podipc.receiver("unix:///pipes/answers.sock")
    send = {method: podipc.sender(address).send for method, address in METHODS.items()}
    pipe = os.open("/pipes/slow", os.O_WRONLY)
    send["plain FIFO"] = lambda x: os.writev(pipe, [struct.pack("<Q", x.nbytes), x.data])
else:
    answer = podipc.sender("unix:///pipes/answers.sock")
    receive = {method: podipc.receiver(address).recv for method, address in METHODS.items()}
    pipe = open("/pipes/slow", "rb", buffering=0)
    receive["plain FIFO"] = lambda: read_message(pipe)

# %%
sizes = [64, 4096, 65536, 1 << 20] if QUICK else [64 * 4**k for k in range(9)]
seconds, repetitions = (0.05, 2) if QUICK else (0.2, 5)

# %%
%%containers writer reader -i sizes,seconds,repetitions -o rates
nothing = np.zeros(0, np.uint8)
rates = {method: [] for method in ("fifo", "unix", "tcp", "plain FIFO")}
for n in sizes:
    tensor = np.ones(n, np.uint8)
    for turn in range(repetitions + 1):
        for method, found in rates.items():
            sent = got = 0
            if CONTAINER == "writer":
                began = time.perf_counter()
                while time.perf_counter() - began < seconds:
                    send[method](tensor)
                    sent += n
                send[method](nothing)  # that was all
                assert int(answers.recv(timeout=30)[0]) == sent
                found.append((n, turn, sent / (time.perf_counter() - began)))
            else:
                while m := len(receive[method]()):
                    got += m
                answer.send(np.array([got]))

# %%
def curve(found):
    """Sizes, and the median, lowest and highest rate of the turns that count."""
    by_size = [[r for n, turn, r in found if n == size_ and turn] for size_ in sizes]
    return sizes, *(list(map(f, by_size)) for f in (np.median, min, max))


curves = {method: curve(found) for method, found in rates["writer"].items()}
best = {n: max(curves, key=lambda method: curves[method][1][i]) for i, n in enumerate(sizes)}
chart.lines(
    curves,
    x="size of the message (B, KiB, MiB)",
    y="throughput, one way (MB/s, GB/s)",
    x_axis="bytes",
    y_axis="rate",
    title=f"Fastest at {size(sizes[0])}: {best[sizes[0]]}; at {size(sizes[-1])}: {best[sizes[-1]]}",
    caption=f"Median of {repetitions} turns of {seconds} s, band from the slowest to the fastest. "
    "fifo, unix, tcp: podipc.",
    about=pod,
)

# %%
first, last = (
    {method: values[1][i] for method, values in curves.items()} for i in (0, -1)
)
growth = {method: last[method] / first[method] for method in curves}
per_message = {method: sizes[0] / first[method] * 1e6 for method in curves}
peak = {method: max(values[1]) for method, values in curves.items()}
top = {method: size(sizes[int(np.argmax(values[1]))]) for method, values in curves.items()}
Markdown(
    "With small messages the price is one for each message, whatever is in it: "
    + ", ".join(f"{t:.1f} µs with {method}" for method, t in per_message.items())
    + ". With large ones it is one for each byte: every byte is copied into the kernel by the "
    "writer and out of it by the reader. The most that was reached: "
    + "; ".join(f"{method} {rate(r)} at {top[method]}" for method, r in peak.items())
    + f". From {size(sizes[0])} to {size(sizes[-1])} throughput grew "
    + ", ".join(f"{g:,.0f} times ({method})" for method, g in growth.items()) + "."
)

# %% [markdown]
# ## In this notebook

# %%
Markdown(f"""
- A writer gets as far ahead as the buffer of the kernel is large, here {ahead:.0f} KiB,
  and then goes at the reader's speed.
- podipc accepted {', '.join(f"{size(4096 * n)} ({m})" for m, n in accepted.items())} before `send`
  raised `Timeout`; {'nothing of it was lost' if not lost else f'lost: {lost}'}.
- Three writes came as {three[0]} bytes in one read, and one write of 1 MiB in {len(one)} reads: a
  stream needs framing.
- Two writers in one FIFO: {small:,} mixed messages up to {select.PIPE_BUF:,} bytes, {large:,} above it.
- Fastest at {size(sizes[0])}: {best[sizes[0]]}, {rate(first[best[sizes[0]]])}; at
  {size(sizes[-1])}: {best[sizes[-1]]}, {rate(last[best[sizes[-1]]])}.
""")

# %% [markdown]
# ## Exercises
#
# **1. A larger pipe.** Linux lets a program choose the capacity of a pipe: `fcntl(fd,
# F_SETPIPE_SZ, bytes)`, up to the number in `/proc/sys/fs/pipe-max-size` without privileges.
# Measure the plain FIFO with messages of 1 MiB, with 4 KiB, 64 KiB and 1 MiB of capacity.

# %% tags=["solution"]
%%containers writer reader -i seconds,repetitions -o by_capacity
tensor = np.ones(1 << 20, np.uint8)
by_capacity = []
for capacity in (4096, 65536, 1 << 20):
    if CONTAINER == "writer":
        chosen = fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, capacity)
        began, sent = time.perf_counter(), 0
        while time.perf_counter() - began < 2 * seconds:
            send["plain FIFO"](tensor)
            sent += tensor.nbytes
        send["plain FIFO"](nothing)
        answers.recv(timeout=30)
        by_capacity.append((chosen, sent / (time.perf_counter() - began)))
    else:
        while read_message(pipe):
            pass
        answer.send(nothing)

# %% tags=["solution"]
chart.bars(
    {f"pipe of {size(chosen)}": r / 1e9 for chosen, r in by_capacity["writer"]},
    x="throughput of messages of 1 MiB (GB/s)",
    title=f"A pipe of {size(by_capacity['writer'][-1][0])} carries "
    f"{by_capacity['writer'][-1][1] / by_capacity['writer'][0][1]:.1f} times as much as one of "
    f"{size(by_capacity['writer'][0][0])}",
    caption=f"{2 * seconds} s each; the time ends when the reader has answered.",
    about=pod,
)

# %% [markdown]
# **2. A socket that keeps messages.** A Unix socket of type `SOCK_SEQPACKET` is ordered and
# reliable like a stream, and knows messages. Send 10, 20 and 30 bytes with it, and see what the
# receiver gets. What happens to a message of 1 MiB?

# %% tags=["solution"]
%%containers writer reader -o packets
import socket

packets = []
if CONTAINER == "reader":
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind("/pipes/packets.sock")
        server.listen()
        with server.accept()[0] as connection:
            time.sleep(0.2)
            while data := connection.recv(4096):
                packets.append(len(data))
else:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        while connection.connect_ex("/pipes/packets.sock"):
            time.sleep(0.01)  # until the reader listens
        for n in (10, 20, 30, 1 << 20):
            try:
                packets.append(f"{n}: {connection.send(bytes(n))} sent")
            except OSError as error:
                packets.append(f"{n}: {error.strerror}")

# %% tags=["solution"]
Markdown(
    f"The reader got messages of {', '.join(map(str, packets['reader']))} bytes: the kernel kept "
    f"them apart. The writer says: {'; '.join(packets['writer'])}. A message has to fit into the "
    "buffer of the socket as a whole, which is why tensors do not travel in this way."
)

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/fifo.yaml](../k8s/pods/fifo.yaml); its containers check a FIFO by
#   themselves
# - `fifo://`, `unix://` and the other addresses: [README](../README.md#addresses); the frames:
#   [csrc/README.md](../csrc/README.md)
# - Manual pages: `fifo(7)`, `pipe(7)` (`PIPE_BUF`, capacity), `unix(7)`, `fcntl(2)`
# - Kubernetes: [emptyDir](https://kubernetes.io/docs/concepts/storage/volumes/#emptydir)

# %%
%pod down
