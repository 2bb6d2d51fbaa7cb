# %% [markdown]
# # 06 Shared memory: tensors without copies
#
# Two containers of a Pod run on one machine, and so the bytes of a tensor are in a memory that
# both could read. Most ways of sending copy them nevertheless: into a pipe or a socket, and out
# of it again. **Shared memory** is a piece of memory that both processes have in their address
# space. Then a tensor need not move; all that moves is the news that it is there.
#
# **You will be able to**
#
# - hand a tensor from one container to another without copying it;
# - prove that it was not copied, from the addresses of its memory;
# - choose between the read-only, the writable and the private way to receive it;
# - say what a copy costs, from 4 KiB on, and what the first touch of memory costs.
#
# **Predict first.** Write down a number for each, then run the cells.
#
# 1. A tensor of 4 KiB is handed over within some microseconds. How long does it take for one of
#    16 MiB, which is 4096 times as large, without a copy? And through a pipe?
# 2. The consumer writes into a tensor that it received. Does the producer see it?
# 3. The consumer may write into its own view of a tensor of 1024 pages, and changes one number.
#    How much memory does this cost?

# %%
import os

import numpy as np
from IPython.display import Markdown, display

import podipc.lab
from podipc.lab.plots import chart
from podipc.lab.spoken import duration

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")  # or podman, kubernetes
QUICK = podipc.lab.quick()

%load_ext podipc.lab

# %% [markdown]
# ## Two containers
#
# The manifest has a producer and a consumer, and no volume. All containers of a Pod share
# `/dev/shm`, where the two find each other.

# %%
%pod up ../k8s/pods/tensor-pod.yaml --runtime {RUNTIME}

# %% [markdown]
# ## Hand over one tensor
#
# First a function for both containers, which says where in memory an array is. We come to what
# it finds below.

# %%
%%containers producer consumer
import numpy as np, podipc

def place(array):
    """The address of an array, and which file is mapped there, from /proc/self/maps."""
    address = array.__array_interface__["data"][0]
    for line in open("/proc/self/maps"):
        span, _, offset, device, inode, *name = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return {"address": hex(address), "file": name[0], "inode": f"{device} {inode}",
                    "offset": int(offset, 16) + address - start}

# %% [markdown]
# The producer borrows an array from its sender: `tx.empty` gives a NumPy array whose memory can
# be shared. It computes into it. The sending comes later, for a sender waits until somebody
# receives.

# %%
%%container producer
tx = podipc.sender("shm://frames")
a = tx.empty((1024, 1024), "float32")   # 4 MiB, 1024 pages of 4 KiB
a[:] = np.arange(1024)
view = a[:]                             # kept for an experiment below

# %%
%%container consumer
rx = podipc.receiver("shm://frames")

# %%
%%container producer --get sent
tx.send(a, timeout=30)
sent = place(a)

# %%
%%container consumer --get received
x = rx.recv(timeout=30)
received = place(x)
print(x.shape, x.dtype, "the last row ends with", x[-1, -1])

# %% [markdown]
# ## Proof 1: the addresses
#
# Each process has addresses of its own, so that the same memory has a different address in each.
# But `/proc/self/maps` also says which file is mapped at an address. Memory without a name on
# any disk (a *memfd*) has an inode, too. The same inode and the same offset are the same bytes.

# %%
print(f"{'':10}{'producer':24}{'consumer':24}")
for key in sent:
    print(f"{key:10}{sent[key]!s:24.23}{received[key]!s:24.23}")
same = (sent["inode"], sent["offset"]) == (received["inode"], received["offset"])
display(Markdown(
    f"The addresses are {'equal by chance' if sent['address'] == received['address'] else 'different'}, "
    f"inode and offset are **{'the same: it was not copied' if same else 'different: it was copied'}**."
))

# %% [markdown]
# ## Proof 2: write on one side, read on the other
#
# After `send` the producer's array is read-only: what was sent should not change any more. The
# view that was made before the sending can still write. A program must not do this; here it shows
# that there is only one memory.

# %%
%%container producer --get still_writable
still_writable = a.flags.writeable
view[0, 0] = 42

# %%
%%container consumer --get seen,refusal
seen = float(x[0, 0])
try:
    x[0, 0] = 1
    refusal = ""
except ValueError as error:
    refusal = str(error)

# %%
display(Markdown(
    f"After sending, the producer's array is {'writable' if still_writable else 'read-only'}. "
    f"It wrote 42 through the old view, and the consumer read **{seen:g}** from an array that it had "
    f"received before. The consumer's own attempt to write "
    + (f"was refused: “{refusal}”. This is not only a flag of NumPy's: the pages are mapped "
       "read-only, and a seal on the memory keeps the consumer from mapping it in another way."
       if refusal else "worked.")
))

# %% [markdown]
# ## Views, and when the memory returns
#
# A slice of a received array is a view: it needs no memory of its own, and it keeps the memory of
# the whole array in use. `rx.stats()` counts the arrays that are held.

# %%
%%container consumer --get shares,held
rows = x[::2]
shares = np.shares_memory(rows, x)
held = [rx.stats()["held"]]
del x
held.append(rx.stats()["held"])   # the view is still there
del rows
held.append(rx.stats()["held"])

# %%
%%container producer --get held_there
import time

deadline = time.monotonic() + 5
while tx.stats()["held"] and time.monotonic() < deadline:  # the news takes a moment
    time.sleep(0.001)
held_there = tx.stats()["held"]

# %%
display(Markdown(
    f"`np.shares_memory` of the slice and the array: {shares}. Arrays held by the consumer: "
    f"{held[0]} at first, {held[1]} after `del x`, {held[2]} after the last view was gone; "
    f"then {held_there} as the producer counts. "
    + ("The memory is the producer's again, to be lent once more."
       if held_there == 0 else "The memory has not returned.")
))

# %% [markdown]
# ## Received to be written to: only touched pages are copied
#
# `recv(writable=True)` maps the same memory *copy-on-write*: reading is shared, and a page
# (4 KiB) is copied at the moment when it is first written to. The kernel counts these pages as
# `Private_Dirty` in `/proc/self/smaps`.

# %%
%%container producer
b = tx.empty((1024, 1024), "float32")
b[:] = 1
tx.send(b, timeout=30);

# %%
%%container consumer --get private_kib,shared_numpy
def private(array):
    """KiB of the mapping at this array that are this process's alone."""
    address = array.__array_interface__["data"][0]
    inside = False
    for line in open("/proc/self/smaps"):
        key, *rest = line.split()
        if "-" in key and not key.endswith(":"):
            start, end = (int(part, 16) for part in key.split("-"))
            inside = start <= address < end
        elif inside and key == "Private_Dirty:":
            return int(rest[0])

y = rx.recv(timeout=30, writable=True)
private_kib = {0: private(y)}
for pages in [1, 4, 16, 64, 256, 1024]:
    y[:pages, 0] = 7          # a row has 1024 numbers of 4 bytes: one page
    private_kib[pages] = private(y)
shared_numpy = np.shares_memory(np.from_dlpack(y), y)

# %%
%%container producer --get unchanged
unchanged = bool((b == 1).all())

# %%
touched = list(private_kib)
kib = [private_kib[pages] for pages in touched]
chart.lines(
    {"measured": (touched, kib), "everything copied": (touched, [4096] * len(touched))},
    x="rows that were written to (of 1024, each a page)",
    y="private memory of the consumer (KiB)",
    title=f"One number written cost {kib[1]} KiB, 256 rows {private_kib[256]} KiB of 4096",
    caption="Private_Dirty of the mapping in /proc/self/smaps after one number was written in "
    "so many rows. Dashed: what a copy of the whole tensor would take.",
    about=pod,
)

# %%
display(Markdown(
    f"Before the first write the consumer had {kib[0]} KiB of its own, and {kib[-1]} KiB after it "
    f"had written into every row. The producer's array is "
    f"**{'unchanged' if unchanged else 'changed'}**: what the consumer wrote is its own, and is "
    "gone with its array. For a copy from the start there is `recv(copy=True)`."
))

# %% [markdown]
# ## Torch and others: DLPack
#
# DLPack is how libraries pass tensors to each other without a copy. NumPy, torch, JAX and CuPy
# have it. A tensor that was received is an ordinary NumPy array, so all of them can take it.
# Torch has no read-only tensors, so give it an array that was received with `writable=True`.

# %%
%%container consumer --get torch_says
try:
    import torch
    torch_says = f"torch {torch.__version__}: same address: {torch.from_numpy(y).data_ptr() == y.ctypes.data}"
except ImportError:
    torch_says = "torch is not installed in this container"

# %%
print(f"NumPy through DLPack: shares memory: {shared_numpy}")
print(torch_says)

# %% [markdown]
# ## Flat hand-off, growing copy
#
# Now the costs. Four ways to get the same bytes from the producer to the consumer:
#
# - **loan**: `tx.empty`, `tx.send`: no copy;
# - **one copy**: `tx.send` of an array that is elsewhere: copied into shared memory, once;
# - **tcp**: a socket on 127.0.0.1: into the kernel and out of it;
# - **pickle**: `multiprocessing.connection`, as many programs do it: pickled, through a Unix
#   socket, unpickled.
#
# In the time: getting the memory to send (for the loan), sending, receiving, letting go of what
# was received, and an answer of one byte, which always comes back through shared memory. Not in
# the time: computing the content. The ways take turns, so that a disturbance of the machine hits
# all of them. In its turn each way is used four times, and the first time does not count: then
# the caches are full of what another way has copied. `?wait=spin` keeps both sides awake while
# they wait: what it costs to be woken up is another matter (notebook 05), and would hide this one.

# %%
SIZES = [1 << power for power in ([12, 15, 18, 21, 24] if QUICK else range(12, 25))]
ROUNDS, TURN = 4 if QUICK else 30, 4
WAYS = ["loan", "one copy", "tcp", "pickle"]

# %%
%%container consumer --background --send SIZES,ROUNDS,TURN,WAYS
from multiprocessing.connection import Listener

frames = podipc.receiver("shm://measured?wait=spin")
stream = podipc.receiver("tcp://127.0.0.1:9001")
answers = podipc.sender("shm://answers?wait=spin")
with Listener("/dev/shm/pickled.sock") as listener, listener.accept() as pickled:
    take = {"loan": frames.recv, "one copy": frames.recv, "tcp": stream.recv,
            "pickle": pickled.recv}
    for size in SIZES:
        for _ in range(ROUNDS):
            for way in [way for way in WAYS for _ in range(TURN)]:
                array = take[way]()
                last = array[-1:].copy()   # its last byte, as a proof that it is there
                del array                  # in the time of this way, not of the next
                answers.send(last)
for channel in (frames, stream, answers):
    channel.close()
print("measured", len(SIZES), "sizes")

# %%
%%container producer --send SIZES,ROUNDS,TURN,WAYS --get times
import os, time
from multiprocessing.connection import Client

while not os.path.exists("/dev/shm/pickled.sock"):
    time.sleep(0.01)
frames, stream = podipc.sender("shm://measured?wait=spin"), podipc.sender("tcp://127.0.0.1:9001")
answers = podipc.receiver("shm://answers?wait=spin")
pickled = Client("/dev/shm/pickled.sock")

def lend(array):
    out = frames.empty(array.shape, array.dtype)
    out[-1] = array[-1]      # computing the rest is not what is measured
    frames.send(out)

give = {"loan": lend, "one copy": frames.send, "tcp": stream.send, "pickle": pickled.send}
times = {way: {size: [] for size in SIZES} for way in WAYS}
for size in SIZES:
    array = np.ones(size, "uint8")
    for number in range(ROUNDS):
        for way, repeat in [(way, repeat) for way in WAYS for repeat in range(TURN)]:
            array[-1] = number + repeat
            start = time.perf_counter_ns()
            give[way](array)
            answer = answers.recv(timeout=60)
            took = time.perf_counter_ns() - start
            assert answer[0] == number + repeat
            if repeat > 0:
                times[way][size].append(took)
for channel in (frames, stream, answers, pickled):
    channel.close()

# %% tags=["thumbnail"]
median = {way: {size: float(np.median(t)) for size, t in times[way].items()} for way in WAYS}
small, large = SIZES[0], SIZES[-1]
growth = {way: median[way][large] / median[way][small] for way in WAYS}
slowest = max(WAYS, key=lambda way: median[way][large])

chart.lines(
    {way: chart.percentiles(times[way]) for way in WAYS},
    x="size of the tensor (KiB, MiB)",
    y="there, and one byte back (µs, ms)",
    x_axis="bytes",
    y_axis="time",
    title=f"{large >> 20} MiB: {duration(median['loan'][large])} as a loan, "
    f"{duration(median[slowest][large])} by {slowest}",
    caption=f"Line: median of {ROUNDS * (TURN - 1)}; band: p1 to p99. Computing the content is not in the time.",
    about=pod,
)

# %%
def speed(way):
    """GB/s, from the time that the larger of the two sizes takes longer."""
    return (large - small) / (median[way][large] - median[way][small])

display(Markdown(
    f"The tensor grew {large // small} times, from {small >> 10} KiB to {large >> 20} MiB. "
    f"The time of the loan grew **{growth['loan']:.1f} times**, "
    + ", ".join(f"of {way} {growth[way]:.0f} times" for way in WAYS[1:])
    + ".\n\n"
    + "A copy has a speed: "
    + ", ".join(f"{way} {speed(way):.1f} GB/s" for way in WAYS[1:] if growth[way] > 2)
    + ". A loan has none, "
    + ("for it moves no bytes."
       if growth["loan"] < 3 and median["loan"][large] == min(of[large] for of in median.values())
       else "for it moves no bytes; that it took so long nevertheless may be due to a busy machine: "
       "run the two cells again.")
))

# %% [markdown]
# ## The first touch costs
#
# Memory that nobody has used yet is not there yet: the kernel finds and clears each page when it
# is first needed. A sender keeps the memory that comes back and lends it again, so that this is
# paid once. An ordinary array of 40 MiB goes back to the kernel when it is gone (up to 32 MiB the
# C library may keep it), so that the next one is new again.

# %%
%%container producer --send QUICK --get fills
import gc

SIZE, REPEAT = 40 << 20, 5 if QUICK else 20
fills = {"first loan": [], "loan again": [], "np.empty": []}

def timed(label, make):
    start = time.perf_counter_ns()
    array = make()
    array[:] = 1
    fills[label].append(time.perf_counter_ns() - start)

for _ in range(REPEAT):
    with podipc.sender("shm://cold") as cold:  # nobody receives; it only lends
        for label in ["first loan", "loan again"]:
            timed(label, lambda: cold.empty(SIZE, "uint8"))
            gc.collect()     # the array is gone, its memory back with the sender
    timed("np.empty", lambda: np.empty(SIZE, "uint8"))

# %%
fill = {label: float(np.median(values)) for label, values in fills.items()}
chart.bars(
    {label: np.array(values) / 1e6 for label, values in fills.items()},
    x="to get an array of 40 MiB and fill it (ms)",
    text=lambda ms: duration(ms * 1e6),
    title=f"The first loan of 40 MiB took {fill['first loan'] / fill['loan again']:.1f} times as "
    "long as the next",
    caption=f"Bars: median; strokes: each of {len(fills['np.empty'])} times. In turns; each time a "
    "new sender, its first loan and its second.",
    about=pod,
)

# %%
ratio = fill["np.empty"] / fill["loan again"]
display(Markdown(
    f"Filling a loan for the second time took {duration(fill['loan again'])}, which is the writing alone; "
    f"an ordinary array took {ratio:.1f} times as long each time. "
    + ("It is new to the process each time, and its pages have to be found first."
       if ratio > 2 else "Here finding its pages took no longer than the writing.")
    + f" The first loan ({duration(fill['first loan'])}) and the ordinary array "
    f"({duration(fill['np.empty'])}) are both touched for the first time. They need not cost the same: "
    "pages of shared memory belong to a file in memory, those of an array to one process alone, and "
    "the kernel may give either in large pieces (huge pages) or one by one."
))

# %% [markdown]
# ## In this notebook

# %%
display(Markdown(
    f"- A tensor in shared memory was {'the same memory' if same else 'not the same memory'} in both "
    f"containers: inode and offset were {'equal' if same else 'different'}.\n"
    f"- Question 1: handing over {large >> 20} MiB took {duration(median['loan'][large])} as a loan, "
    f"{duration(median['one copy'][large])} with one copy, {duration(median['tcp'][large])} over tcp and "
    f"{duration(median['pickle'][large])} pickled.\n"
    f"- Question 2: a received array {'is read-only' if refusal else 'can be written to'}; received "
    f"with `writable=True`, what was written left the producer's array "
    f"{'unchanged' if unchanged else 'changed'}.\n"
    f"- Question 3: one number written cost {kib[1]} KiB.\n"
    f"- The memory returned when the last view was gone: {held[0]} held, then {held[2]}.\n"
    f"- The first touch of memory took {fill['first loan'] / fill['loan again']:.1f} times as long "
    "as the second use of it."
))

# %% [markdown]
# ## Exercises
#
# 1. `/dev/shm` of a Pod has 64 MiB unless the manifest says otherwise. Send a tensor of 96 MiB
#    over `shm://`. Does it work, and how full is `/dev/shm` meanwhile?
# 2. A consumer that keeps every array it gets keeps the producer's memory. Give a sender a budget
#    of 16 MiB (`max_bytes`), send arrays of 4 MiB to a consumer that keeps them all, and see what
#    the producer is told. Let the consumer drop one, and send again.

# %% tags=["solution"]
# 1. The memory of a tensor has no name in /dev/shm (it is a memfd); only the place where the two
#    meet is there. It counts for the memory limit of the container that touches it first.
pod["producer"].run("del a, b, view; large = tx.empty(96 << 20, 'uint8'); large[:] = 5").check()
pod["producer"].run("tx.send(large, timeout=30); del large").check()
LOOK = """
import os
z = rx.recv(timeout=30)
disk = os.statvfs("/dev/shm")
result = [z.nbytes >> 20, int(z[-1]), disk.f_blocks * disk.f_frsize / 2**20,
          disk.f_bfree * disk.f_frsize / 2**20]
del z
result
"""
mib, last, total, free = pod["consumer"].run(LOOK).unwrap()
print(f"received {mib} MiB, the last byte is {last}; /dev/shm: {free:.1f} of {total:.1f} MiB are free")

# %% tags=["solution"]
# 2. Room comes back when the consumer lets go. Until then the sender waits, here for 0.5 s.
pod["consumer"].run("hoard = podipc.receiver('shm://hoard'); kept = []").check()
pod["producer"].run("hoard = podipc.sender('shm://hoard', max_bytes=16 << 20)").check()
SEND = "hoard.send(np.zeros(4 << 20, 'uint8'), timeout=0.5)"
for number in range(8):
    outcome = pod["producer"].run(SEND)
    if outcome.error is not None:
        break
    pod["consumer"].run("kept.append(hoard.recv(timeout=5))").check()
print(f"{number} arrays were kept, then: {str(outcome.error).splitlines()[0] if outcome.error else 'sent'}")
pod["consumer"].run("del kept[0]").check()
again = pod["producer"].run(SEND)
print("after one was dropped:", "sent" if again.error is None else again.error)

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/tensor-pod.yaml](../k8s/pods/tensor-pod.yaml), and
#   [what the others show](../k8s/README.md)
# - The library: [README](../README.md); how shared memory is laid out:
#   [csrc/README](../csrc/README.md)
# - Manual pages: memfd_create(2), mmap(2), fcntl(2) (file seals), proc(5) (maps, smaps),
#   shm_overview(7)
# - [DLPack](https://dmlc.github.io/dlpack/latest/python_spec.html); Kubernetes:
#   [emptyDir](https://kubernetes.io/docs/concepts/storage/volumes/#emptydir)
# - Next: [07 Files on a shared emptyDir](07_files_on_a_shared_emptydir.ipynb)

# %%
%pod down
