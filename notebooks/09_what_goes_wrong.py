# %% [markdown]
# # 09 What goes wrong
#
# Two containers of a Pod share memory, but not limits, users or fates. Each has its own memory
# limit, may run as another user, and may be killed alone. `/dev/shm`, which they share, has
# 64 MiB. Most programs for shared memory were written for processes of one machine, and get
# one of these wrong. This notebook makes each mistake on purpose, in real containers, and
# looks at how it ends: by a signal, which no program can catch in a useful way, or by an
# exception, which it can.
#
# **You will be able to**
#
# - say why a program that fills `/dev/shm` dies of SIGBUS, and what to change in the manifest;
# - say which container pays for shared memory, and read it from the containers' accounts;
# - let two containers with different UIDs share a channel;
# - say what the other side sees, and when, if a container is killed;
# - have `podipc doctor` find these mistakes before the manifest is applied.
#
# **Predict first** (write a number down)
#
# 1. A program makes 96 MiB of shared memory in a `/dev/shm` of 64 MiB and fills it. Does
#    making it fail, or filling it? At which MiB, and with what: an exception, or a signal?
# 2. A producer sends 12 tensors of 8 MiB through shared memory; the consumer keeps all of
#    them. By how many MiB does the memory of each container grow?
# 3. A container is killed. How long until the other one, which waits for a tensor, knows it:
#    1 ms, 100 ms, or a minute?

# %%
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from IPython.display import Markdown, display

import podipc.lab
import podipc.pod
from podipc.lab.plots import chart
from podipc.lab.sampler import Sampler
from podipc.lab.spoken import duration

%load_ext podipc.lab

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")
QUICK = podipc.lab.quick()  # PODIPC_QUICK=1: fewer repetitions
MIB = 1 << 20

# %% [markdown]
# ## A manifest with four mistakes
#
# It looks harmless, and Kubernetes would take it. The programs are in it as text, because the
# doctor reads them later; our cells run their lines one by one.

# %%
PRODUCER = """
import numpy, podipc
table = podipc.Segment.create(96 << 20, "lookup-table")
with podipc.sender("frames", max_bytes=512 << 20) as tx:
    tx.send(numpy.ones(1 << 20))
"""
CONSUMER = """
import podipc
with podipc.receiver("frames") as rx:
    for x in rx:
        print(x.shape)
"""

# %%
def container(name, user, program):
    return {
        "name": name,
        "image": "localhost/podipc:latest",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", program],
        "securityContext": {"runAsUser": user, "runAsGroup": user},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "resources": {"limits": {"memory": "256Mi"}},
    }

# %%
manifest = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "four-mistakes"},
    "spec": {
        "restartPolicy": "Never",
        "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            container("producer", 1001, PRODUCER),
            container("consumer", 1002, CONSUMER),
        ],
    },
}
place = tempfile.TemporaryDirectory()
PATH = Path(place.name, "four-mistakes.json")  # JSON is YAML, too
PATH.write_text(json.dumps(manifest, indent=1));

# %%
%pod up {PATH} --runtime {RUNTIME} --grace 1

# %%
producer, consumer = pod["producer"], pod["consumer"]
uids = {name: pod[name].run("import os; os.getuid()").unwrap() for name in pod.containers}
limit = producer.stats().memory_limit
HAS_USERS = len(set(uids.values())) == 2
HAS_LIMIT = limit is not None and limit <= 256 * MIB
HAS_ACCOUNTS = producer.stats().memory_of == "cgroup"
for there, what in ((HAS_USERS, "two users"), (HAS_LIMIT and HAS_ACCOUNTS, "memory limits")):
    if not there:
        print(f"{what}: not possible here, so one part shows less; the reason is below")
if not (HAS_USERS and HAS_LIMIT and HAS_ACCOUNTS):
    print(*pod.notes, sep="\n")
uids

# %% [markdown]
# ## 64 MiB of `/dev/shm`
#
# `/dev/shm` is a *tmpfs*: a file system in memory. A file in it can be mapped into the
# address space of a process, and whoever maps the same file shares that memory. Making a
# file large costs nothing: the kernel gives memory in *pages* of 4 KiB, each when it is first
# touched. When there is no page left, a system call like `write` returns an error, but the
# store into an array is no call. All that the kernel can do is to send a signal: SIGBUS.
#
# The cell starts a child process in the container, which may die.

# %%
%%container producer -o child
import os
import signal
import subprocess
import sys

PROGRAM = """
from multiprocessing import shared_memory
shared = shared_memory.SharedMemory(create=True, size=96 << 20)
print("made 96 MiB", flush=True)
for mib in range(96):
    shared.buf[mib << 20 : mib + 1 << 20] = bytes([1]) * (1 << 20)
    print(mib + 1, flush=True)
"""
ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
said = ended.stdout.split("\n")
child = {
    "made": "made 96 MiB" in said,
    "filled": int(said[-2]) if len(said) > 2 else 0,
    "signal": signal.Signals(-ended.returncode).name if ended.returncode < 0 else "none",
}

# %%
made = "worked" if child["made"] else "failed"
display(
    Markdown(
        f"Making 96 MiB {made}. Filling it went as far as {child['filled']} MiB; then the "
        f"process was ended by the signal: **{child['signal']}**."
    )
)

# %% [markdown]
# `podipc.Segment` reserves the pages when it is made, so that what fails, fails there, with an
# exception that says what there is and what to change.

# %%
%%container producer -o refused
import podipc

try:
    podipc.Segment.create(96 << 20, "lookup-table")
    refused = "nothing was refused"
except podipc.NoSpace as error:
    refused = f"NoSpace: {error}"
print(refused)

# %% [markdown]
# Tensors of `shm://` are not in `/dev/shm` at all: they are in *memfds*, shared memory
# without a name, and limited by the memory limit alone. This sends 96 MiB. `mode=0o666` is
# explained below.

# %%
%%container consumer
import podipc

rx = podipc.receiver("large", mode=0o666)

# %%
%%container producer -o shm_free
import numpy as np

tx = podipc.sender("large", mode=0o666)
tx.send(np.ones(96 << 20, np.uint8), timeout=30)
space = os.statvfs("/dev/shm")
shm_free = [space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize]

# %%
%%container consumer
x = rx.recv(timeout=10)
print(f"received {x.nbytes >> 20} MiB, the last byte is {x[-1]}")
del x  # its memory goes back to the sender
rx.close()

# %%
display(
    Markdown(
        f"While the tensor was on its way, {shm_free[0] / MIB:.1f} of "
        f"{shm_free[1] / MIB:.1f} MiB of `/dev/shm` were free."
    )
)

# %% [markdown]
# ## Who pays
#
# The kernel charges a page of memory to the container that touches it first. The producer
# writes the tensor, so it is the producer's memory, for as long as anybody holds it. The
# consumer receives a view. With `copy=True` it makes a copy of its own, and pays for that.
#
# The producer sends 12 tensors of 8 MiB, the consumer keeps them: first as they are, then,
# after dropping them, 12 more as copies. A sampler asks both containers for their memory.

# %%
%%container producer
import time

tx.close()  # that of the 96 MiB
tx = podipc.sender("frames", mode=0o666)


def send(count, pause):
    for number in range(count):
        with tx.loan(8 << 20, np.uint8, timeout=30) as out:  # no array of its own besides
            out[:] = number
        time.sleep(pause)

# %%
%%container consumer
rx = podipc.receiver("frames", mode=0o666)
kept = []


def keep(count, copy):
    for _ in range(count):
        kept.append(rx.recv(timeout=30, copy=copy))

# %%
COUNT, PAUSE = 12, 0.05 if QUICK else 0.25
marks, used = {}, {}


def memory():
    return {name: pod[name].stats().memory for name in ("producer", "consumer")}


with Sampler({name: pod[name].stats for name in pod.containers}, interval=0.03) as sampler:
    began = time.monotonic()
    for phase, copy in (("kept as received", False), ("kept as copies", True)):
        before = memory()
        marks[time.monotonic() - began] = phase
        receiving = consumer.background(f"keep({COUNT}, {copy})")
        producer.run(f"send({COUNT}, {PAUSE})").check()
        receiving.wait(60).unwrap()
        after = memory()
        used[phase] = {name: round((after[name] - before[name]) / MIB) for name in after}
        time.sleep(4 * PAUSE)
        marks[time.monotonic() - began] = "dropped"
        consumer.run("kept.clear()").check()
        time.sleep(4 * PAUSE)

# %%
series = {}
for name in ("producer", "consumer"):
    points = [(s.t, s.bytes / MIB) for s in sampler.samples if s.container == name]
    series[name] = tuple(np.array(points).T)
plain, copied = used["kept as received"], used["kept as copies"]
chart.lines(
    series,
    x="time (s)",
    y="memory of the container (MiB)",
    marks=marks,
    title=f"{COUNT * 8} MiB kept cost the producer {plain['producer']} MiB, the consumer "
    f"{plain['consumer']} MiB",
    caption=f"Container.stats() of both, every 30 ms. {COUNT} tensors of 8 MiB, received and "
    "kept as views of shared memory; later as private copies.",
    about=pod,
)

# %%
counted = (
    "The kernel accounts for it by container (control groups)."
    if HAS_ACCOUNTS
    else "Here the containers have no accounts of their own: these are sums over processes, in "
    "which shared pages count for each process that has touched them."
)
rows = [f"| {COUNT} × 8 MiB | producer | consumer |", "|---|---|---|"]
for phase, grown in used.items():
    rows.append(f"| {phase} | {grown['producer']:+d} MiB | {grown['consumer']:+d} MiB |")
table = "\n".join(rows)
display(
    Markdown(
        f"""
{table}

{counted} When the consumer lets go, the sender keeps the memory for the next tensors, because touching
pages for the first time is slow. It is given back when both have closed:
"""
    )
)

# %%
%%containers producer consumer
(tx if CONTAINER == "producer" else rx).close()

# %%
print({name: f"{nbytes / MIB:.0f} MiB" for name, nbytes in memory().items()})

# %% [markdown]
# ## Past the memory limit
#
# A container that needs more memory than its limit is not told so: the kernel ends a process
# of it with SIGKILL (an *OOM kill*, for out of memory). Again a child of ours may die; it says
# to the kernel that it is the one to take. In a cluster the whole container may be killed
# instead.

# %%
%%container producer -i HAS_LIMIT -o greedy
PROGRAM = """
open("/proc/self/oom_score_adj", "w").write("1000")
held = []
for mib in range(10, 410, 10):
    held.append(bytes([1]) * (10 << 20))
    print(mib, flush=True)
"""
greedy = None
if HAS_LIMIT:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    name = signal.Signals(-ended.returncode).name if ended.returncode < 0 else "no signal"
    greedy = [int(ended.stdout.split()[-1]), name]

# %%
if greedy:
    text = f"The child had {greedy[0]} MiB; it was ended by **{greedy[1]}**."
    display(Markdown(f"{text} The limit of the container is {limit / MIB:.0f} MiB."))
else:
    print("skipped: the container has no memory limit here")

# %% [markdown]
# `podipc` knows the limit and what is left of it, and asks before it takes. This tensor has 300
# MiB. It is a broadcast view, which has one byte; it needs its 300 MiB only when it is sent.

# %%
%%container producer -o too_large
tx = podipc.sender("frames", mode=0o666, max_bytes=512 << 20)  # as in the manifest
view = np.broadcast_to(np.uint8(1), (300, 1 << 20))
try:
    tx.send(view, timeout=2)
    too_large = "it was sent"
except podipc.MemoryLimit as error:
    too_large = f"MemoryLimit: {error}"
except podipc.Timeout as error:
    too_large = f"Timeout: {error}"
print(too_large)

# %% [markdown]
# And the producer goes on.

# %%
%%containers producer consumer
if CONTAINER == "producer":
    tx.send(np.arange(3), timeout=30)
else:
    with podipc.receiver("frames", mode=0o666) as rx:
        print(rx.recv(timeout=30))

# %% [markdown]
# ## Two users
#
# The containers run as UID 1001 and 1002. What a channel is made of belongs to its maker, and
# the default, `mode=0o600`, is for that user alone. Both sides use the default here, on
# another channel.

# %%
%%container producer
private = podipc.sender("private")

# %%
%%container consumer -o denied
try:
    podipc.receiver("private").close()
    denied = "nothing was denied: both have one UID here"
except podipc.NotPermitted as error:
    denied = f"NotPermitted: {error}"
print(denied)

# %% [markdown]
# The other modes are `0o660`, for users with a common group, and `0o666`, for every user of
# the Pod. Both sides give the same.

# %%
%%container producer
private.close()
private = podipc.sender("private", mode=0o666)

# %%
%%container consumer
with podipc.receiver("private", mode=0o666):
    print("joined")

# %%
%%container producer
private.close()

# %% [markdown]
# ## A container is killed
#
# The consumer waits in `recv()`. The notebook kills the producer: the kernel ends its first
# process, and with it all others of the container. The consumer notices by the sockets
# between the two, which the kernel closes. A process that has a lot of memory takes longer to
# end, because its memory is freed first. So we do this with little memory and with 128 MiB.
#
# The consumer gets `PeerDied` once, and calls `recv()` again. The producer is started again
# and sends: the same receiver gets it.

# %%
%%container consumer
import time

survivor = podipc.receiver("survivor", mode=0o666)


def next_tensor():
    """When the death of the peer was noticed, and when the next tensor came."""
    noticed = None
    while True:
        try:
            survivor.recv(timeout=60)
            return noticed, time.monotonic()
        except podipc.PeerDied:
            noticed = time.monotonic()

# %%
START = """
import numpy as np, podipc
tx = podipc.sender("survivor", mode=0o666)
tx.send(np.ones(1000), timeout=30)
"""
producer.run(START).check()
consumer.run("next_tensor()").check()
AHEAD = 0.0  # seconds that the clock of the containers is ahead of the notebook's
if RUNTIME == "kubernetes":  # which may run on another machine
    asked = time.monotonic()
    there = consumer.run("time.monotonic()").unwrap()
    AHEAD = there - (asked + time.monotonic()) / 2


def one_death(resident):
    """Kill the producer and start it again; seconds until it is noticed, and until it is back."""
    producer.run(f"ballast = bytes([1]) * {resident}").check()
    waiting = consumer.background("next_tensor()")
    time.sleep(0.1)  # until it waits
    killed = time.monotonic() + AHEAD
    producer.kill()
    producer.wait(30)
    restarted = time.monotonic() + AHEAD
    producer.restart()
    producer.run(START).check()
    noticed, came = waiting.wait(60).unwrap()
    return noticed and noticed - killed, came - restarted

# %%
REPEATS = 3 if QUICK else 20
deaths = {"little memory": [], "128 MiB": []}
back = []
for _ in range(REPEATS):
    for name, resident in zip(deaths, (0, 128 * MIB)):
        notice, again = one_death(resident)
        deaths[name].append(notice * 1e9 if notice else np.nan)
        back.append(again * 1e9)

# %%
shown = {f"kill to notice, {name}": np.array(values) for name, values in deaths.items()}
noticed = {name: values[np.isfinite(values)] for name, values in shown.items()}
seen = sum(len(values) for values in noticed.values())
light, heavy = (float(np.median(values)) for values in noticed.values())
again = float(np.median(back))
chart.bars(
    {**noticed, "restart to next tensor": back},
    x="time (ms, s)",
    x_axis="time",
    text=duration,
    title=f"The death of a container is noticed after {duration(light)} (median)",
    caption=f"{REPEATS} deaths each, in turn. Until the exception in the other container, from "
    "the call of kill(); until its next tensor, from the call of restart(), the start of Python "
    "included. Strokes: single values.",
    about=pod,
)

# %%
display(
    Markdown(
        f"""
- Of {2 * REPEATS} deaths, {seen} were noticed by a `PeerDied`.
- It took {duration(light)} if the producer had little memory, and {duration(heavy)} with 128
  MiB, {heavy / light:.1f} times as long.
- The first tensor of the restarted producer came {duration(again)} after its restart, at the
  same receiver.
"""
    )
)

# %% [markdown]
# ## What the doctor sees
#
# `podipc doctor` in a container says what it finds there. Here while `/dev/shm` is full,
# because somebody has left a large file.

# %%
%%container consumer -o findings
import json
import os
import subprocess
import sys

try:
    with open("/dev/shm/left-behind", "wb") as file:
        while True:
            file.write(bytes(1 << 20))  # write() does get an error when there is no room
except OSError as error:
    print(error)
command = [sys.executable, "-m", "podipc", "doctor", "--json"]
findings = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["findings"]
os.unlink("/dev/shm/left-behind")

# %%
def show(findings, areas=None):
    rows = ["| | where | what |", "|---|---|---|"]
    for f in findings:
        if areas is None or f["area"] in areas:
            change = f"<br>*change:* `{f['change']}`" if f["change"] else ""
            area = f["area"].removeprefix(f"{PATH}: ")
            rows.append(f"| **{f['level']}** | {area} | {f['text']}{change} |")
    display(Markdown("\n".join(rows)))


show(findings, ("/dev/shm", "memory", "user", "shm://"))

# %% [markdown]
# With `--manifest` it reads a manifest before anything runs, programs included. Each mistake of
# ours, and what to change:

# %%
def doctor(manifest):
    PATH.write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "podipc", "doctor", "--manifest", PATH, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["findings"]


before = doctor(manifest)
show(before)

# %% [markdown]
# The same manifest with the changes made: one user, a size for the volume, a `/dev/shm` of our
# own (a volume of the medium Memory, mounted there), and memory for what the programs ask for.

# %%
mended = json.loads(json.dumps(manifest))  # a deep copy
spec = mended["spec"]
spec["volumes"][0]["emptyDir"]["sizeLimit"] = "64Mi"
spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}})
for one in spec["containers"]:
    one["securityContext"] = {"runAsUser": 1001, "runAsGroup": 1001}
    one["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    one["resources"]["limits"]["memory"] = "1Gi"
after = doctor(mended)
show(after)

# %%
%pod down

# %% [markdown]
# ## In this notebook

# %%
wrong = sum(f["level"] != "ok" for f in before)
left = sum(f["level"] != "ok" for f in after)
display(
    Markdown(
        f"""
- A program filled a `/dev/shm` of {shm_free[1] / MIB:.0f} MiB up to {child["filled"]} MiB and
  was ended by {child["signal"]}; podipc said `{refused.split(":")[0]}` before it touched anything.
- For {COUNT * 8} MiB in shared memory the producer paid {plain["producer"]} MiB and the
  consumer {plain["consumer"]} MiB; for copies the consumer paid {copied["consumer"]} MiB.
- Past the memory limit: {greedy[1] if greedy else "not tried"} for a program that just takes,
  `{too_large.split(":")[0]}` from podipc. Another UID: `{denied.split(":")[0]}`.
- A death was noticed after {duration(light)}; the next tensor came {duration(again)} after the
  restart.
- The doctor found {wrong} things to change in the manifest, and after the changes {left}.
"""
    )
)

# %% [markdown]
# ## Exercises
#
# **1.** Let the two users share a channel without opening it to every user of the Pod. What do
# the manifest and both sides need?

# %% tags=["solution"]
common = json.loads(json.dumps(manifest))
common["metadata"]["name"] = "common-group"
for one in common["spec"]["containers"]:
    one["securityContext"]["runAsGroup"] = 2000  # what they make has this group
with podipc.pod.up(common, RUNTIME, idle=True, grace=1) as two:
    for name, side in (("producer", "sender"), ("consumer", "receiver")):
        two[name].run(f"import podipc; end = podipc.{side}('frames', mode=0o660)").check()
        print(name, two[name].run("import os; os.getuid(), os.getgid()").unwrap(), "joined")
    receiving = two["consumer"].background("end.recv(timeout=30).sum()")
    two["producer"].run("import numpy; end.send(numpy.ones(10), timeout=30)").check()
    print("the sum of what came is", receiving.wait(60).unwrap())

# %% [markdown]
# **2.** Run the mended manifest. Does the program that died of SIGBUS come further? What does
# the table of 96 MiB cost, and whom?

# %% tags=["solution"]
with podipc.pod.up(mended, RUNTIME, idle=True, grace=1) as roomy:
    paid = {}
    for one in roomy.containers.values():
        one.run("import podipc, numpy").check()
        paid[one.name] = -one.stats().memory
    make = "table = podipc.Segment.create(96 << 20, 'lookup-table'); numpy.asarray(table)[:] = 1"
    roomy["producer"].run(make).check()
    read = "table = podipc.Segment.open('lookup-table'); int(numpy.asarray(table).sum())"
    total = roomy["consumer"].run(read).unwrap()
    for one in roomy.containers.values():
        paid[one.name] += one.stats().memory
    roomy["producer"].run("table.unlink()").check()
print(f"The producer filled 96 MiB, the consumer read ones up to {total / MIB:.0f} MiB. It cost")
print(", ".join(f"the {name} {cost / MIB:.0f} MiB" for name, cost in paid.items()))

# %%
place.cleanup()  # the file of the manifest

# %% [markdown]
# ## Links
#
# - [README](../README.md): what you may rely on, the exceptions, the limits; `podipc doctor
#   --help`.
# - Manual pages: `shm_open(3)`, `memfd_create(2)`, `tmpfs(5)`, `signal(7)`, `cgroups(7)`,
#   `pid_namespaces(7)`.
# - Kubernetes: [Assign Memory
#   Resources](https://kubernetes.io/docs/tasks/configure-pod-container/assign-memory-resource/),
#   [Security
#   Context](https://kubernetes.io/docs/tasks/configure-pod-container/security-context/),
#   [emptyDir](https://kubernetes.io/docs/concepts/storage/volumes/#emptydir).
