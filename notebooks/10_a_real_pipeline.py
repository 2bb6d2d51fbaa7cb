# %% [markdown]
# # 10 A real pipeline, and leaving the Pod
#
# A model in production seldom gets its data as it needs them. One program prepares them, another
# has the model. Put into two containers of a Pod, each has its own image, limits and restarts; but
# now every batch has to travel from one to the other. Here you build such a pipeline for handwritten
# digits, with a model of scikit-learn, and find out how much of the time the travelling takes. Then
# you pull it apart, into two Pods, and see what that costs.
#
# **You will be able to**
#
# - build a pipeline of two containers in which the method is a string;
# - read a Gantt chart: which container works when, and which one waits;
# - tell how much of the time is transport and how much is computing, and so whether another method
#   would help;
# - say what changes when the other side is in another Pod.
#
# **Predict first.** Write down your guess, then run the cells.
#
# 1. A batch of 500 images has 1.6 MB. Computing on it takes a few milliseconds. What percentage of
#    the time goes into moving it, over shared memory, TCP, HTTP, and files on disk?
# 2. Both containers compute. By what factor is the pipeline faster than one process that does both
#    steps in turn, if it is faster at all?
# 3. The same request over HTTP, to a container of the same Pod and to another Pod on the same
#    machine: how many times longer does the second one take?

# %%
import itertools
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import podipc
import podipc.lab
import podipc.pod
from IPython.display import Markdown, display
from podipc.lab import plots, timeline
from podipc.lab.plots import chart
from sklearn.datasets import load_digits

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")  # or podman, kubernetes
QUICK = podipc.lab.quick()

%load_ext podipc.lab

# %% [markdown]
# ## The Pod
#
# [`k8s/pods/pipeline.yaml`](../k8s/pods/pipeline.yaml) has a container `preprocess` and a container
# `model`. The model is
# one of scikit-learn, which the runtime `local` takes from this machine. Real
# containers need an image that has it: the one of `k8s/image/Containerfile.lab`.

# %%
copies = tempfile.TemporaryDirectory()
numbers = itertools.count(1)

def copy_of(manifest, image=None):
    """A manifest whose Pods have names of their own: others may run it at the same time."""
    text, number = Path(manifest).read_text(), next(numbers)
    for name in ("pipeline", "server", "client"):
        own = f"{name}-{os.getpid()}-{number}"
        text = text.replace(f"\n  name: {name}\n", f"\n  name: {own}\n")
    if image is not None:
        text = text.replace("localhost/podipc:latest", image)
    copy = Path(copies.name) / f"{number}.yaml"
    copy.write_text(text)
    return copy

WITH_SKLEARN = os.environ.get("PODIPC_LAB_IMAGE", "localhost/podipc-lab:latest")
MANIFEST = copy_of("../k8s/pods/pipeline.yaml", None if RUNTIME == "local" else WITH_SKLEARN)

# %%
%pod up {MANIFEST} --runtime {RUNTIME}

# %% [markdown]
# ## The data
#
# 1797 digits, written by 13 people, scanned, and reduced to 8 by 8 pixels of 17 shades of grey: the
# test set of the UCI digits, whose training set is from 30 others. They come with scikit-learn. 500 of them are for the test; the model never sees these while it learns.

# %%
digits = load_digits()
scans = digits.images.astype(np.uint8)
order = np.random.default_rng(0).permutation(len(scans))
test, train = order[:500], order[500:]

train_scans, train_labels = scans[train], digits.target[train]
test_scans, test_labels = scans[test], digits.target[test]
print(f"{len(train)} to learn from, {len(test)} for the test; a scan is {scans[0].shape}, {scans.dtype}")

# %% [markdown]
# ## The two steps
#
# The first step makes of each scan what the model expects: 28 by 28 pixels, and the contrast the same
# all over the image, so that a light pen counts as much as a dark one. Enlarging and blurring are
# products with a matrix from the left and from the right. Both containers get the function, for later
# we also want to know how fast one process is that does everything. A `Recorder` notes when something
# began and ended.

# %%
%%containers preprocess model
import time
import numpy as np
import podipc
from podipc.lab.timeline import Recorder

clock = Recorder(CONTAINER)

rows = np.arange(28)
places = np.linspace(0, 7, 28)                                # of 28 rows among the 8 of a scan
enlarge = np.maximum(0, 1 - abs(places[:, None] - np.arange(8))).astype(np.float32)
blur = (abs(rows[:, None] - rows) <= 4) / np.float32(9)       # the mean of nine rows

def prepare(batch, out=None):
    """Scans of 8 by 8, from 0 to 16, as images of 28 by 28 of even contrast."""
    image = enlarge @ (batch / np.float32(16)) @ enlarge.T
    image -= blur @ image @ blur.T
    spread = np.sqrt(blur @ np.square(image) @ blur.T)
    return np.divide(image, spread + np.float32(0.05), out=out)

# %% [markdown]
# The images to learn from go the way that all later ones go: prepared in one container, used in the
# other. With `--background` the cell goes on while the next one runs.

# %%
%%container preprocess --background --send train_scans
with podipc.sender("shm://train") as tx:
    tx.send(prepare(train_scans), timeout=60)

# %%
%%container model --send train_labels --get layers
from sklearn.neural_network import MLPClassifier

with podipc.receiver("shm://train") as rx:
    images = rx.recv(timeout=60)
    classifier = MLPClassifier(hidden_layer_sizes=(128,), learning_rate_init=0.005,
                               early_stopping=True, n_iter_no_change=5, random_state=0)
    classifier.fit(images.reshape(len(images), -1), train_labels)
    del images                                                # its memory goes back to the sender

layers = [*zip(classifier.coefs_, classifier.intercepts_)]    # for later: all that was learned
print(f"{classifier.n_iter_} rounds, {sum(w.size + b.size for w, b in layers):,} numbers learned")

# %% [markdown]
# ## The pipeline
#
# `feed` prepares a batch, sends it, and takes the answers. With `ahead=1` it waits for the answer to
# each batch before it prepares the next: nothing overlaps, so that the parts of the time can be told
# apart. With `ahead=3` there are up to three batches on the way, and both containers work at the same
# time. With `loan=True` the images are computed straight into shared memory: nothing is copied.

# %%
%%container preprocess --send test_scans
def feed(batches_to, answers_from, rounds, ahead, loan):
    """Nanoseconds that it took, and the last answer."""
    with podipc.sender(batches_to) as tx, podipc.receiver(answers_from) as rx:
        for count in (5, rounds):                             # the first five warm everything up
            clock.events.clear()
            began = time.monotonic_ns()
            for n in range(count):
                if loan:
                    with tx.loan((len(test_scans), 28, 28), "float32", timeout=60) as batch:
                        with clock.span(f"prepare {n}"):
                            prepare(test_scans, out=batch)
                else:
                    with clock.span(f"prepare {n}"):
                        batch = prepare(test_scans)
                    with clock.span(f"send {n}"):
                        tx.send(batch, timeout=60)
                if n >= ahead - 1:
                    labels = rx.recv(timeout=60, copy=True)
            for _ in range(ahead - 1):                        # those that are still on the way
                labels = rx.recv(timeout=60, copy=True)
            took = time.monotonic_ns() - began
    return took, labels

# %%
%%container model
def answer(batches_from, answers_to):
    """Until the sender of batches closes."""
    with podipc.receiver(batches_from) as rx, podipc.sender(answers_to) as tx:
        for n, batch in enumerate(rx, -5):                    # as above: the first five do not count
            with clock.span(f"predict {n}"):
                labels = classifier.predict(batch.reshape(len(batch), -1))
            tx.send(labels, timeout=60)

# %% [markdown]
# The method is a string, and nothing else changes. Each way needs two addresses, one for the batches
# and one for the answers. `file-disk` is files on a volume that is on disk.

# %%
WAYS = {
    "shm-loan": ("shm://batches", "shm://answers"),
    "shm": ("shm://batches", "shm://answers"),
    "unix": ("unix:///pipeline/batches.sock", "unix:///pipeline/answers.sock"),
    "tcp": ("tcp://127.0.0.1:7001", "tcp://127.0.0.1:7002"),
    "fifo": ("fifo:///pipeline/batches.fifo", "fifo:///pipeline/answers.fifo"),
    "http": ("http://127.0.0.1:7003/batches", "http://127.0.0.1:7004/answers"),
    "file-disk": ("file:///pipeline/batches", "file:///pipeline/answers"),
}
METHODS = ["shm-loan", "shm", "tcp", "http", "file-disk"] if QUICK else list(WAYS)
REPEAT, ROUNDS = (2, 20) if QUICK else (5, 80)

def run(method, rounds, ahead):
    """Nanoseconds of a run, the answers to its last batch, and what both recorders noted."""
    batches, answers = WAYS[method]
    model = pod["model"].background(f"clock.events.clear(); answer({batches!r}, {answers!r})")
    loan = method == "shm-loan"
    took, labels = pod["preprocess"].run(
        f"feed({batches!r}, {answers!r}, {rounds}, {ahead}, {loan})"
    ).unwrap()
    model.wait(60).check()                                    # raises what was raised there
    noted = [pod[name].run("clock.to_json()").unwrap() for name in ("preprocess", "model")]
    return took, labels, timeline.from_json(*noted)

# %% [markdown]
# ## Does it work?
#
# First of all the answers, by each method. They must be the same, whatever carries the images.

# %%
found = {method: run(method, rounds=1, ahead=1)[1] for method in METHODS}
right = {method: (labels == test_labels).mean() for method, labels in found.items()}
same = all((labels == found["shm"]).all() for labels in found.values())
accuracy = right["shm"]
Markdown(
    f"Of {len(test_labels)} digits that the model has never seen, **{accuracy:.1%}** are recognised. "
    + (f"The answers are the same by all {len(METHODS)} methods." if same else
       f"The answers differ by method, which they must not: {right}.")
)

# %% [markdown]
# ## Who works when
#
# Runs with up to three batches on the way, over shared memory; of five the one that took neither
# shortest nor longest. Each row is something that a container did, and time runs to the right. Four
# batches are shown. Both containers read the same clock of the machine, so that their times can be put
# side by side.

# %% tags=["thumbnail"]
runs = sorted((run("shm", rounds=6, ahead=3) for _ in range(5)), key=lambda r: r[0])
_, _, events = runs[2]
shown = [e for e in events if int(e.label.split()[1]) in range(4)]
plots.timeline(
    shown, about=pod, title="Four batches of 500 images, over shm, up to three on the way"
)

# %%
def time_with(number, events):
    """Nanoseconds in which exactly so many containers were computing (not sending)."""
    busy = [e for e in events if not e.label.startswith("send")]
    edges = sorted([(e.start_ns, 1) for e in busy] + [(e.end_ns, -1) for e in busy])
    total = active = 0
    for (t, step), (after, _) in itertools.pairwise(edges):
        active += step
        total += (after - t) * (active == number)
    return total

waiting, one, both = (time_with(number, shown) for number in range(3))
whole = waiting + one + both
step = {
    name: statistics.median(e.end_ns - e.start_ns for e in events if e.label.startswith(name)) / 1e6
    for name in ("prepare", "send", "predict")
}
quickest = min(e.end_ns - e.start_ns for e in events if e.label.startswith("send")) / 1e6
slower = max(("prepare", "predict"), key=step.get)
Markdown(
    f"A batch takes {step['prepare']:.2f} ms to prepare, {step['send']:.2f} ms to send and "
    f"{step['predict']:.2f} ms to predict (medians). Of the {whole / 1e6:.1f} ms that are shown, both "
    f"containers computed during {both / whole:.0%}, one during {one / whole:.0%} and none during "
    f"{waiting / whole:.0%}. The shortest of the sends took {quickest:.2f} ms, which is the copy; a longer "
    "one has also waited, for a CPU or for room at the other side. Of the two steps the slower one, here "
    f"*{slower}*, sets the pace: a pipeline is never faster than its slowest step."
)

# %% [markdown]
# ## How much of it is transport?
#
# Now one batch at a time. What is neither preparing nor predicting is transport: send the batch, wake
# the model, take the answer back; and to wait for a CPU, if other programs want it too. All methods take
# turns, so that a disturbance of the machine does not hit one of them alone.

# %%
def parts(events):
    """Median nanoseconds of a batch: prepare, predict, and all the rest of its time."""
    found = {e.label: e for e in events}
    prepare = [found[f"prepare {n}"] for n in range(ROUNDS)]
    predict = [found[f"predict {n}"] for n in range(ROUNDS)]
    took = [[e.end_ns - e.start_ns for e in step] for step in (prepare, predict)]
    whole = [after.start_ns - e.start_ns for e, after in itertools.pairwise(prepare)]
    rest = [w - a - b for w, a, b in zip(whole, *took)]
    return [statistics.median(times) for times in (*took, rest)]

alone = {method: [] for method in METHODS}
for _ in range(REPEAT):
    for method in METHODS:
        alone[method].append(parts(run(method, ROUNDS, ahead=1)[2]))

shares = {m: [100 * rest / (a + b + rest) for a, b, rest in alone[m]] for m in METHODS}
share = {m: statistics.median(found) for m, found in shares.items()}
least, most = min(METHODS, key=share.get), max(METHODS, key=share.get)

# %%
middle = {m: [statistics.median(column) / 1e6 for column in zip(*alone[m])] for m in METHODS}
rows = "\n".join(
    f"| {m} | {a:.2f} | {b:.2f} | {rest:.2f} | {share[m]:.0f} % |" for m, (a, b, rest) in middle.items()
)
display(Markdown(
    "Milliseconds a batch, one batch at a time:\n\n| method | prepare | predict | transport | "
    f"share of transport |\n|---|---|---|---|---|\n{rows}"
))
chart.bars(
    shares, x="share of the time that is transport (%)", text="{:.0f} %".format, about=pod,
    title=f"Transport takes {share[least]:.0f} % of the time with {least}, {share[most]:.0f} % with {most}",
    caption=f"Batches of 500 images, 1.6 MB, one at a time, answers included. Medians; each tick is "
            f"one of {REPEAT} runs of {ROUNDS} batches.",
)

# %% [markdown]
# ## Images per second
#
# With three batches on the way the containers overlap. To compare with: one process, which prepares
# and predicts in turn and sends nothing anywhere.

# %%
%%container model --send test_scans
def by_itself(rounds):
    """Nanoseconds for so many batches, both steps in this process."""
    for count in (5, rounds):
        began = time.monotonic_ns()
        for _ in range(count):
            classifier.predict(prepare(test_scans).reshape(len(test_scans), -1))
        took = time.monotonic_ns() - began
    return took

# %%
BASE = "one process"
rates = {name: [] for name in [BASE, *METHODS]}
for _ in range(REPEAT):
    for name in rates:
        if name == BASE:
            took = pod["model"].run(f"by_itself({ROUNDS})").unwrap()
        else:
            took, _, _ = run(name, ROUNDS, ahead=3)
        rates[name].append(ROUNDS * len(test_scans) / (took / 1e9))

rate = {name: statistics.median(found) for name, found in rates.items()}
best = max(METHODS, key=rate.get)
chart.bars(
    rates, x="images per second", text="{:,.0f}".format, about=pod,
    title=f"{rate[best]:,.0f} images per second with {best}",
    caption=f"Up to three batches of 500 images on the way; {BASE}: no transport, no overlap. "
            f"Medians; each tick is one of {REPEAT} runs of {ROUNDS} batches.",
)

# %%
limit = 1e3 * len(test_scans) / max(middle[best][:2])
gain = rate[best] / rate[BASE]
cpus = pod["model"].run("import os; len(os.sched_getaffinity(0))").unwrap()
behind = [m for m in METHODS if rate[m] < rate[BASE]]
Markdown(
    f"With {best} the pipeline does {gain:.2f} times what one process does. If transport took no time "
    f"at all, its slower step would allow {limit:,.0f} images per second, "
    f"{limit / rate[BASE]:.2f} times as many as one process. "
    + (f"Slower than one process: {', '.join(behind)}; there the transport costs more than is gained "
       "by working at the same time. " if behind else "No method is slower than one process. ")
    + f"The containers may run on {cpus} CPUs; on a single one nothing overlaps."
)

# %% [markdown]
# ## Leaving the Pod
#
# If the model is in a Pod of its own, it can be on another machine, and there can be several of it. But
# two Pods share no memory and no localhost: podipc refuses to go there, as its addresses are trusted
# by everybody in the Pod.

# %%
try:
    podipc.sender("tcp://model.default.svc.cluster.local:7000")
except podipc.AddressError as error:
    print(error)

# %% [markdown]
# What is left is the network. A **Service** gives a Pod a name in it. To compare, the model is asked
# over plain HTTP by a container of its own Pod, at 127.0.0.1, and by another Pod, by the name of the
# Service. The code is the same, with Python's standard library on both sides.

# %%
SERVE = """
import http.server, threading

class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"          # the connection stays open after an answer
    disable_nagle_algorithm = True         # an answer is sent at once

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        x = np.frombuffer(body, np.float32).reshape(-1, 28 * 28)
        for w, b in layers[:-1]:           # what scikit-learn has learned, in NumPy
            x = np.maximum(0, x @ w + b)
        w, b = layers[-1]
        answer = (x @ w + b).argmax(1).astype(np.uint8).tobytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("0.0.0.0", 7000), Model)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""

# %%
ASK = """
import http.client, time

times, body = [], images.tobytes()
connection = http.client.HTTPConnection(host, 7000, timeout=60)
for n in range(rounds + 5):                # the first five warm everything up
    began = time.perf_counter_ns()
    connection.request("POST", "/", body)
    answer = connection.getresponse().read()
    times.append(time.perf_counter_ns() - began)
connection.close()
times[5:], np.frombuffer(answer, np.uint8)
"""

ONE_THREAD = "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; import numpy as np"

# %% [markdown]
# Two Pods need a network between them, so this part takes real containers: with podman, or in a
# cluster. [`k8s/pods/service.yaml`](../k8s/pods/service.yaml) has the Pods `server` and `client`, and
# a Service `tensors` that stands for the server. Where that cannot be had, the next cell says why.

# %%
ENGINE = "kubernetes" if RUNTIME == "kubernetes" else "podman"
inside = outside = None
try:
    inside = podipc.pod.up(copy_of("../k8s/pods/pipeline.yaml"), ENGINE, idle=True)
    outside = podipc.pod.up_all(copy_of("../k8s/pods/service.yaml"), ENGINE, idle=True)
    inside.ready()
    outside.ready()
    server, client = (
        next(p[c] for p in outside.values() if c in p.containers) for c in ("server", "client")
    )
    print(f"three Pods are up, with {ENGINE}: {inside.name}, {', '.join(outside)}")
except (podipc.PodipcError, ValueError) as error:
    for made in (inside, outside):
        if made is not None:
            made.close()
    inside = outside = None
    print(f"Skipped, here and below: {error}")

# %%
answers, asked = {}, {"same Pod": [], "other Pod": []}
if outside:
    images = pod["preprocess"].run("prepare(test_scans)").unwrap()
    ways = dict(zip(asked, [(inside["model"], inside["preprocess"], "127.0.0.1"),
                            (server, client, "tensors")]))
    for serving, asking, _ in ways.values():
        for container in (serving, asking):
            container.run(ONE_THREAD).check()
        serving.run(SERVE, variables={"layers": layers}).check()
        asking.run("images", variables={"images": images}).check()
    for _ in range(REPEAT):
        for way, (_, asking, host) in ways.items():
            variables = {"host": host, "rounds": ROUNDS}
            times, labels = asking.run(ASK, variables=variables, timeout=60).unwrap()
            asked[way] += times
            answers[way] = (np.asarray(labels) == test_labels).mean()
    print({way: f"{found:.1%} right" for way, found in answers.items()})

# %% [markdown]
# And what does the client find at 127.0.0.1, where the server listens in its own Pod?

# %%
if outside:
    print(client.run("""
import socket
try:
    print("127.0.0.1:", socket.create_connection(("127.0.0.1", 7000), 5))
except OSError as error:
    print("127.0.0.1:", error)
print("tensors is", socket.gethostbyname("tensors"))
""").check().stdout, end="")

# %%
if outside:
    half = {way: statistics.median(times) for way, times in asked.items()}
    late = {way: np.percentile(times, 99) for way, times in asked.items()}
    (here, near), (there, far) = half.items()
    display(chart.cdf(
        asked, x="time of a request (ms)", about=inside,
        title=f"A request takes {far / near:.2f} times as long to another Pod",
        caption=f"HTTP POST of 500 images, 1.6 MB, and the answer, predicting included; both Pods on "
                f"one machine, runtime {ENGINE}; {len(asked[here])} requests each, in turns.",
    ))
    display(Markdown(
        f"In the same Pod a request takes {near / 1e6:.2f} ms, to the other one {far / 1e6:.2f} ms "
        f"(medians); 99 of 100 take less than {late[here] / 1e6:.1f} ms and {late[there] / 1e6:.1f} ms. "
        "Both Pods are on one machine here: between them are a virtual cable and a bridge, and no wire. "
        f"A network of 10 Gbit/s would add at least {images.nbytes * 8 / 10e9 * 1e3:.1f} ms for the "
        "bytes of a batch alone."
    ))
    outside.close()
    inside.close()
else:
    print("Skipped: there is nothing between two Pods without a container engine or a cluster.")

# %% [markdown]
# ## In this notebook

# %%
lines = [
    f"A model of scikit-learn in one container recognised {accuracy:.1%} of the digits that another "
    f"one had prepared; the answers were {'the same' if same else 'not the same'} by every method.",
    f"Transport took {share[least]:.0f} % of the time with {least}, {share[most]:.0f} % with {most}. "
    "What the rest of the time goes into, no method can make faster.",
    f"Two containers that overlap did {gain:.2f} times the work of one process, with {best}.",
    f"To another Pod on the same machine a request took {far / near:.2f} times as long."
    if outside else
    "Another Pod was not tried: it needs podman or a cluster.",
    "Another Pod has its own memory and its own localhost: it is reached by the name of a Service.",
]
Markdown("\n".join(f"- {line}" for line in lines))

# %% [markdown]
# ## Exercises
#
# 1. Send batches of 20 images in place of 500. Is the share of transport larger or smaller, and why?
#    Measure it with shm and with http.
# 2. What is the share of transport with a model that is cheaper to evaluate? Learn a
#    `LogisticRegression` in the container `model`, from images of the container `preprocess`, and
#    measure it with shm and with http.
#
# Solutions follow; unfold the cells to see them.

# %% tags=["solution"]
# 1. The time for the bytes shrinks with the batch; the time to wake the other side up does not.
pod["preprocess"].run("test_scans = whole[:20]", variables={"whole": test_scans}).check()
small = {m: parts(run(m, ROUNDS, ahead=1)[2]) for m in ("shm", "http")}
pod["preprocess"].run("test_scans = whole").check()
small_share = {m: 100 * rest / (a + b + rest) for m, (a, b, rest) in small.items()}
Markdown("\n".join(
    f"- {m}: {small_share[m]:.0f} % of the time for batches of 20, {share[m]:.0f} % for 500; a batch of 20 "
    f"travels for {small[m][2] / 1e6:.2f} ms, one of 500 for {middle[m][2]:.2f} ms"
    for m in small
))

# %% tags=["solution"]
# 2. As above: one container prepares, the other one learns; then the same measurement.
sending = pod["preprocess"].background("""
with podipc.sender("shm://train") as tx:
    tx.send(prepare(train_scans), timeout=60)
""")
pod["model"].run("""
from sklearn.linear_model import LogisticRegression
with podipc.receiver("shm://train") as rx:
    images = rx.recv(timeout=60).reshape(len(train_labels), -1)
    learned, classifier = classifier, LogisticRegression(max_iter=30, tol=1e-2).fit(images, train_labels)
    del images
""").check()
sending.wait(60).check()
light = {m: parts(run(m, ROUNDS, ahead=1)[2]) for m in ("shm", "http")}
light_share = {m: 100 * rest / (a + b + rest) for m, (a, b, rest) in light.items()}
pod["model"].run("classifier = learned").check()
Markdown("\n".join(
    f"- {m}: predicting takes {light[m][1] / 1e6:.2f} ms in place of {middle[m][1]:.2f} ms, and transport "
    f"has a share of {light_share[m]:.0f} % in place of {share[m]:.0f} %"
    for m in light
))

# %% [markdown]
# ## Links
#
# - The manifests: [`pipeline.yaml`](../k8s/pods/pipeline.yaml), which runs as it stands with a model
#   in NumPy (`podipc pod run ../k8s/pods/pipeline.yaml`), and
#   [`service.yaml`](../k8s/pods/service.yaml)
# - [Addresses](../README.md#addresses) and [what you may rely on](../README.md#what-you-may-rely-on)
# - [Services](https://kubernetes.io/docs/concepts/services-networking/service/) and
#   [DNS for Services and Pods](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/)
# - man pages: `clock_gettime(2)` on CLOCK_MONOTONIC, `veth(4)`, `tcp(7)` on
#   TCP_NODELAY
# - [The digits](https://scikit-learn.org/stable/datasets/toy_dataset.html#optical-recognition-of-handwritten-digits-dataset)

# %%
%pod down
