# %% [markdown]
# # 03 A logging sidecar over HTTP
#
# A *sidecar* is a second container of a Pod that does a chore for the first one. The usual
# example is logging: the application sends each line to an agent, and the agent prints it,
# keeps it in a file or passes it on. Both containers have the same `localhost`, so HTTP is
# enough: the application posts to `http://localhost:8080/log`. This notebook asks two things.
# What does a log line cost the application? And what happens to lines, and to the application,
# while the agent is restarted?
#
# **You will be able to**
#
# - post a line to an agent in another container with nothing but Python's standard library;
# - say what a log call costs when it waits for the answer, and when it does not;
# - say what a restart of the agent does to each way of logging: lines lost, lines twice, the
#   longest time the application is held up;
# - check with the files of the agent that every line is there once.
#
# **Predict first** (write a number down)
#
# 1. How long does a log call take that waits for the agent's answer: 10 µs, 1 ms, or 100 ms?
# 2. And one that puts the line in a queue, from which a thread sends it?
# 3. The agent is killed and is away for about a second. The application logs 200 lines a
#    second meanwhile. How many are lost, and how long does the longest log call take?

# %%
import os
import time

import numpy as np
from IPython.display import Markdown, display

import podipc.lab
from podipc.lab.plots import chart
from podipc.lab.spoken import duration

%load_ext podipc.lab

RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")
QUICK = podipc.lab.quick()  # PODIPC_QUICK=1: fewer repetitions

# %% [markdown]
# The manifest has two containers, `application` and `agent`, and a volume for the agent's
# files, which the application may read. There is no port mapping in it. `%pod up` leaves the
# containers idle for our cells; with `--run agent` the agent runs its own program,
# `podipc logd`.

# %%
%pod up ../k8s/pods/logging-sidecar.yaml --runtime {RUNTIME} --run agent

# %% [markdown]
# ## By hand
#
# A log line is the body of a POST. The agent answers `Log received` once it has written the
# line. It may need a moment until it listens: until then the connection is refused.

# %%
%%container application
import time
import urllib.request

AGENT = "http://localhost:8080/log"


def post(text, timeout=5):
    request = urllib.request.Request(AGENT, text.encode(), {"Content-Type": "text/plain"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read().decode()


def agent_listens(within=30):
    end = time.monotonic() + within
    while True:
        try:
            return post("are you there?").strip()
        except OSError:  # connection refused: it has not begun to listen
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


agent_listens()

# %%
%%container application
post("My log message 1"), post("ERROR My log message 2")

# %% [markdown]
# What the agent has printed in its own container. It took the word `ERROR` for the level.

# %%
%pod logs agent

# %% [markdown]
# ## Three ways to log, one pace
#
# Applications do not post, they log. The three ways we compare, each with a pause of a
# millisecond between two lines:
#
# - **by hand**: the POST above, with a connection of its own for each line;
# - **synchronous**: `podipc.logs.Handler(queue=False)` as a handler of Python's `logging`. The
#   log call sends the line over a connection that stays open, and waits for the answer;
# - **queued**: `podipc.logs.Handler()`. The log call puts the line in a queue; a thread sends
#   what is there, many lines in one request.

# %%
%%container application
import logging

import podipc.logs


def logger_of(name, handler):
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [handler]
    return logger.info


handlers = {
    "synchronous": podipc.logs.Handler(AGENT, queue=False),
    "queued": podipc.logs.Handler(AGENT),
}
log = {name: logger_of(name, handler) for name, handler in handlers.items()}
log["by hand"] = post

# %% [markdown]
# What is in the measured time: everything from the log call to its return, in the
# application's thread. What is not in it: the pause between two calls, and, with the queue,
# the delivery that comes later. The ways take turns, so that whatever else the machine does
# meets them all.

# %%
%%container application
def measure(emit, lines, pause=0.001):
    took = []
    for number in range(lines):
        began = time.perf_counter_ns()
        emit(f"line {number} of a measurement")
        took.append(time.perf_counter_ns() - began)
        time.sleep(pause)
    return took


def measure_all(rounds, lines):
    found = {name: [] for name in ("by hand", "synchronous", "queued")}
    for name in found:
        measure(log[name], 20)  # warm-up: connections, imports, caches
    for _ in range(rounds):
        for name in found:
            found[name] += measure(log[name], lines)
            for handler in handlers.values():
                handler.flush(30)  # the queue is empty before the next one begins
    return found

# %%
ROUNDS, LINES = (3, 100) if QUICK else (8, 400)
result = pod["application"].run(f"measure_all({ROUNDS}, {LINES})").unwrap()
calls = {name: np.array(took) for name, took in result.items()}  # nanoseconds
{name: len(took) for name, took in calls.items()}

# %%
median = {name: np.median(took) for name, took in calls.items()}
waits, queues = duration(median["synchronous"]), duration(median["queued"])
chart.cdf(
    calls,
    x="time of one log call (µs, ms)",
    title=f"A log call: {waits} if it waits for the agent, {queues} with a queue (median)",
    caption=f"{ROUNDS} rounds of {LINES} lines each, a pause of 1 ms between lines. In the time: "
    "from the call to its return.",
    about=pod,
)

# %%
def summary(took):
    p50, p99 = np.percentile(took, [50, 99])
    return f"median {duration(p50)}, p99 {duration(p99)}, longest {duration(took.max())}"


lines = [f"- **{name}**: {summary(took)}" for name, took in calls.items()]
slower = median["synchronous"] / median["queued"]
lines += [
    "",
    f"The median of a call that waits for the answer is {slower:.0f} times that of a call that "
    f"queues. The POST by hand takes {median['by hand'] / median['synchronous']:.1f} times as "
    "long as the synchronous handler: it makes a new connection for each line.",
]
display(Markdown("\n".join(lines)))

# %% [markdown]
# p99 is the time that 99 of 100 calls do not exceed. The queue does not make logging free: the
# thread that sends needs the processor and Python's lock (the GIL) as well, and a call that has
# to wait for either is in the tail of the curve.
#
# ## The agent is restarted
#
# Containers of a Pod are restarted one by one: a new version, a failed probe, too much memory.
# The application goes on meanwhile. Here it logs a line, sleeps 4 ms, logs the next: some 200
# lines a second. After a while the agent is asked to end and is started again (`restart`);
# later it is killed with SIGKILL, and started again after a pause, as a cluster would do.
#
# The application numbers its lines. So the agent's files show what is missing and what is
# there twice.

# %%
%%container application
going = True


def work(name):
    """Log lines, 4 ms between two, while `going`; when each call began, how long it took."""
    emit, began, took = log[name], [], []
    while going:
        began.append(time.monotonic())
        try:
            emit(f"{name} line {len(began) - 1}")
        except OSError:
            pass  # by hand: the connection was refused, or closed without an answer
        took.append(time.monotonic() - began[-1])
        time.sleep(0.004)
    if name in handlers:
        assert handlers[name].flush(30), "not all was delivered"
    return {"began": began, "took": took}

# %% [markdown]
# The files are on the volume that both containers mount. This reads the numbers back, in the
# application's container.

# %%
%%container application
import pathlib
import re


def kept(name):
    """The numbers of the lines in the agent's files, in the order of the files."""
    files = pathlib.Path("/var/log/pod").glob("pod.log*")
    oldest_first = sorted(files, key=lambda path: -int(path.suffix[1:].replace("log", "0")))
    text = "".join(path.read_text() for path in oldest_first)
    return [int(number) for number in re.findall(rf"{name} line (\d+)$", text, re.M)]

# %% [markdown]
# The notebook plays the cluster. It may run on another machine than the Pod, and so it tells the
# time by the application's clock.

# %%
BEFORE, BETWEEN, AWAY, AFTER = (0.3, 1.2, 0.7, 0.4) if QUICK else (1.0, 2.0, 0.7, 2.0)  # s
agent, application = pod["agent"], pod["application"]


def now():
    return application.run("time.monotonic()").unwrap()


def with_restarts(name):
    application.run("going = True").check()
    running = application.background(f"work({name!r})")
    time.sleep(BEFORE)
    events = {"restart": now()}
    agent.restart()
    application.run("agent_listens()").check()
    time.sleep(BETWEEN)
    events["kill"] = now()
    agent.kill()
    time.sleep(AWAY)  # a cluster takes about as long to notice, and to start a container
    agent.restart()
    application.run("agent_listens()").check()
    time.sleep(AFTER)
    application.run("going = False").check()
    outcome = running.wait(60).unwrap()
    return {**outcome, "events": events, "kept": application.run(f"kept({name!r})").unwrap()}


runs = {name: with_restarts(name) for name in ("by hand", "synchronous", "queued")}

# %%
def outcome(run):
    numbers, logged = run["kept"], len(run["began"])
    return {
        "logged": logged,
        "lost": logged - len(set(numbers)),
        "twice": len(numbers) - len(set(numbers)),
        "in order": numbers == sorted(numbers),
        "longest": max(run["took"]) * 1e9,
    }


outcomes = {name: outcome(run) for name, run in runs.items()}
table = ["| | logged | lost | there twice | in order | longest call |", "|---|---|---|---|---|---|"]
for name, o in outcomes.items():
    order = "yes" if o["in order"] else "no"
    table.append(
        f"| {name} | {o['logged']} | {o['lost']} | {o['twice']} | {order} "
        f"| {duration(o['longest'])} |"
    )
display(Markdown("\n".join(table)))

# %% [markdown]
# Each call over time. The vertical lines are the moments of the restart and of the kill.

# %%
series = {}
for name, run in runs.items():
    since_restart = np.array(run["began"]) - run["events"]["restart"]
    series[name] = (since_restart, np.array(run["took"]) * 1e9)
longest = {name: duration(o["longest"]) for name, o in outcomes.items()}
kills = [run["events"]["kill"] - run["events"]["restart"] for run in runs.values()]
chart.scatter(
    series,
    x="time since the restart of the agent (s)",
    y="time of one log call (µs, ms, s)",
    y_axis="time",
    marks={0.0: "agent is told to end", float(np.median(kills)): "agent is killed"},
    title=f"Longest log call over two outages: {longest['synchronous']} synchronous, "
    f"{longest['queued']} queued",
    caption="A dot a call; one run after the other. After the kill the agent is away for "
    f"{AWAY:g} s before it is started again.",
    about=pod,
)

# %% [markdown]
# The handler keeps a line until the agent has acknowledged it, and sends it again under the
# same number if no answer came; the agent writes a number only once. So a kill in the middle
# of a request is to lose no line and to double none. The POST by hand has no such memory: what
# fails is lost, unless the application tries again, and then it cannot know whether the line
# was written before the answer got lost.
#
# The synchronous handler does not wait for ever: it holds up a call for `block` seconds at
# most (0.5, unless one says otherwise), and not at all while it would not try again within that
# time anyway. It then keeps the line and returns, which is why many calls are fast during the
# outage.


# %%
def during(run, event, seconds):
    """The calls that began within some seconds after an event, in nanoseconds."""
    began, took = np.array(run["began"]) - run["events"][event], np.array(run["took"]) * 1e9
    return took[(began >= -0.004) & (began < seconds)]


sentences = []
for name in ("by hand", "synchronous", "queued"):
    o, run = outcomes[name], runs[name]
    after = {event: during(run, event, 1.0).max() for event in ("restart", "kill")}
    lost = f"lost {o['lost']} of {o['logged']} lines" if o["lost"] else "lost no line"
    twice = f"{o['twice']} are there twice" if o["twice"] else "none is there twice"
    sentences.append(
        f"- **{name}** {lost}, {twice}. The longest call in the second after the restart took "
        f"{duration(after['restart'])}, in the second after the kill {duration(after['kill'])}."
    )
display(Markdown("\n".join(sentences)))

# %% [markdown]
# ## In this notebook

# %%
sync, queued, hand = (outcomes[name] for name in ("synchronous", "queued", "by hand"))
faults = sync["lost"] + sync["twice"] + queued["lost"] + queued["twice"]
display(
    Markdown(
        f"""
- Two containers of a Pod spoke HTTP over `localhost`, with no port mapping in the manifest.
- A log call that waits for the agent took {duration(median["synchronous"])} (median), one that
  queues {duration(median["queued"])}, a POST by hand {duration(median["by hand"])}.
- Over a restart and a kill of the agent, both handlers together lost or doubled {faults} of
  {sync["logged"] + queued["logged"]} lines; the POST by hand lost {hand["lost"]} of
  {hand["logged"]}.
- The application was held up for {duration(sync["longest"])} at most with the synchronous
  handler, and for {duration(queued["longest"])} with the queue.
- A queue moves the waiting out of the application. It does not do away with it: lines wait in
  the application's memory until the agent is back, and there is a bound to how many.
"""
    )
)

# %% [markdown]
# ## Exercises
#
# **1.** A queue has an end. Make a handler that keeps 50 lines at most and never waits
# (`capacity=50, block=0`), kill the agent, log 200 lines, start the agent again. How many
# lines arrive? Who says that some are missing?

# %% tags=["solution"]
agent.kill()
report = application.run(
    """
small = podipc.logs.Handler(AGENT, capacity=50, block=0)
emit = logger_of("small", small)
for number in range(200):
    emit(f"small line {number}")
before = small.stats()
"""
)
agent.restart()
application.run("agent_listens(); small.flush(30)").check()
stats = application.run("small.stats()").unwrap()
said = application.run(
    "[line.split('Received log: ')[1] for line in pathlib.Path('/var/log/pod/pod.log')"
    ".read_text().splitlines() if 'dropped' in line]"
).unwrap()
arrived = len(application.run("kept('small')").unwrap())
display(
    Markdown(
        f"{arrived} of 200 lines arrived, {stats['dropped']} were dropped. The handler says so "
        f"on the application's standard error (`{report.stderr.strip()}`) and in the agent's "
        f"files, in a line of its own: `{said[-1] if said else 'nothing'}`."
    )
)

# %% [markdown]
# **2.** A line, a pause of a millisecond, and the next one is little. How many lines a second does each handler deliver
# if the application logs as fast as it can, `flush()` included?

# %% tags=["solution"]
rates = application.run(
    f"""
def lines_per_second(name, count):
    began = time.perf_counter()
    for number in range(count):
        log[name](f"fast {{number}}")
    assert handlers[name].flush(60)
    return count / (time.perf_counter() - began)

repeats = range({1 if QUICK else 3})
fastest = {{name: [] for name in handlers}}
for _ in repeats:
    for name in handlers:
        fastest[name].append(lines_per_second(name, {500 if QUICK else 3000}))
fastest
"""
).unwrap()
ratio = np.median(rates["queued"]) / np.median(rates["synchronous"])
display(
    Markdown(
        f"Synchronous: {np.median(rates['synchronous']):,.0f} lines a second; queued: "
        f"{np.median(rates['queued']):,.0f}, {ratio:.1f} times as many, because many lines go in "
        "one request."
    )
)

# %%
%pod down

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/logging-sidecar.yaml](../k8s/pods/logging-sidecar.yaml); the agent:
#   `podipc logd --help`; the handler: `help(podipc.logs.Handler)`; the
#   [README](../README.md).
# - Python: the [Logging HOWTO](https://docs.python.org/3/howto/logging.html) and
#   `logging.handlers.QueueHandler`.
# - Kubernetes: [Sidecar
#   Containers](https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/) and
#   [Logging
#   Architecture](https://kubernetes.io/docs/concepts/cluster-administration/logging/).
