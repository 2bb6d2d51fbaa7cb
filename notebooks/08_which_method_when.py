# %% [markdown]
# # 08 Which method, when
#
# There are many ways to get a tensor from one container of a Pod into the other, and each has its
# advocates. Which one is right depends on the size of the tensor, on how often it comes, and on what
# the manifest may ask for. Here all of them are measured side by side, in the same two containers, with
# the same lines of Python around them; and from the figures and from what each method needs, a chart is
# drawn that answers the question.
#
# **You will be able to**
#
# - measure any set of methods and sizes with one call, and keep the results;
# - read latency, throughput, distribution, first use and CPU time, and know which of them you need;
# - say where one method overtakes another, and whether that is more than noise;
# - choose a method from what a container needs, and not from what somebody likes.
#
# **Predict first.** Write down your guess, then run the cells.
#
# 1. A tensor of 64 bytes over shared memory, and the same by HTTP POST on 127.0.0.1. How many times
#    longer does HTTP take?
# 2. From what size on is it worth to compute straight into shared memory, in place of copying into it?
# 3. For 4 MiB, is a file on disk faster or slower than a TCP connection on 127.0.0.1?

# %%
import itertools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import podipc.lab
from IPython.display import Markdown, display
from podipc.lab import plots, spoken, table
from podipc.lab.plots import chart

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")  # or podman, kubernetes
QUICK = podipc.lab.quick()

%load_ext podipc.lab

# %% [markdown]
# ## One round trip by hand
#
# Before a tool measures for us, one measurement by hand, so that it is clear what is in the numbers.
# A **round trip** is: the producer sends a tensor, the consumer takes it and sends eight bytes back, the
# producer has them. The clock of the producer measures the whole of it.

# %%
%pod up ../k8s/pods/compare.yaml --runtime {RUNTIME}

# %%
%%container consumer --background
import numpy as np
import podipc

for there, back in [("shm://t", "shm://b"), ("tcp://127.0.0.1:7001", "tcp://127.0.0.1:7002")]:
    with podipc.receiver(there) as rx, podipc.sender(back) as tx:
        for tensor in rx:                    # until the producer closes
            tx.send(np.uint64(tensor[0]), timeout=60)

# %%
%%container producer --get by_hand
import time
import numpy as np
import podipc

by_hand = {}
tensor = np.arange(4096, dtype=np.uint8)
for there, back in [("shm://t", "shm://b"), ("tcp://127.0.0.1:7001", "tcp://127.0.0.1:7002")]:
    times = []
    with podipc.sender(there) as tx, podipc.receiver(back) as rx:
        for _ in range(1000):
            began = time.perf_counter_ns()
            tx.send(tensor, timeout=60)
            rx.recv(timeout=60)
            times.append(time.perf_counter_ns() - began)
    by_hand[there] = times

# %%
Markdown("\n".join(
    f"- `{address}`: the first round trip took {spoken.duration(times[0])}, the median of the others is "
    f"{spoken.duration(float(np.median(times[1:])))}"
    for address, times in by_hand.items()
))

# %% [markdown]
# The first one finds the other side and touches memory that nobody has used: it is **cold**, all others
# are **warm**. So the two have to be told apart. And one run proves little: the machine does other
# things as well. So a comparison has to repeat, and to take turns.

# %%
%pod down

# %% [markdown]
# ## All of them
#
# `podipc.lab.compare` starts the same Pod and does this for every method and every size. The methods
# take turns, so that a disturbance falls on all alike. Each turn opens the method anew, measures the
# first round trip, checks tensors in every byte, measures warm round trips, and then a stream in one
# direction, as fast as it goes. **Peers** are what one might use in place of podipc: they are measured
# if they are installed (`pip install 'podipc[peers]'`).
#
# This is `podipc compare` on the command line; `podipc compare --list` says what each method is.

# %%
methods = ["shm", "shm-loan", "tcp", "unix", "http", "file", "file-disk", "zmq-ipc", "mp-pipe"]
if QUICK:
    results = podipc.lab.compare(methods, ["64", "4K", "256K", "4M"], RUNTIME, quick=True, repeat=2)
else:
    methods += ["shm-block", "fifo", "iceoryx2", "iceoryx2-loan", "zmq-tcp", "mp-queue", "mp-shm"]
    sizes = ["64", "4K", "64K", "512K", "4M", "16M"]
    results = podipc.lab.compare(methods, sizes, RUNTIME, repeat=3, rounds=500)
results

# %%
failed = {row.method: row.error for row in results.rows if row.error}
wrong = [row.method for row in results.rows if row.wrong]
checked = sum(row.checked_whole + row.checked_sampled for row in results.rows)
Markdown(
    f"{checked:,} tensors were checked at the other side; "
    + (f"wrong ones came over {', '.join(sorted(set(wrong)))}. " if wrong else "none was wrong. ")
    + ("Every method could be measured." if not failed else "Not measured: "
       + "; ".join(f"{method} ({error})" for method, error in failed.items()) + ".")
)

# %% [markdown]
# ## Latency: how long is a round trip?
#
# Both axes are logarithmic: each step is a factor. The line is the median, the band reaches from the
# 1st to the 99th percentile. First podipc's own methods.

# %%
kinds = {row.method: row.kind for row in results.rows if not row.error}
OWN = [method for method, kind in kinds.items() if kind == "podipc"]
PEERS = [method for method, kind in kinds.items() if kind == "peer"]
plots.latency(results, methods=OWN)

# %% [markdown]
# And two of them against the peers, whose lines are dashed.

# %%
if PEERS:
    display(plots.latency(results, methods=["shm", "shm-loan", *PEERS]))
else:
    print("Skipped: no peer could be measured, see above.")

# %%
frame = results.to_pandas()
frame = frame[frame["error"].isna()]                                 # what could be measured
p50 = frame.pivot(index="size", columns="method", values="p50_ns")   # a row a size, a column a method
smallest, largest = p50.index.min(), p50.index.max()
http_times = p50.loc[smallest, "http"] / p50.loc[smallest, "shm"]

Markdown("\n".join([
    f"At {table.size(smallest)} a round trip takes {spoken.duration(p50.loc[smallest, 'shm'])} over shm, "
    f"and {table.times(http_times)} times as long by HTTP. In the words of `podipc compare`:\n",
    *(f"- {text}" for text in table.crossovers(results)),
]))

# %% [markdown]
# "Faster" is said only where every repetition of one method beat every repetition of the other one, and
# the medians differ by a quarter at least. All else may be noise.
#
# ## Throughput: how much goes one way?
#
# Here the producer does not wait for answers. Small tensors cost time each, large ones cost time for
# their bytes: so the curves rise first, and then are flat, or fall where the caches of the CPU end. Not
# so those of loans, which move no bytes.

# %%
plots.throughput(results)

# %%
speed = frame.pivot(index="size", columns="method", values="bytes_per_s").dropna(axis=1, how="all")
tops = speed.max().sort_values(ascending=False)
at = speed.idxmax()
Markdown("The most that each method moved, and at what size: " + "; ".join(
    f"{method} {spoken.rate(tops[method])} at {table.size(at[method])}" for method in tops.index[:5]
) + f"; the least: {tops.index[-1]}, {spoken.rate(tops.iloc[-1])}. A loan moves no bytes at all: "
         "it is handed over, whatever its size.")

# %% [markdown]
# ## Distribution: how even is it?
#
# A median says nothing about the one request in a hundred that is late. Further left is faster, and a
# steep curve is an even one.

# %%
plots.distribution(results, methods=OWN)

# %%
tail = frame.assign(ratio=frame["p99_ns"] / frame["p50_ns"]).dropna(subset=["ratio"])
uneven = tail.loc[tail["ratio"].idxmax()]
even = tail.loc[tail["ratio"].idxmin()]
Markdown(
    f"Most even: {even['method']} at {table.size(even['size'])}, where p99 is "
    f"{even['ratio']:.1f} times the median. Least even: {uneven['method']} at "
    f"{table.size(uneven['size'])}, where one round trip in a hundred takes {uneven['ratio']:.0f} times "
    "the median or more."
)

# %% [markdown]
# ## First use: what does the first one cost?
#
# A job that sends a single tensor and ends never gets to the warm figures.

# %%
plots.cold(results, methods=OWN)

# %%
first = frame.pivot(index="size", columns="method", values="cold_ns")[OWN]
extra = (first / p50[OWN]).loc[largest].sort_values()
Markdown(
    f"At {table.size(largest)} the first round trip takes {table.times(extra.iloc[0])} times as long as a warm "
    f"one with {extra.index[0]}, and {table.times(extra.iloc[-1])} times as long with {extra.index[-1]}. The fastest "
    f"for a single tensor of that size is {first.loc[largest].idxmin()}, the fastest for many is "
    f"{p50[OWN].loc[largest].idxmin()}."
)

# %% [markdown]
# ## CPU time: what is left for your own work?
#
# A method that waits in a loop is fast and burns a CPU. What counts is the CPU time of both containers
# for the same number of bytes.

# %%
plots.cpu(results, methods=OWN)

# %% [markdown]
# ## Which method at which size and rate?
#
# The map below combines latency and throughput: at each size (left to right) and each rate (upwards), the
# method with the shortest round trip among those that can keep up with the rate at all.

# %%
plots.crossover(results)

# %% [markdown]
# ## A decision chart
#
# The fastest method is no use if the Pod cannot have it. So first: what does each one need, and what
# does it offer? This table is the contract of podipc, from the README, not a measurement.

# %%
PROPERTIES = {  # method: needs a volume, copies of a tensor, receivers, what waits when a receiver dies
    "shm-loan":  ("no", "none", "several", "goes to the next"),
    "shm":       ("no", "one", "several", "goes to the next"),
    "shm-block": ("no", "one", "several", "goes to the next"),
    "tcp":       ("no", "into and out of the kernel", "one", "is lost"),
    "unix":      ("yes", "into and out of the kernel", "one", "is lost"),
    "fifo":      ("yes", "into and out of the kernel", "one", "is lost"),
    "http":      ("no", "into and out of the kernel", "one", "is lost"),
    "file":      ("yes, of medium: Memory", "into a file and out of it", "several", "goes to the next"),
    "file-disk": ("yes", "into a file and out of it", "several", "goes to the next"),
}
HEAD = ["method", "needs a volume", "copies", "receivers", "when a receiver dies, what it had not taken"]
rows = [f"| {name} | {' | '.join(PROPERTIES[name])} |" for name in OWN if name in PROPERTIES]
Markdown("\n".join([f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *rows]) + """

Alike for all of them: tensors arrive whole, once, and in the order in which their sender sent them; they
reach containers of the same Pod only.""")

# %% [markdown]
# Now needs and measurements together. Each row is a need; the field says which of the methods that meet
# it has the shortest median round trip at that size. Less than a quarter apart is no difference: then it
# says the one that comes first in the table.

# %% tags=["thumbnail"]
def those(test):
    """Methods that were measured and whose properties pass."""
    return [m for m in OWN if m in PROPERTIES and test(m, *PROPERTIES[m])]

NEEDS = {
    "nothing in the way": those(lambda *_: True),
    "computed elsewhere already": those(lambda m, *_: m != "shm-loan"),
    "no shared memory": those(lambda m, volume, *_: not m.startswith("shm") and volume != "yes, of medium: Memory"),
    "no shared memory, no volume": those(lambda m, volume, *_: not m.startswith("shm") and volume == "no"),
    "kept on disk": those(lambda m, *_: m == "file-disk"),
    "another Pod": [],
}
def shortest(ways):
    """By size the method with the shortest median; of those as good as equal, the first in the table."""
    good = p50[ways].le(table.CLEAR * p50[ways].min(axis=1), axis=0)
    return good.idxmax(axis=1)

fastest = {need: shortest(ways) if ways else None for need, ways in NEEDS.items()}

def field(need, size):
    if fastest[need] is None:
        return "none"
    method = fastest[need][size]
    return f"{method}\n{spoken.duration(p50.loc[size, method])}"

chart.matrix(
    list(NEEDS), [table.size(size) for size in p50.index],
    [[field(need, size) for size in p50.index] for need in NEEDS],
    groups=[[None if ways is None else ways[size] for size in p50.index] for ways in fastest.values()],
    x="size of the tensor (B, KiB, MiB)", title="Which method, when", about=results,
    caption="The method with the shortest median round trip among those that meet the need of the row, "
            f"and that round trip. Within a factor of {table.CLEAR:g} they count as equal: then the one that "
            "comes first in the table above.",
)

# %% [markdown]
# The rows, from the top:
#
# - *nothing in the way*: any method will do. `shm-loan` counts only if you can compute into memory that
#   podipc lends.
# - *computed elsewhere already*: the tensor is an array that somebody else has made, and has to be copied.
# - *no shared memory*: each container has to pay for its own copy, as their limits may demand, so that
#   a volume in memory is not wanted either; one on disk can be had.
# - *no shared memory, no volume*: nothing but the network of the Pod.
# - *kept on disk*: what is on its way is too much for memory. It is not an archive: it outlives the
#   restart of one of the two containers, and is removed with the last one that has the address open.
# - *another Pod*: no method. Use the network, by the name of a Service: see notebook 10.

# %%
def spans(need):
    """Which method from where to where, in words."""
    found = []
    for method, sizes in itertools.groupby(p50.index, key=lambda size: fastest[need][size]):
        here = [table.size(size) for size in sizes]
        where = f"at {here[0]}" if len(here) == 1 else f"from {here[0]} to {here[-1]}"
        found.append(f"{method} {where}")
    return ", ".join(found)

Markdown("\n".join(f"- *{need}*: {spans(need)}" for need, ways in NEEDS.items() if ways))

# %% [markdown]
# ## Keep the results
#
# Results are saved as JSON, CSV or Parquet; nothing is lost. `load` reads them again, and `podipc plot`
# draws them on the command line. `podipc compare --output DIR` writes a report with every figure.

# %%
folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "results.json"
results.save(file)
again = podipc.lab.load(file)
print(f"{file.stat().st_size / 1000:.0f} kB; the same when loaded again: {again.to_json() == results.to_json()}")

# %%
!{sys.executable} -m podipc plot {file} --figure latency --output {folder.name}/latency.svg
print(sorted(path.name for path in Path(folder.name).iterdir()))

# %%
frame[["method", "size", "p50_ns", "p99_ns", "bytes_per_s", "noise"]].head(6)

# %% [markdown]
# ## In this notebook

# %%
gain = p50["shm"] / p50["shm-loan"]
worth = [size for size in gain.index if (gain.loc[size:] >= table.CLEAR).all()]
big = max(size for size in p50.index if size <= 4 << 20)
disk = p50.loc[big, "file-disk"] / p50.loc[big, "tcp"]
lines = [
    f"At {table.size(smallest)}, HTTP took {table.times(http_times)} times as long as shared memory.",
    f"Computing straight into shared memory was worth it from {table.size(worth[0])} on; at "
    f"{table.size(largest)} it was {table.times(gain[largest])} times as fast as copying."
    if worth else "Computing straight into shared memory was not worth it at any size measured.",
    f"At {table.size(big)} a file on disk was " + (
        "about as fast as TCP." if max(disk, 1 / disk) < table.CLEAR else
        f"{table.times(max(disk, 1 / disk))} times {'slower' if disk > 1 else 'faster'} than TCP."
    ),
    f"The best method was {fastest['nothing in the way'].iloc[0]} for the smallest tensors and "
    f"{fastest['nothing in the way'].iloc[-1]} for the largest.",
    "What a Pod may have comes first (a volume, shared memory, the same Pod), the figures come second.",
]
Markdown("\n".join(f"- {line}" for line in lines))

# %% [markdown]
# ## Exercises
#
# 1. Measure with real data in place of sizes: save scikit-learn's digits to a file, and give it to
#    `compare` as `input`. Which of `shm` and `http` is faster for one digit, and for all of them?
# 2. Measure `shm` and `tcp` at 4 KiB twice. How much do two runs of the same differ? Let
#    `plots.changes` judge.
#
# Solutions follow; unfold the cells to see them.

# %% tags=["solution"]
# 1. Every array of the file is a tensor that is sent. In a cluster the file has to be where the
#    container can read it; elsewhere it is mounted.
from sklearn.datasets import load_digits

digits = load_digits().images
np.savez(Path(folder.name) / "digits.npz", one=digits[0], all=digits)
if RUNTIME == "kubernetes":
    print("Skipped: in a cluster the file has to be on a volume of the Pod or in its image.")
else:
    real = podipc.lab.compare(
        ["shm", "http"], runtime=RUNTIME, input=Path(folder.name) / "digits.npz", quick=True, repeat=2
    )
    for row in real.rows:
        if row.tensor != "*" and row.percentile(50):
            took = spoken.duration(row.percentile(50))
            print(f"{row.method:5} {row.tensor:4} {table.size(row.size):>9} {took:>9}")

# %% tags=["solution"]
# 2. A change counts only if it is larger than what the repetitions of both runs differ by.
once, twice = (
    podipc.lab.compare(["shm", "tcp"], ["4K"], RUNTIME, quick=True, repeat=3) for _ in range(2)
)
plots.changes(twice, against=once)

# %% [markdown]
# ## Links
#
# - The manifest: [`compare.yaml`](../k8s/pods/compare.yaml). The properties:
#   [addresses](../README.md#addresses), [what you may rely on](../README.md#what-you-may-rely-on),
#   [limits](../README.md#limits)
# - `podipc compare --help`, `podipc plot --help`, `help(podipc.lab.compare)`
# - man pages: `shm_overview(7)`, `unix(7)`, `tcp(7)`, `fifo(7)`, `futex(7)`
# - [Communicate between containers in the same Pod](https://kubernetes.io/docs/tasks/access-application-cluster/communicate-containers-same-pod-shared-volume/)
#   and [emptyDir](https://kubernetes.io/docs/concepts/storage/volumes/#emptydir)
