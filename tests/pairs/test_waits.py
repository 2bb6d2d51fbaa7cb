"""Any wait ends at Ctrl-C, at its timeout whatever the signals, and costs nothing; and fork."""

import os
import signal
import time
import warnings

import numpy as np
import payload
import peers
import pytest
from support import eventually, killed, took_at_most, unique_name

import podipc

WAITS = ["adaptive", "block", "spin", "semaphore"]
MIB = 1 << 20


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    ("role", "verb"),
    [
        ("receiver", "recv"),
        ("receiver", "recv timeout"),
        ("receiver", "iterate"),
        ("sender", "send"),
        ("sender", "loan"),
        ("sender", "empty"),
        ("subscriber", "recv"),
    ],
)
def test_ctrl_c(spawn, role, verb, wait):
    """KeyboardInterrupt within 100 ms (asserted with room), and the handle is usable."""
    address = f"{unique_name()}?wait={wait}"
    child = spawn(peers.interrupted, role, address, verb, {"max_bytes": 2 * MIB})
    child.expect("open")
    # Two empties of a megabyte use the budget up, so that the third has to wait.
    child.tell("fill" if verb in {"empty", "loan"} else "go")
    if verb in {"empty", "loan"}:
        child.expect(2)
    child.expect("waiting")
    time.sleep(0.2)
    start = time.monotonic()
    with took_at_most(2):
        child.signal(signal.SIGINT)
        child.expect("interrupted")
    assert time.monotonic() - start < 2
    assert child.hear() >= 0.15, "it had not waited"
    child.tell("on")
    assert child.hear() == 0
    child.expect("closed")
    child.end()


def test_nothing_is_lost_by_ctrl_c(spawn):
    """Interrupted again and again while tensors arrive: each comes once."""
    name = unique_name()
    child = spawn(
        "import signal, payload\n"
        "got = []\n"
        "rx = podipc.receiver(args[0])\n"
        "say('open')\n"
        "interrupts = 0\n"
        "while len(got) < 200:\n"
        "    try:\n"
        "        x = rx.recv(30)\n"
        "        got.append(payload.check(x))\n"
        "    except KeyboardInterrupt:\n"
        "        interrupts += 1\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "say([n for _, n in got])\n"
        "say(interrupts)\n",
        name,
    )
    child.expect("open")
    with podipc.sender(name) as tx:
        for number in range(200):
            tx.send(payload.make(1, number), 30)
            time.sleep(0.002)
            if number % 5 == 0 and number < 190:
                child.signal(signal.SIGINT)
        # An interrupt between the return of recv and the append loses it in the
        # child's own code; then it waits for one that never comes: send more.
        number = 200
        while child.silent(0.3) and number < 400:
            tx.send(payload.make(1, number), 30)
            number += 1
    assert number < 400
    assert child.hear() > 0
    child.end()


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("role", ["receiver", "sender"])
def test_a_thousand_signals_a_second(spawn, role, wait):
    """No early return, and no late one."""
    child = spawn(
        "import signal\n"
        "count = 0\n"
        "def handler(*_):\n"
        "    global count\n"
        "    count += 1\n"
        "endpoint = getattr(podipc, args[0])(args[1])\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "start = time.monotonic()\n"
        "try:\n"
        "    endpoint.recv(1.0) if args[0] == 'receiver' else endpoint.send(np.zeros(3), 1.0)\n"
        "except podipc.Timeout:\n"
        "    took = time.monotonic() - start\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    say(took)\n"
        "    say(count)\n"
        "endpoint.close()\n",
        role,
        f"{unique_name()}?wait={wait}",
    )
    took = child.hear()
    assert 1.0 <= took < 5.0
    assert child.hear() >= 5
    child.end()


def test_a_handler_that_raises_ends_the_wait(spawn):
    child = spawn(
        "import signal\n"
        "def handler(*_): raise ZeroDivisionError\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "rx = podipc.receiver(args[0])\n"
        "say('open')\n"
        "try:\n"
        "    rx.recv()\n"
        "except ZeroDivisionError:\n"
        "    say('ended')\n"
        "rx.close()\n",
        unique_name(),
    )
    child.expect("open")
    time.sleep(0.1)
    child.signal(signal.SIGUSR1)
    child.expect("ended")
    child.end()


def test_a_handler_that_uses_the_same_handle(spawn):
    """It runs in the middle of a wait of that handle, with another dtype."""
    name = unique_name()
    child = spawn(
        "import signal\n"
        "tx = podipc.sender(args[0])\n"
        "def handler(*_):\n"
        "    tx.stats()\n"
        "    try:\n"
        "        tx.send(np.zeros(1, [('from the handler', 'f4')]), 0)\n"
        "    except podipc.Timeout:\n"
        "        pass\n"
        "    tx.empty(100, 'c16')\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "say('open')\n"
        "tx.send(np.arange(3, dtype='i2'), 30)\n"
        "say('sent')\n"
        "tx.close()\n",
        name,
    )
    child.expect("open")
    for _ in range(5):
        time.sleep(0.05)
        child.signal(signal.SIGUSR1)
    time.sleep(0.2)
    with podipc.receiver(name) as rx:
        x = rx.recv(30)
        assert (x.dtype, x.tolist()) == (np.dtype("i2"), [0, 1, 2])
    child.expect("sent")
    child.end()


def test_the_gil_is_free_while_waiting(spawn):
    child = spawn(
        "import threading\n"
        "rx = podipc.receiver(args[0])\n"
        "t = threading.Thread(target=lambda: say('met') if not wait() else None)\n"
        "def wait():\n"
        "    try:\n"
        "        rx.recv(60)\n"
        "    except podipc.Closed:\n"
        "        return False\n"
        "t.start()\n"
        "n = 0\n"
        "end = time.monotonic() + 0.5\n"
        "while time.monotonic() < end: n += 1\n"
        "say(n)\n"
        "rx.close()\n"
        "t.join()\n",
        unique_name(),
    )
    assert child.hear() > 1000
    child.expect("met")
    child.end()


@pytest.mark.parametrize("wait", ["adaptive", "block", "semaphore"])
@pytest.mark.parametrize("role", ["receiver", "sender"])
def test_an_idle_wait_costs_nothing(spawn, role, wait):
    """Two seconds of waiting: less than a tenth of a second of cpu."""
    child = spawn(
        "endpoint = getattr(podipc, args[0])(args[1])\n"
        "start = time.process_time()\n"
        "try:\n"
        "    endpoint.recv(2.0) if args[0] == 'receiver' else endpoint.send(np.zeros(3), 2.0)\n"
        "except podipc.Timeout:\n"
        "    say(time.process_time() - start)\n"
        "endpoint.close()\n",
        role,
        f"{unique_name()}?wait={wait}",
    )
    assert child.hear() < 0.1
    child.end()


# --- fork -------------------------------------------------------------------

FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def in_fork(work):
    """Run `work` in a forked child; what it returns, as text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, str(work()).encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the forked child ended with {status}: {text}"
    return text


@FORKS
def test_a_handle_in_a_forked_child():
    name = unique_name()
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        tx.send(payload.make(1, 0), 30)
        loaned = tx.empty(5)
        for call in (
            lambda: tx.send(np.zeros(3), 1),
            lambda: tx.send(loaned, 1),
            lambda: tx.empty(3),
            lambda: tx.loan(3).__enter__(),
            lambda: rx.recv(1),
            lambda: next(iter(rx)),
        ):
            assert in_fork(call).startswith("ForkedHandle: ")
        for call in (tx.close, rx.close):
            text = in_fork(call)
            assert text == "None" or text.startswith("ForkedHandle: ")
        # The parent notices nothing.
        assert payload.check(rx.recv(30)) == (1, 0)
        tx.send(payload.make(1, 1), 30)
        assert payload.check(rx.recv(30)) == (1, 1)


@FORKS
def test_a_forked_child_does_not_say_what_nobody_will_get():
    """The parent, which still has it, does."""
    name = unique_name()
    with podipc.sender(name) as tx:
        with podipc.receiver(name):
            tx.send(payload.make(1, 0), 30)
        eventually(lambda: tx.stats()["peers"] == 0, "it has left")

        def work():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                tx.close()

        assert in_fork(work) == "None"
        with podipc.receiver(name) as rx:
            assert payload.check(rx.recv(30)) == (1, 0)


@FORKS
def test_a_forked_child_may_open_its_own(spawn):
    name = unique_name()
    with podipc.receiver(name) as rx:

        def work():
            with podipc.sender(name) as tx:
                return tx.send(payload.make(5, 0), 30)

        assert in_fork(work) == "1"
        assert payload.check(rx.recv(30)) == (5, 0)
        with pytest.raises(podipc.Closed):
            rx.recv(30)


@FORKS
def test_a_received_array_in_a_forked_child():
    """It may be read there, and its end there gives nothing back twice."""
    name = unique_name()
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        tx.send(payload.make(1, 0, 1000), 30)
        x = [rx.recv(30)]

        def work():
            seen = payload.check(x[0])
            x.clear()
            return seen

        assert in_fork(work) == "(1, 0)"
        assert rx.stats()["held"] == 1
        assert payload.check(x[0]) == (1, 0)
        x.clear()
        for number in range(1, 100):
            tx.send(payload.make(1, number, 1000), 30)
            assert payload.check(rx.recv(30)) == (1, number)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@FORKS
def test_multiprocessing(method, spawn):
    """A handle stays open in the parent, whatever starts the workers; they end in order."""
    child = spawn(
        "import multiprocessing, peers_mp\n"
        "tx = podipc.sender(args[0])\n"
        "context = multiprocessing.get_context(args[1])\n"
        "p = context.Process(target=peers_mp.receive_one, args=(args[0],))\n"
        "p.start()\n"
        "tx.send(np.arange(5), 30)\n"
        "p.join(30)\n"
        "say(p.exitcode)\n"
        "tx.close()\n",
        unique_name(),
        method,
    )
    child.expect(0)
    child.end()


@pytest.mark.parametrize("how", ["return", "os._exit", "sys.exit", "exception"])
def test_ends_of_a_process(spawn, how):
    """With open handles, held arrays and a waiting thread: no hang, no crash."""
    name = unique_name()
    code = (
        "import threading, sys\n"
        "rx = podipc.receiver(args[0])\n"
        "say('open')\n"
        "x = rx.recv(30)\n"
        "threading.Thread(target=lambda: rx.recv(60), daemon=True).start()\n"
        "say('has it')\n"
        "hear()\n"
    )
    code += {
        "return": "",
        "os._exit": "os._exit(0)\n",
        "sys.exit": "sys.exit(0)\n",
        "exception": "raise ZeroDivisionError\n",
    }[how]
    child = spawn(code, name)
    child.expect("open")
    with podipc.sender(name) as tx:
        tx.send(payload.make(1, 0), 30)
        child.expect("has it")
        child.tell("end")
        with took_at_most(30):
            child.end(1 if how == "exception" else 0)
        # The thread held the receiver, or nothing was run at all: the next one clears up.
        killed.append(child.pid)
