# %% [markdown]
# # 07 Files on a shared emptyDir
#
# The oldest way for two programs to exchange data is a file. In a Pod, both containers mount
# the same *emptyDir*: a volume that begins empty and ends with the Pod. It may lie on the disk
# of the node, or, with `medium: Memory`, in memory. This notebook asks what the difference is
# (less than one might think, because of the page cache), how a reader can see half a file, and
# how to make sure that it does not.
#
# **You will be able to**
#
# - say what kind of file system a volume really is;
# - say when bytes written to a file are on the disk, and what reading them costs before and
#   after;
# - hand over files so that a reader sees all of a file or nothing of it;
# - choose between disk and memory for a volume, and say what happens when it is full.
#
# **Predict first** (write a number down)
#
# 1. Writing 16 MiB to a file on disk with `write()`: how many times as long as to a file in
#    memory?
# 2. One container writes a file of 256 KiB every two milliseconds, the other reads it as often.
#    Of 100 reads, how many see a file that was never written that way?
# 3. At which size does handing over a tensor as a file on disk reach 1 GB/s?

# %%
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import yaml
from IPython.display import Markdown, display

import podipc.lab
from podipc.lab.plots import chart
from podipc.lab.spoken import duration, rate
from podipc.lab.table import size

%load_ext podipc.lab

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")
QUICK = podipc.lab.quick()  # PODIPC_QUICK=1: fewer repetitions
MIB = 1 << 20

# %% [markdown]
# ## One Pod, two volumes
#
# `k8s/pods/shared-memory-pod.yaml` has a volume that both containers mount at `/shared-mem`. We
# add a second one with `medium: Memory` at `/memory`. A size limit belongs to it: what is in it
# counts for the memory limits of the containers.

# %%
manifest = yaml.safe_load(Path("../k8s/pods/shared-memory-pod.yaml").read_text())
spec = manifest["spec"]
spec["volumes"].append({"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}})
for one in spec["containers"]:
    mounts = [*one["volumeMounts"], {"name": "memory", "mountPath": "/memory"}]
    one["volumeMounts"] = mounts
    one["resources"] = {"limits": {"memory": "512Mi"}}
place = tempfile.TemporaryDirectory()
PATH = Path(place.name, "two-volumes.json")  # JSON is YAML, too
PATH.write_text(json.dumps(manifest, indent=1));

# %%
%pod up {PATH} --runtime {RUNTIME}

# %% [markdown]
# What the volumes are is not for the manifest to say but for the kernel: it lists what is
# mounted where, and `statvfs` has the sizes. *tmpfs* is a file system in memory. Anything else
# has a device behind it.

# %%
%%container producer -o kinds,sizes
import os

kinds, sizes = {}, {}
for line in open("/proc/self/mounts"):
    device, path, kind, *_ = line.split()
    if path in ("/shared-mem", "/memory"):
        kinds[path], space = kind, os.statvfs(path)
        sizes[path] = space.f_blocks * space.f_frsize

# %%
ON_DISK = kinds["/shared-mem"] != "tmpfs"
NAMES = {
    "/shared-mem": f"disk ({kinds['/shared-mem']})" if ON_DISK else "no medium (tmpfs)",
    "/memory": f"Memory ({kinds['/memory']})",
}
if not ON_DISK:
    print("Both volumes are in memory on this machine: no difference is to be expected.")
{name: size(sizes[path]) for path, name in NAMES.items()}

# %% [markdown]
# ## The page cache
#
# `write()` to a file on disk does not write to the disk. It copies the bytes into the *page
# cache*, memory of the kernel, and returns. These pages are *dirty*: the disk does not have
# them yet. The kernel writes them back later, or when a program asks for it with `fsync()`.
# Reading a file takes its pages from the cache as well, if they are there. Only a *cold* read
# goes to the device. `posix_fadvise(DONTNEED)` drops clean pages, so that we can have one.
#
# The cell writes 16 MiB, waits for the device, and reads them back twice. It also asks the
# kernel how much it has fetched from the device for this process.

# %%
%%container producer
import time

import numpy as np

data = np.random.default_rng(0).integers(0, 256, 16 << 20, np.uint8)  # nothing to compress
buffer = np.empty_like(data)


def fetched():
    """Bytes that were read from devices for this process."""
    lines = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(lines["read_bytes"])


def read_all(file):
    os.lseek(file, 0, os.SEEK_SET)
    view = memoryview(buffer)
    while view and (count := os.readv(file, [view])):
        view = view[count:]

# %%
%%container producer
def steps(directory):
    """Nanoseconds of each step, and bytes fetched from the device by the cold read."""
    path, now, times = f"{directory}/probe", time.perf_counter_ns, {}
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def step(name, function, *arguments):
        began = now()
        function(*arguments)
        times[name] = now() - began

    step("write", os.write, file, data)
    step("fsync", os.fsync, file)
    step("warm read", read_all, file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    before = fetched()
    step("cold read", read_all, file)
    times["fetched"] = fetched() - before
    assert (buffer == data).all()
    os.close(file)
    os.unlink(path)
    return times


for path in ("/shared-mem", "/memory"):
    steps(path)  # warm-up

# %%
ROUNDS = 3 if QUICK else 15
measured = {path: [] for path in NAMES}
for _ in range(ROUNDS):
    for path in NAMES:  # in turn
        measured[path].append(pod["producer"].run(f"steps({path!r})").unwrap())

# %%
STEPS = ("write", "fsync", "warm read", "cold read")
times = {(path, step): [one[step] for one in measured[path]] for path in NAMES for step in STEPS}
median = {key: float(np.median(values)) for key, values in times.items()}
write_ratio = median["/shared-mem", "write"] / median["/memory", "write"]
chart.bars(
    {f"{NAMES[path]}: {step}": times[path, step] for step in STEPS for path in NAMES},
    x="time for 16 MiB (µs, ms)",
    x_axis="time",
    text=duration,
    title=f"write() to {NAMES['/shared-mem']} takes {write_ratio:.1f} times as long as to memory",
    caption=f"Median of {ROUNDS}, strokes: single values. write: into the page cache; fsync: "
    "until the device has it; cold: after posix_fadvise(DONTNEED).",
    about=pod,
)

# %%
def ratio(a, b):
    return f"{median[a] / median[b]:.1f} times"


disk, mem = NAMES["/shared-mem"], NAMES["/memory"]
fetch = {path: float(np.median([one["fetched"] for one in measured[path]])) for path in NAMES}
whole = "all of it" if fetch["/shared-mem"] >= 16 * MIB else "not all of it"
display(
    Markdown(
        f"""
- `write()` alone: {duration(median["/shared-mem", "write"])} on {disk},
  {duration(median["/memory", "write"])} on {mem}.
- `fsync()` on {disk} took {duration(median["/shared-mem", "fsync"])},
  {ratio(("/shared-mem", "fsync"), ("/shared-mem", "write"))} the time of the `write()`; on {mem}
  {duration(median["/memory", "fsync"])}, for there is no device.
- A cold read on {disk} took {ratio(("/shared-mem", "cold read"), ("/shared-mem", "warm read"))}
  the time of a warm one. It fetched {size(fetch["/shared-mem"])} from the device, {whole}. On
  {mem} it fetched {size(fetch["/memory"])}: there is no device to be cold for, and both
  reads are warm.
"""
    )
)

# %% [markdown]
# Both kinds of `write()` are copies into pages of memory. How fast they are depends on how the
# file system gets its pages: some take large pieces at once, tmpfs takes them one by one unless
# it is told otherwise. So a file on disk can even be the faster one.
#
# The device may have a cache of its own, or be a virtual one: then a cold read and `fsync()` are
# faster than on real hardware. But between two containers of a Pod nobody has to wait for the
# device. The reader finds the pages in the cache, and if the node dies, the Pod is gone as well.
#
# ## Half a file
#
# Writing a file takes time, and a reader may open it meanwhile. Here the producer writes a
# file of 256 KiB every two milliseconds, and the consumer reads it about as often. All bytes of
# a version are the same. So the consumer can tell whether what it has read was ever written:
# it is torn if bytes are missing or if they are not all the same. The producer does it in two
# ways:
#
# - **plain**: open the file, write it;
# - **write, then rename**: write another file beside it, then `rename()` it to the name. The
#   kernel replaces one file by the other in one step, and who has opened the old one, keeps it.

# %%
%%container producer
VERSIONS = [bytes([number]) * (256 << 10) for number in range(64)]


def plain(path, content):
    with open(path, "wb") as file:
        file.write(content)


def write_then_rename(path, content):
    plain(path + ".part", content)
    os.rename(path + ".part", path)


def rewrite(way, path, seconds):
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        way(path, VERSIONS[count % 64])
        count += 1
        time.sleep(0.002)

# %%
%%container consumer
import time

SIZE = 256 << 10


def look(path, seconds):
    """How many reads saw what; the kinds of torn files apart."""
    end = time.monotonic() + seconds
    seen = {"whole": 0, "empty": 0, "too short": 0, "mixed": 0}
    while time.monotonic() < end:
        with open(path, "rb") as file:
            found = file.read()
        if not found:
            kind = "empty"
        elif len(found) < SIZE:
            kind = "too short"
        else:
            kind = "whole" if found.count(found[0]) == SIZE else "mixed"
        seen[kind] += 1
        time.sleep(0.001)
    return seen

# %%
SECONDS, TURNS = (0.5, 1) if QUICK else (2.0, 3)
producer, consumer = pod["producer"], pod["consumer"]
seen = {}
for _ in range(TURNS):
    for way in ("plain", "write_then_rename"):
        for path in NAMES:
            file = f"{path}/frame"
            producer.run(f"write_then_rename({file!r}, VERSIONS[0])").check()  # it is there
            writing = producer.background(f"rewrite({way}, {file!r}, {SECONDS + 0.1})")
            found = consumer.run(f"look({file!r}, {SECONDS})").unwrap()
            writing.wait(60).check()
            before = seen.setdefault((way, path), dict.fromkeys(found, 0))
            seen[way, path] = {kind: before[kind] + found[kind] for kind in found}

# %%
KINDS = ("whole", "empty", "too short", "mixed")
rows = [f"| | reads | {' | '.join(KINDS)} | torn |", "|---" * 7 + "|"]
for (way, path), found in seen.items():
    reads = sum(found.values())
    torn = 1 - found["whole"] / reads
    counts = " | ".join(str(found[kind]) for kind in KINDS)
    name = f"{way.replace('_', ' ')}, {NAMES[path]}"
    rows.append(f"| {name} | {reads} | {counts} | {torn:.1%} |")
torn = {
    way: sum(sum(found.values()) - found["whole"] for (w, _), found in seen.items() if w == way)
    for way in ("plain", "write_then_rename")
}
reads = {way: sum(sum(f.values()) for (w, _), f in seen.items() if w == way) for way in torn}
display(
    Markdown(
        "\n".join(rows) + f"\n\nPlain writes: {torn['plain']} of {reads['plain']} reads were torn. "
        f"Write, then rename: {torn['write_then_rename']} of {reads['write_then_rename']}."
    )
)

# %% [markdown]
# An *empty* file was opened for writing and not yet written, a *short* one was read while it
# was written, a *mixed* one has parts of two versions. None of these is an error for the
# reader: `read()` succeeds. That is why programs that hand over files write them under another
# name first.
#
# ## Tensors as files
#
# `file:///DIR` does the same for tensors, with a queue: each tensor is a file, whole or not
# there, and is removed when it has been received. It works on every volume. How fast is it, on
# both of ours, and against shared memory? The time is from the first send to the last receive;
# the producer sends as fast as the consumer takes.

# %%
%%containers producer consumer
import time

import numpy as np
import podipc

ADDRESSES = {
    "/shared-mem": "file:///shared-mem/tensors",
    "/memory": "file:///memory/tensors",
    "shm": "shm://tensors",
}


def send_all(where, nbytes, count):
    tensor = np.full(nbytes, 7, np.uint8)
    with podipc.sender(ADDRESSES[where], max_bytes=48 << 20) as tx:
        for _ in range(8):  # warm-up: both have joined, memory has been touched
            tx.send(tensor, timeout=30)
        began = time.monotonic_ns()
        for _ in range(count):
            tx.send(tensor, timeout=30)
    return began


def receive_all(where):
    with podipc.receiver(ADDRESSES[where]) as rx:
        for tensor in rx:
            last, came = tensor[-1], time.monotonic_ns()  # a byte of it is looked at
    return came

# %%
SIZES = [4 << 10, 64 << 10, 1 << 20, 8 << 20] if QUICK else [1 << n for n in range(12, 25, 2)]
VOLUME, MOST, REPEATS = (16 * MIB, 100, 2) if QUICK else (128 * MIB, 400, 5)
rates = {where: {nbytes: [] for nbytes in SIZES} for where in (*NAMES, "shm")}
for _ in range(REPEATS):
    for nbytes in SIZES:
        count = max(4, min(MOST, VOLUME // nbytes))
        for where, found in rates.items():
            receiving = consumer.background(f"receive_all({where!r})")
            began = producer.run(f"send_all({where!r}, {nbytes}, {count})").unwrap()
            took = receiving.wait(60).unwrap() - began
            found[nbytes].append(count * nbytes / took * 1e9)

# %%
label = {path: f"file, {kinds[path]}" for path in NAMES} | {"shm": "shm"}
best = {where: max(map(np.median, found.values())) for where, found in rates.items()}
chart.lines(
    {label[where]: chart.percentiles(found, 0, 100) for where, found in rates.items()},
    x="size of the tensor (KiB, MiB)",
    y="throughput, one way (MB/s, GB/s)",
    x_axis="bytes",
    y_axis="rate",
    title=f"At best: file on {kinds['/shared-mem']} {rate(best['/shared-mem'])}, on "
    f"{kinds['/memory']} {rate(best['/memory'])}, shm {rate(best['shm'])}",
    caption=f"Median, least and most of {REPEATS}, taken in turn. From the first send to the last "
    f"receive of {size(VOLUME)}, or of {MOST} tensors if that is less.",
    about=pod,
)

# %%
def reaches(where, wanted=1e9):
    fast = [nbytes for nbytes, values in rates[where].items() if np.median(values) >= wanted]
    if fast == [nbytes for nbytes in SIZES if nbytes >= min(fast, default=0)]:
        return f"from {size(min(fast))} on"
    return f"at {', '.join(map(size, fast))}" if fast else "at no size"


small = SIZES[0]
per_file = {where: small / np.median(found[small]) * 1e9 for where, found in rates.items()}
display(
    Markdown(
        f"""
- 1 GB/s is reached by files on {disk} {reaches("/shared-mem")}, on {mem} {reaches("/memory")},
  by shared memory {reaches("shm")}.
- A tensor of {size(small)} took {duration(per_file["/shared-mem"])} on {disk},
  {duration(per_file["/memory"])} on {mem} and {duration(per_file["shm"])} over shared memory.
  With files, that is hardly the bytes: each file has to be made, renamed, opened and removed by
  system calls, and its pages are touched for the first time.
"""
    )
)

# %% [markdown]
# ## A full volume
#
# `sizeLimit` of a Memory volume is the size of the tmpfs: a write beyond it fails with ENOSPC,
# and the program goes on. (On disk nothing stops the program: a cluster evicts the Pod some
# time later.)

# %%
%%container consumer
large = podipc.receiver("file:///memory/large")

# %%
%%container producer -o full
import errno

written, failure = 0, "nothing failed"
try:
    with open("/memory/full", "wb", buffering=0) as file:
        while written < 256 << 20:
            written += file.write(data[: 1 << 20])
except OSError as error:
    failure = errno.errorcode[error.errno]
os.unlink("/memory/full")
full = [written, failure]

# %%
%%container producer -o refused
refused = "nothing was refused"
try:
    with podipc.sender("file:///memory/large", max_bytes=256 << 20) as tx:
        tx.send(np.broadcast_to(np.uint8(1), (80, 1 << 20)), timeout=30)
except podipc.PodipcError as error:
    refused = f"{type(error).__name__}: {error}"
print(refused)

# %%
%%container consumer
large.close()

# %%
display(
    Markdown(
        f"By hand: **{full[1]}** after {size(full[0])}. podipc, of a tensor of 80 MiB: "
        f"`{refused.split(':')[0]}`, before anything was written."
    )
)

# %% [markdown]
# ## In this notebook

# %%
display(
    Markdown(
        f"""
- The volume without a medium is {kinds["/shared-mem"]}, the one with `medium: Memory` is
  {kinds["/memory"]}; the kernel said so.
- `write()` took {write_ratio:.1f} times as long on the first as on the second: both copy into
  memory of the kernel, and differ by how its pages are got; `fsync()` took another {duration(median["/shared-mem", "fsync"])} and
  {duration(median["/memory", "fsync"])}.
- With plain writes {torn["plain"] / reads["plain"]:.1%} of the reads saw a file that never was;
  with write-then-rename {torn["write_then_rename"]} of {reads["write_then_rename"]} did.
- Tensors as files: up to {rate(best["/shared-mem"])} on {kinds["/shared-mem"]}, up to
  {rate(best["/memory"])} on {kinds["/memory"]}, without anything shared but a directory.
- A full Memory volume is an error that a program can handle: {full[1]} after {size(full[0])}.
"""
    )
)

# %% [markdown]
# ## Exercises
#
# **1.** The consumer has mapped a file into memory when the producer replaces it by rename. What
# does the consumer see, in the map and when it opens the file again?

# %% tags=["solution"]
producer.run("write_then_rename('/memory/mapped', b'old ' * 1024)").check()
mapped = consumer.run(
    "import mmap; file = open('/memory/mapped', 'rb'); "
    "view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); view[:3].decode()"
).unwrap()
producer.run("write_then_rename('/memory/mapped', b'new ' * 1024)").check()
still, again = consumer.run(
    "[view[:3].decode(), open('/memory/mapped', 'rb').read(3).decode()]"
).unwrap()
print(f"before: {mapped}; after the rename, in the map: {still}; opened again: {again}")
print("A file lives until its last name and its last user are gone.")

# %% [markdown]
# **2.** Not losing a file when the node loses power needs `fsync()` of the file, the rename, and
# `fsync()` of the directory. How many files of 4 KiB a second is that on each volume, against
# write-then-rename alone?

# %% tags=["solution"]
producer.run(
    """
def durable(path, content):
    with open(path + ".part", "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".part", path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)

def files_per_second(way, path, count):
    began = time.perf_counter()
    for _ in range(count):
        way(path, b"x" * 4096)
    return count / (time.perf_counter() - began)
"""
).check()
COUNT = 30 if QUICK else 200
for path, name in NAMES.items():
    quick, safe = (
        producer.run(f"files_per_second({way}, '{path}/small', {COUNT})").unwrap()
        for way in ("write_then_rename", "durable")
    )
    print(f"{name}: {quick:,.0f} files a second, with fsync {safe:,.0f}")

# %% [markdown]
# Some file systems (ext4 is one) begin to write a file back when it replaces another one by
# rename, so that a crash leaves one of the two whole. There the difference is smaller.

# %%
%pod down

# %%
place.cleanup()  # the file of the manifest

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/shared-memory-pod.yaml](../k8s/pods/shared-memory-pod.yaml); the
#   [README](../README.md) on `file:///DIR`.
# - Manual pages: `write(2)`, `fsync(2)`, `rename(2)`, `posix_fadvise(2)`, `tmpfs(5)`, `statfs(2)`.
# - Kubernetes: [emptyDir](https://kubernetes.io/docs/concepts/storage/volumes/#emptydir), and
#   [local ephemeral
#   storage](https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/).
