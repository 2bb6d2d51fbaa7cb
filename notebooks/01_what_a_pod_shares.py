# %% [markdown]
# # 01 What a Pod shares
#
# A container is not a small machine. It is a process to which the kernel shows less than there
# is: its own processes, its own files, its own network. Each of these views is a **namespace**.
# Two containers of one Pod get some namespaces in common and some apart, and this decides how
# they can talk to each other. Here you look from inside two real containers and find out which.
#
# **You will be able to**
#
# - read off, from inside a container, which namespaces it lives in;
# - say which namespaces the containers of a Pod share, and show each by an experiment;
# - tell what is shared by the Pod from what is shared by the whole machine;
# - say what each shared thing is good for: ports, `/dev/shm`, volumes.
#
# **Predict first.** Write down a number or a word for each, then run the cells.
#
# 1. Linux has eight kinds of namespaces. How many of them are the same in both containers?
# 2. The producer listens on port 9000 of 127.0.0.1. Can the consumer listen on 9000 as well?
# 3. What is the process number (PID) of the main program in the producer? And in the consumer?

# %%
import ctypes
import os
import time

from IPython.display import Markdown, display

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")  # or podman, kubernetes

%load_ext podipc.lab

# %% [markdown]
# ## Two containers
#
# The manifest is an ordinary one for Kubernetes: two containers, `producer` and `consumer`, and
# one volume that both mount at `/shared-mem`. `%pod up` starts the containers but not their
# programs, so that they wait for our cells.

# %%
%pod up ../k8s/pods/shared-memory-pod.yaml --runtime {RUNTIME}

# %% [markdown]
# ## Ask each container where it lives
#
# `/proc/self/ns` has a link for each namespace of the process that looks. The number in a link
# is the identity of the namespace: two processes with the same number are in the same one.
# `%%containers` runs the cell in both containers at the same time.

# %%
%%containers producer consumer --get namespaces
import os

KINDS = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
namespaces = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
print(namespaces["net"], namespaces["pid"])

# %% [markdown]
# Now compare them here, in the notebook. The notebook is a process as well, outside of the Pod:
# its own numbers show what the Pod has apart from the machine.

# %%
here = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in namespaces["producer"]}
same_machine = RUNTIME != "kubernetes"  # there the numbers of the notebook mean nothing

for kind, number in namespaces["producer"].items():
    in_pod = number == namespaces["consumer"][kind]
    everywhere = in_pod and same_machine and number == here[kind]
    word = "shared with the whole machine" if everywhere else "shared" if in_pod else "private"
    print(f"{kind:8} {word}")

# %% [markdown]
# Numbers are only a claim. The next cells test it: for each kind of namespace, something is done
# in one container and looked for in the other.
#
# ## Network: one 127.0.0.1, one set of ports
#
# The producer listens on a port and keeps listening.

# %%
%%container producer
import socket

listener = socket.create_server(("127.0.0.1", 9000))
print("listens on", listener.getsockname())

# %% [markdown]
# The consumer tries two things with the same port: to listen on it, and to connect to it.

# %%
%%container consumer --get bind_error,connected
import os, socket

try:
    socket.create_server(("127.0.0.1", 9000)).close()
    bind_error = ""
except OSError as error:
    bind_error = os.strerror(error.errno)

try:
    connection = socket.create_connection(("127.0.0.1", 9000), timeout=5)
    connected = True
except OSError:
    connected = False

# %%
%%container producer --get heard
import contextlib

listener.settimeout(5)
heard = ""
with contextlib.suppress(TimeoutError):
    accepted, address = listener.accept()
    heard = f"127.0.0.1, port {address[1]}"
    accepted.close()
listener.close()

# %%
outcome = f"it failed with “{bind_error}”" if bind_error else "it worked"
display(Markdown(
    f"The consumer tried to listen on 9000 as well: **{outcome}**. "
    f"It tried to connect: **{'it was accepted' if connected and heard else 'nobody was there'}**"
    + (f", and the producer saw a neighbour from {heard}. No port was published anywhere: "
       "inside a Pod there is nothing to map." if heard else ".")
))

# %% [markdown]
# ## Processes: everybody is number 1
#
# `/proc` has a directory for each process that a container can see.

# %%
%%containers producer consumer --get seen
import os
from pathlib import Path

seen = {
    int(entry.name): entry.joinpath("cmdline").read_text().replace("\0", " ")[:40].split("\n")[0]
    for entry in Path("/proc").iterdir() if entry.name.isdigit()
}
for pid, command in sorted(seen.items()):
    print(f"PID {pid}: {command}{'   <- this cell' if pid == os.getpid() else ''}")

# %%
counts = {name: len(found) for name, found in seen.items()}
every = sum(entry.isdigit() for entry in os.listdir("/proc"))
display(Markdown(
    f"The producer sees {counts['producer']} processes, the consumer {counts['consumer']}, and "
    f"the notebook {every}. "
    + ("Both have a PID 1, and it is not the same process: "
       if namespaces["producer"]["pid"] != namespaces["consumer"]["pid"] else
       "Both see the same PID 1: ")
    + "a PID means something only within its namespace. That is why a library for Pods must not "
    "use PIDs to find out whether the other side is alive."
))

# %% [markdown]
# `shareProcessNamespace: true` in the manifest would change exactly this: one PID namespace for
# all containers of the Pod. Then each sees the processes of the others and may send them signals
# if the user is the same, PID 1 is the Pod's own `pause` process, and `/proc/PID/root` leads to
# the files of another container. The default is `false`.
#
# ## Host name and IPC namespace
#
# The IPC namespace holds what has a key in place of a path: System V shared memory, semaphores
# and message queues. The producer makes a queue with key 42; the consumer looks for it.

# %%
%%container producer --get name_there,queue
import ctypes, os

libc = ctypes.CDLL(None, use_errno=True)
IPC_CREAT, IPC_RMID = 0o1000, 0
queue = libc.msgget(42, IPC_CREAT | 0o600)
name_there = os.uname().nodename

# %%
%%container consumer --get name_here,found
import ctypes, os

found = ctypes.CDLL(None).msgget(42, 0)
name_here = os.uname().nodename

# %%
in_notebook = ctypes.CDLL(None).msgget(42, 0)
display(Markdown(
    f"The queue is number {queue} in the producer; the consumer "
    f"{f'found number {found}' if found >= 0 else 'did not find it'}, and the notebook "
    f"{'found one, too' if in_notebook >= 0 else 'did not find it'}. "
    f"The producer's host name is `{name_there}`, the consumer's `{name_here}`: "
    + ("one UTS namespace." if name_there == name_here else
       "two UTS namespaces. In Kubernetes all containers of a Pod have the host name of the Pod; "
       "this runtime names them apart.")
))

# %%
%%container producer
# It would live until the Pod ends.
libc.msgctl(queue, IPC_RMID, None);

# %% [markdown]
# ## Files: what is mounted decides
#
# The mount namespace is private, but the same file system can be mounted in both. The producer
# leaves a file in three places; the consumer looks for it. A directory is known by two numbers:
# the device and the inode.

# %%
%%container producer --get left
import os

PLACES = ["/tmp", "/dev/shm", "/shared-mem"]
left = {}
for place in PLACES:
    try:
        with open(f"{place}/left-by-producer", "w") as file:
            file.write("x")
        left[place] = True
    except OSError as error:
        print(f"{place}: {error.strerror}")
        left[place] = False

# %%
%%container consumer --get there
import os

there = {p: os.path.exists(f"{p}/left-by-producer") for p in ["/tmp", "/dev/shm", "/shared-mem"]}
there

# %%
%%containers producer consumer --get directories
import contextlib, os

directories = {}
for place in ["/", "/tmp", "/dev/shm", "/shared-mem"]:
    info = os.stat(place)
    directories[place] = f"{info.st_dev}:{info.st_ino}"
    with contextlib.suppress(OSError):
        os.unlink(f"{place}/left-by-producer")  # whoever comes first

# %%
for place, was_left in left.items():
    verdict = "seen by the consumer" if there[place] else "not seen by the consumer"
    print(f"{place:12} {verdict if was_left else 'could not be written to, it is read-only'}")
if there["/tmp"]:
    print("\nThe runtime local has no images: its containers see the files of this machine, "
          "\n/tmp among them. With an image (podman, Kubernetes) each has a /tmp of its own.")

# %% [markdown]
# ## The whole picture
#
# `pod.facts()` asks all of this in each container at once. The figure has a row for each
# namespace and each directory. In a row, the same colour is the same thing; the numbers are the
# identities that you read above.

# %%
from podipc.lab.plots import chart

facts = pod.facts()
columns = ["producer", "consumer"]
ids = {kind: [str(facts.containers[name].namespaces[kind]) for name in columns]
       for kind in namespaces["producer"]}
ids |= {place: [directories[name][place] for name in columns] for place in directories["producer"]}
if same_machine:
    columns.append("this notebook")
    for row in ids:
        if row.startswith("/"):
            info = os.stat(row) if os.path.exists(row) else None
            ids[row].append(f"{info.st_dev}:{info.st_ino}" if info else "not there")
        else:
            ids[row].append(here[row].partition("[")[2].rstrip("]"))

# %%
EXPLAINED = {"cgroup": "names of cgroups", "ipc": "System V IPC", "mnt": "mounts",
             "net": "127.0.0.1 and ports", "pid": "processes", "time": "clock offsets",
             "user": "user numbers", "uts": "host name"}
kinds = [row for row in ids if row in EXPLAINED]
shared_kinds = [kind for kind in kinds if ids[kind][0] == ids[kind][1]]

chart.matrix(
    [f"{row} ({EXPLAINED[row]})" if row in EXPLAINED else row for row in ids],
    columns,
    list(ids.values()),
    groups=[[None if text == "not there" else text for text in row] for row in ids.values()],
    x="process (in which the number was read)",
    y="namespace or directory",
    title=f"The two containers share {len(shared_kinds)} of {len(kinds)} namespaces",
    caption="Identity of each namespace (inode) and directory (device:inode), read from inside. "
    "Same colour in a row: the same thing.",
    about=pod,
)

# %% [markdown]
# The same as a table, with the limits and the user of each container:

# %%
%pod facts

# %% [markdown]
# Which containers run, and what they use of their limits, is what `%pod status` says:

# %%
%pod status

# %% [markdown]
# ## In this notebook

# %%
pod_only = [kind for kind in shared_kinds if not same_machine or ids[kind][0] != ids[kind][2]]
private = [kind for kind in kinds if kind not in shared_kinds]
machine_wide = [kind for kind in shared_kinds if kind not in pod_only]
places = [place for place in directories["producer"] if ids[place][0] == ids[place][1]]
display(Markdown(
    f"- Question 1: the two containers share {len(shared_kinds)} of {len(kinds)} namespaces: "
    f"{', '.join(shared_kinds)}. Private are {', '.join(private)}.\n"
    + (f"- Of those shared, {', '.join(pod_only) or 'none'} belong to the Pod; "
       f"{', '.join(machine_wide) or 'none'} are those of the whole machine.\n"
       if same_machine else "")
    + f"- Question 2: a port is taken for both: listening twice {'failed' if bind_error else 'worked'}.\n"
    f"- Question 3: the main program is PID {min(seen['producer'])} in the producer and PID "
    f"{min(seen['consumer'])} in the consumer, each in its own namespace.\n"
    f"- These directories are the same in both: {', '.join(f'`{p}`' for p in places)}. "
    "`/dev/shm` needs no line in the manifest; a volume needs two."
))

# %% [markdown]
# ## Exercises
#
# 1. Two processes that measure a latency together need one clock. Show that
#    `time.monotonic_ns()` is the same clock in both containers, and not only about the same.
# 2. Send signal 0 (which does nothing, but checks whether the process can be reached) from the
#    consumer to every PID from 1 to 200. How many can it reach? Compare with what it sees.

# %% tags=["solution"]
# 1. What the producer reads lies between two readings of the notebook: no offset is possible
#    that is larger than the time between them. (On another machine it need not be so.)
before = time.monotonic_ns()
reading = {name: pod[name].run("import time; time.monotonic_ns()").unwrap() for name in counts}
after = time.monotonic_ns()
between = before < reading["producer"] < reading["consumer"] < after
print(f"in order: {between}, within {(after - before) / 1e6:.1f} ms")

# %% tags=["solution"]
# 2. A process of another PID namespace has no number here, so that there is nothing to name.
#    Threads have numbers of the same kind; those that it reaches besides are its own.
CODE = """
import os
reached = []
for number in range(1, 201):
    try:
        os.kill(number, 0)
        reached.append(number)
    except (ProcessLookupError, PermissionError):
        pass
processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
threads = sorted(int(name) for pid in processes for name in os.listdir(f"/proc/{pid}/task"))
{"reached": reached, "its processes": processes, "with their threads": threads}
"""
for what, numbers in pod["consumer"].run(CODE).unwrap().items():
    print(f"{what}: {numbers}")

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/shared-memory-pod.yaml](../k8s/pods/shared-memory-pod.yaml), and
#   [what the others show](../k8s/README.md)
# - The library: [README](../README.md)
# - Manual pages: namespaces(7), pid_namespaces(7), ipc_namespaces(7), network_namespaces(7),
#   shm_overview(7)
# - Kubernetes: [Pods](https://kubernetes.io/docs/concepts/workloads/pods/),
#   [Share Process Namespace between Containers in a
#   Pod](https://kubernetes.io/docs/tasks/configure-pod-container/share-process-namespace/)
# - Next: [02 localhost without port mappings](02_localhost_without_port_mappings.ipynb)

# %%
%pod down
