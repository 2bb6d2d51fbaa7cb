# %% [markdown]
# # 05 Semaphores
#
# Two containers that share memory have to agree on two things: who may touch it now, and when
# something has happened. A *semaphore* does both. It is a number in shared memory: `acquire`
# takes one from it, and waits while it is 0; `release` adds one, and wakes somebody who waits.
# This notebook measures what goes wrong without one, what waiting costs in different ways, and
# what happens when a holder dies.
#
# You will be able to
#
# - show a lost update, and prevent it with a semaphore between two containers,
# - choose a way to wait by two figures: how late it wakes up, and how much cpu it burns
#   meanwhile,
# - say what a waiter sees when the holder of a semaphore is killed, and recover from that,
# - say why the robust mutexes of POSIX threads do not help across containers.
#
# **Predict first**
#
# 1. Two containers each add 1 to a number in shared memory, a million times (300,000 in quick
#    mode). What is the number afterwards?
# 2. A container waits for a signal. How long after the signal does it go on, if it spins, sleeps
#    in the kernel, or looks every millisecond?
# 3. A container is killed while it holds a semaphore. What does the other one, which waits for
#    it, see?

# %% [markdown]
# ## Two containers
#
# The manifest has two containers, `left` and `right`, and no volume: they share `/dev/shm`, as
# all containers of a Pod do. Their own programs are not started: the cells below are what runs in
# them.

# %%
import os
import time

import numpy as np
from IPython.display import Markdown

import podipc.lab
from podipc.lab.plots import chart
from podipc.lab.spoken import duration

%load_ext podipc.lab
QUICK = podipc.lab.quick()  # PODIPC_QUICK=1: shorter measurements
RUNTIME = os.environ.get("PODIPC_RUNTIME", "local")

# %%
%pod up ../k8s/pods/semaphore.yaml --runtime {RUNTIME}

# %% [markdown]
# The left container makes the shared memory and the semaphores; the right one opens them by name.
# `lock` begins at 1: one may have it. The other two begin at 0: who acquires one waits until the
# other side has released it.

# %%
%%container left
import podipc

memory = podipc.Segment.create(1 << 16, "board")
lock = podipc.Semaphore.create("lock", 1)
left_is_here = podipc.Semaphore.create("left-is-here", 0)
right_is_here = podipc.Semaphore.create("right-is-here", 0)

# %%
%%container right
import os, podipc

memory = podipc.Segment.open("board", writable=True)
lock = podipc.Semaphore.open("lock")
left_is_here = podipc.Semaphore.open("left-is-here")
right_is_here = podipc.Semaphore.open("right-is-here")
print(sorted(os.listdir("/dev/shm")))  # names are files there

# %%
%%containers left right
import time
import numpy as np

board = np.frombuffer(memory, np.int64)  # the same numbers in both containers

def meet():
    """Each releases once and takes once, so neither goes on alone."""
    here, there = left_is_here, right_is_here
    if CONTAINER == "right":
        here, there = there, here
    here.release()
    there.acquire(timeout=30)

# %% [markdown]
# ## Mutual exclusion
#
# Both add 1 to `board[0]`, again and again. For the processor that is three steps: read the
# number, add 1, write it back. If the other container writes in between, its update is
# overwritten: a *lost update*.

# %%
turns = 300_000 if QUICK else 1_000_000

# %%
%%containers left right -i turns -o free
meet()
began = time.perf_counter()
for _ in range(turns):
    board[0] += 1
free = (time.perf_counter() - began) / turns
meet()
reached = int(board[0])
meet()

# %%
%%containers left right -i turns -o locked
board[0] = 0
meet()
began = time.perf_counter()
for _ in range(turns):
    with lock:
        board[0] += 1
locked = (time.perf_counter() - began) / turns
meet()

# %%
%%container right -o reached,reached_locked
reached_locked = int(board[0])

# %%
expected = 2 * turns
lost, lost_locked = expected - reached, expected - reached_locked
cost_free, cost_locked = (max(cost.values()) * 1e9 for cost in (free, locked))
Markdown(
    f"Expected: {expected:,}.\n\n"
    "| | counted | lost | time of one turn |\n"
    "|---|---|---|---|\n"
    f"| without | {reached:,} | {lost:,} ({lost / expected:.1%}) | {duration(cost_free)} |\n"
    f"| with | {reached_locked:,} | {lost_locked:,} | {duration(cost_locked)} |\n\n"
    + (f"Without the semaphore, {lost / expected:.0%} of the updates were lost, and no error said so. "
       if lost else
       "Nothing was lost this time: the containers hardly ran at the same time. That was luck. ")
    + f"With it, {'none was' if not lost_locked else f'**{lost_locked} were**'}. The price: a "
    f"turn takes {cost_locked / cost_free:.0f} times as long, because only one container works "
    "at a time and each sometimes waits for the other."
)

# %% [markdown]
# podipc's tensors need no lock: in its shared memory every word has one writer. A lock is for
# data that two sides change.
#
# ## Waiting
#
# The other use of a semaphore: to wait until something has happened. There are four ways to wait,
# and all are tried here.
#
# - **spinning**: look again and again whether a number has changed;
# - **polling**: look, and sleep for a millisecond in between;
# - **POSIX semaphore**: the kernel puts the thread to sleep, and the one that releases has it
#   woken;
# - **futex**: the same, with the kernel's own primitive, of which semaphores are made. Here as a
#   podipc channel, `shm://...?wait=block`: a tensor comes along.
#
# The right container sleeps for 2 to 6 ms, notes the time, and signals. The left one waits, and
# notes the time when it goes on. Both read one clock. The left also asks the kernel how much cpu
# time its thread used (`time.thread_time`).

# %%
%%container left
bell = podipc.Semaphore.create("bell", 0)
ticks = podipc.receiver("shm://ticks?wait=block")
signal, stamps = board[8:9], board[64:]  # a number, and when it was set for the k-th time

def spinning(k):
    while signal[0] < k:
        pass

def polling(k, interval=0.001):
    while signal[0] < k:
        time.sleep(interval)

waits = {
    "spinning": spinning,
    "polling, 1 ms": polling,
    "POSIX semaphore": lambda k: bell.acquire(timeout=30),
    "futex": lambda k: ticks.recv(timeout=30),
}

# %%
%%container right
bell = podipc.Semaphore.open("bell")
ticks = podipc.sender("shm://ticks?wait=block")
signal, stamps = board[8:9], board[64:]
tick = np.zeros(1)

def write(k):
    signal[0] = k

signals = {
    "spinning": write,
    "polling, 1 ms": write,
    "POSIX semaphore": lambda k: bell.release(),
    "futex": lambda k: ticks.send(tick, timeout=30),
}

# %%
%%container left
def wait_and_note(wait, rounds):
    """Nanoseconds from each signal to going on; cpu seconds; seconds."""
    late, cpu, began = [], time.thread_time(), time.perf_counter()
    for k in range(1, rounds + 1):
        wait(k)
        late.append(time.monotonic_ns() - int(stamps[k]))
    return late, time.thread_time() - cpu, time.perf_counter() - began

# %%
%%container right
import random

def sleep_and_signal(send, rounds):
    for k in range(1, rounds + 1):
        time.sleep(random.uniform(0.002, 0.006))
        stamps[k] = time.monotonic_ns()
        send(k)

# %%
%%containers left right
def turn(name, rounds):
    if CONTAINER == "left":
        signal[0] = 0  # by the one that waits: it has seen the last signal of the turn before
        meet()
        return wait_and_note(waits[name], rounds)
    meet()
    sleep_and_signal(signals[name], rounds)

# %%
rounds, repetitions = (60, 2) if QUICK else (200, 5)

# %%
%%containers left right -i rounds,repetitions -o waited
ways = ["spinning", "polling, 1 ms", "POSIX semaphore", "futex"]
for name in ways:
    turn(name, 10)  # not counted
waited = {name: [] for name in ways}
for _ in range(repetitions):
    for name in ways:  # in turns, so that a noisy moment hits all
        waited[name].append(turn(name, rounds))

# %%
def figures(turns):
    """Median and p99 of the wake-up in ns, and cpu milliseconds per second of waiting."""
    late = np.concatenate([late for late, _, _ in turns])
    cpu, seconds = (sum(t[i] for t in turns) for i in (1, 2))
    return np.percentile(late, 50), np.percentile(late, 99), cpu / seconds * 1000


found = {name: figures(turns) for name, turns in waited["left"].items()}
fastest = min(found, key=lambda name: found[name][0])
cheapest = min(found, key=lambda name: found[name][2])
chart.lines(
    {name: ([cpu, cpu], [p50, p99]) for name, (p50, p99, cpu) in found.items()},
    x="cpu time burnt per second of waiting (ms)",
    y="wake-up: from the signal to going on (µs, ms)",
    x_axis="count",
    y_axis="time",
    title=f"Wakes up first: {fastest}; burns least: {cheapest}",
    caption=f"Markers: median and p99 of {rounds * repetitions} wake-ups each, in {repetitions} "
    "turns. A signal every 2 to 6 ms. In the time: Python on both sides.",
    about=pod,
)

# %%
rows = "\n".join(
    f"| {name} | {duration(p50)} | {duration(p99)} | {cpu:,.1f} ms |"
    for name, (p50, p99, cpu) in found.items()
)
spin, poll, semaphore = (found[name] for name in ("spinning", "polling, 1 ms", "POSIX semaphore"))
Markdown(
    "| way to wait | median | p99 | cpu per second |\n|---|---|---|---|\n" + rows +
    f"\n\n**Spinning** wakes up within {duration(spin[0])} and uses {spin[2] / 10:.0f}% of a "
    f"cpu to do nothing but look. **Polling** saves the cpu ({poll[2] / 10:.1f}%) and is "
    f"late by {duration(poll[0])}, about half the interval and up to all of it. **A semaphore** "
    f"is woken by the kernel: {duration(semaphore[0])}, "
    + (f"{poll[0] / semaphore[0]:.0f} times sooner than polling, "
       if semaphore[0] < poll[0] else "no sooner than polling on this busy machine, ")
    + f"with {semaphore[2] / 10:.1f}% of a cpu"
    + (", less than polling" if semaphore[2] < poll[2] else "")
    + ". Most of its time goes into waking a thread, and often a core, that sleeps. "
    + (f"At p99 spinning is late as well, by {duration(spin[1])}: its thread is at times not "
       "running when the signal comes, because others need the cpu, or its limit is used up."
       if spin[1] > 10 * spin[0] else
       f"At p99 spinning is late by {duration(spin[1])}, the semaphore by {duration(semaphore[1])}.")
)

# %%
limit = pod.facts().containers["left"].cpus
Markdown(
    "Because a sleeping core is slow and a spinning one is expensive, podipc does both: by "
    "default it spins for as long as that has paid lately, at most 100 µs, and then sleeps. "
    + (f"In these containers it would sleep at once: their cpu limit is {limit:g}, and who "
       "spins under such a limit uses up the time that the work needs, and is then stopped "
       "by the kernel for a while."
       if limit is not None and limit < 2 else
       "Under a cpu limit below 2 it sleeps at once: spinning would use up what the work needs.")
)

# %% [markdown]
# ## A holder that dies
#
# The right container takes the lock, begins to change the number, and is killed: the kernel is
# short of memory, or a probe fails. What does the left container see?

# %%
%%container right
lock.acquire(timeout=5)
board[0] = -1  # half done: the right number would come next

# %%
%pod kill right

# %%
while pod["right"].state == "running":
    time.sleep(0.01)
f"{pod['right'].state}, signal {-pod['right'].returncode}"

# %%
%%container left -o said,waited_for,value,half_done
began = time.perf_counter()
try:
    lock.acquire(timeout=0.5)
    said = "nothing: it got the lock"
except podipc.Timeout as error:
    said = f"Timeout: {error}"
waited_for = time.perf_counter() - began
value, half_done = lock.value, int(board[0])

# %%
Markdown(
    f"After {waited_for:.2f} s: *{said}*.\n\nThe semaphore is {value}, and the number is "
    f"{half_done}. A semaphore belongs to nobody: it does not know who acquired it, the kernel "
    "does not give it back, and nobody is told. **Without a timeout the left container would "
    "wait for ever.**"
)

# %% [markdown]
# ### Recovery
#
# A timeout alone does not say that the holder is dead: it may be slow. Who *knows* (because it is
# its parent, or has seen its connection close, or asks Kubernetes) first puts the data right,
# then releases in the place of the dead. Here this notebook knows, because it has seen the
# container end.

# %%
assert pod["right"].state == "terminated"

# %%
%%container left -o recovered
board[0] = 0    # whatever is right for the data
lock.release()  # in the place of the dead
with lock:
    board[0] += 1
recovered = int(board[0])

# %%
%pod restart right

# %%
%%container right -o both
import numpy as np, podipc

lock = podipc.Semaphore.open("lock")
memory = podipc.Segment.open("board", writable=True)
board = np.frombuffer(memory, np.int64)
with lock:
    board[0] += 1
both = int(board[0])

# %%
Markdown(
    f"The left container counted to {recovered}, the restarted right one to {both}: the lock "
    "works again. (Had the notebook been wrong, and the holder alive, two would have the lock "
    "now. That is why a timeout is not enough.)"
)

# %% [markdown]
# ### Why not a robust mutex?
#
# POSIX threads have a lock for this: a *robust mutex* remembers its holder's thread number (TID),
# and the kernel marks it when that thread dies. But each container has TIDs of its own, counted
# from 1. What are they here?

# %%
%%containers left right -o identity
import os, threading

identity = {"TID": threading.get_native_id(), "namespace": os.stat("/proc/self/ns/pid").st_ino}

# %% [markdown]
# Now a robust mutex in the shared memory, made by the left container with the C library and
# locked by it. The right one then tries to lock it, without waiting. It should be refused with
# `EBUSY`.

# %%
%%container left
import ctypes

libc = ctypes.CDLL(None)
mutex = ctypes.byref((ctypes.c_char * 64).from_buffer(memory, 1024))
attributes = ctypes.create_string_buffer(64)
libc.pthread_mutexattr_init(attributes)
libc.pthread_mutexattr_setpshared(attributes, 1)  # PTHREAD_PROCESS_SHARED
libc.pthread_mutexattr_setrobust(attributes, 1)   # PTHREAD_MUTEX_ROBUST
libc.pthread_mutexattr_settype(attributes, 1)     # PTHREAD_MUTEX_RECURSIVE: more than once
assert libc.pthread_mutex_init(mutex, attributes) == 0
assert libc.pthread_mutex_lock(mutex) == 0

# %%
%%container right -o answer
import ctypes, errno

libc = ctypes.CDLL(None)
mutex = ctypes.byref((ctypes.c_char * 64).from_buffer(memory, 1024))
code = libc.pthread_mutex_trylock(mutex)
answer = errno.errorcode[code] if code else "locked"

# %%
tids = {name: facts["TID"] for name, facts in identity.items()}
equal = len(set(tids.values())) == 1
Markdown(
    f"The thread of the left container has TID {tids['left']}, that of the right one TID "
    f"{tids['right']}, in different PID namespaces. The right container's attempt: "
    f"**{answer}**.\n\n"
    + ("Both hold the mutex now. It contains the TID of its holder, and the right thread, "
       "which has the same number, takes the lock for its own. Two containers of the same "
       "image count their threads alike, so this is not rare. "
       if answer == "locked" else
       "The numbers differ this time, and so the mutex held. After a restart, or with other "
       "threads, they may be equal, and then the second container takes the lock for its own. "
       if not equal else
       "The numbers are equal, and it was refused all the same: this C library does it otherwise. ")
    + "A lock that knows its holder by a TID is for threads of one PID namespace. (Nobody "
    "unlocks this one: a robust mutex also contains addresses of the process that locked it, "
    "which mean nothing in another.)"
)

# %% [markdown]
# ## In this notebook

# %%
Markdown(f"""
- Without a semaphore {lost:,} of {expected:,} updates were lost; with it {lost_locked:,}.
- A turn with the semaphore took {duration(cost_locked)}, without {duration(cost_free)}.
- Wake-up, median: spinning {duration(spin[0])}, semaphore {duration(semaphore[0])}, polling
  {duration(poll[0])}.
  Cpu meanwhile: {spin[2] / 10:.0f}%, {semaphore[2] / 10:.1f}%, {poll[2] / 10:.1f}%.
- The holder was killed: the waiter saw {'a `Timeout`' if 'Timeout' in said else 'nothing'} after
  {waited_for:.2f} s, and the number was {half_done}. Who knew of the death put it right and released.
- A robust mutex, locked by TID {tids['left']} of one container, answered `{answer}` to TID
  {tids['right']} of the other.
""")

# %% [markdown]
# ## Exercises
#
# **1. A lock that dies with its holder.** `fcntl.flock` locks an open file, and the kernel
# unlocks it when the last process that has it open is gone. Let the right container hold such a
# lock on a file in `/dev/shm`, let the left one wait for it, kill the right one, and measure how
# long after the kill the left one has the lock.

# %% tags=["solution"]
%%container right
import fcntl

held = open("/dev/shm/held", "w")
fcntl.flock(held, fcntl.LOCK_EX)

# %% tags=["solution"]
%%container left --background
import fcntl

waiting = open("/dev/shm/held")
fcntl.flock(waiting, fcntl.LOCK_EX)
got_it = time.monotonic()

# %% tags=["solution"]
time.sleep(0.2)  # the left container waits by now
killed = time.monotonic()
pod["right"].kill()

# %% tags=["solution"]
%%container left -o got_it
while "got_it" not in globals():
    time.sleep(0.001)
os.unlink("/dev/shm/held")

# %% tags=["solution"]
Markdown(
    f"The left container had the lock {(got_it - killed) * 1000:.1f} ms after the kill. The "
    "kernel does know who has a file open, in all namespaces. The price: `flock` has no "
    "timeout, costs two system calls a turn, and says nothing of the half-done data."
    if RUNTIME != "kubernetes" else "The clocks of the notebook and of the node are not the same one."
)

# %% [markdown]
# **2. The interval of polling.** Measure polling every 0.2, 1 and 5 ms: how late, and how much
# cpu? (The right container has to be started again, and to open everything again.)

# %% tags=["solution"]
%pod restart right

# %% tags=["solution"]
%%container right
import random, time
import numpy as np, podipc

memory = podipc.Segment.open("board", writable=True)
board = np.frombuffer(memory, np.int64)
left_is_here, right_is_here = (podipc.Semaphore.open(f"{s}-is-here") for s in ("left", "right"))
signal, stamps = board[8:9], board[64:]

# %% tags=["solution"]
%%containers left right -i rounds -o polled
polled = {}
for interval in (0.0002, 0.001, 0.005):
    if CONTAINER == "left":
        signal[0] = 0
        left_is_here.release()
        right_is_here.acquire(timeout=30)
        name = f"every {interval * 1000:g} ms"
        polled[name] = wait_and_note(lambda k: polling(k, interval), rounds)
    else:
        right_is_here.release()
        left_is_here.acquire(timeout=30)
        for k in range(1, rounds + 1):
            time.sleep(random.uniform(0.010, 0.015))  # longer than the longest interval
            stamps[k] = time.monotonic_ns()
            signal[0] = k

# %% tags=["solution"]
by_interval = {name: figures([turn]) for name, turn in polled["left"].items()}
chart.lines(
    {name: ([cpu, cpu], [p50, p99]) for name, (p50, p99, cpu) in by_interval.items()},
    x="cpu time burnt per second of waiting (ms)",
    y="wake-up (µs, ms)",
    x_axis="count",
    y_axis="time",
    title=f"Looking every {', '.join(name.split()[1] for name in by_interval)} ms, it is late by "
    + ", ".join(duration(p50) for p50, _, _ in by_interval.values()),
    caption=f"Markers: median and p99 of {rounds} wake-ups each. A signal every 10 to 15 ms.",
    about=pod,
)

# %% [markdown]
# ## Links
#
# - The manifest: [k8s/pods/semaphore.yaml](../k8s/pods/semaphore.yaml); its containers check all
#   this by themselves
# - `podipc.Semaphore`, `podipc.Segment`, `?wait=`: [README](../README.md#addresses),
#   `help(podipc.Semaphore)`
# - Manual pages: `sem_overview(7)`, `futex(7)`, `flock(2)`, `pthread_mutexattr_setrobust(3)`,
#   `pid_namespaces(7)`
# - Kubernetes: [Share a process
#   namespace](https://kubernetes.io/docs/tasks/configure-pod-container/share-process-namespace/)

# %%
%pod down
