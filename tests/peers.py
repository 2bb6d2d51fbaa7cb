"""What the child processes of the tests do. Imported by them alone: light on purpose."""

import contextlib
import os
import select
import sys
import threading
import time

import numpy as np
import payload
from support import hear, say

import podipc


def agent(role, address, options=None):
    """An endpoint that does what it is told, one word at a time, and says how it went.

    ``["send", sender, number, words, timeout]`` and so on; the answer is
    ``{"ok": value}`` or ``{"error": class, "text": ...}``.
    """
    try:
        endpoint = getattr(podipc, role)(address, **(options or {}))
    except Exception as error:
        say({"error": type(error).__name__, "text": str(error)})
        return
    say({"ok": "open"})
    held = []
    while True:
        verb, *args = hear()
        try:
            result = _DO[verb](endpoint, held, *args)
        except (Exception, KeyboardInterrupt) as error:
            say({"error": type(error).__name__, "text": str(error)})
        else:
            say({"ok": result})


def _send(tx, _held, sender, number, words=16, timeout=30):
    return tx.send(payload.make(sender, number, words), timeout)


def _recv(rx, _held, timeout=30):
    return payload.check(rx.recv(timeout))


def _hold(rx, held, timeout=30):
    held.append(rx.recv(timeout))
    return payload.check(held[-1])


def _drop(_rx, held):
    held.clear()


def _drain(rx, _held):
    """Everything until the end."""
    return [payload.check(x) for x in rx]


def _close(endpoint, _held):
    endpoint.close()


def _stats(endpoint, _held):
    return endpoint.stats()


def _recheck(_rx, held):
    return [payload.check(x) for x in held]


def _wait_for_peers(endpoint, _held, n):
    while endpoint.stats()["peers"] != n:
        time.sleep(0.002)


_DO = {
    "send": _send,
    "recv": _recv,
    "hold": _hold,
    "drop": _drop,
    "drain": _drain,
    "close": _close,
    "stats": _stats,
    "recheck": _recheck,
    "peers": _wait_for_peers,
}


def flood(address, sender, words, options=None):
    """Send numbered tensors until killed."""
    with podipc.sender(address, **(options or {})) as tx:
        say("open")
        number = 0
        while True:
            tx.send(payload.make(sender, number, words), 30)
            number += 1


def flood_until_told(address, sender, words, options=None):
    """Send numbered tensors until told how many receivers there are in the end.

    Then on until these have joined and have taken all; say the counters.
    """
    with podipc.sender(address, **(options or {})) as tx:
        say("open")
        number = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            try:
                tx.send(payload.make(sender, number, words), 0.2)
                number += 1
            except (podipc.PeerDied, podipc.Timeout):
                pass
        receivers = hear()
        while tx.stats()["queued"] or tx.stats()["peers"] != receivers:
            with contextlib.suppress(podipc.PeerDied, podipc.Timeout):
                tx.send(payload.make(sender, number, words), 0.05)
                number += 1
            time.sleep(0.01)
        stats = tx.stats()
        say({"sent": number, **stats})
        hear()


def swallow(address, options=None):
    """Receive until killed, until the end, or until the test is gone; say what was taken.

    Each is held until it was said: who dies in between has it, as the sender sees it.
    """
    with podipc.receiver(address, **(options or {})) as rx:
        say("open")
        while True:
            try:
                x = rx.recv(1)
                say(payload.check(x))
            except podipc.PeerDied:
                say("died")
            except podipc.Closed:
                say("closed")
                return
            except podipc.Timeout:
                if select.select([sys.stdin], [], [], 0)[0]:
                    hear()


def echo(there, back, options=None):
    """Send everything back as it came."""
    options = options or {}
    with podipc.receiver(there, **options) as rx, podipc.sender(back, **options) as tx:
        say("open")
        for x in rx:
            tx.send(x, 30)


def forker(address):
    """Fork with an open sender; the grandchild lives on."""
    tx = podipc.sender(address)
    tx.send(payload.make(1, 0), 30)
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    say(pid)
    hear()


def _wait_in(endpoint, verb, big):
    match verb:
        case "recv":
            endpoint.recv()
        case "recv timeout":
            endpoint.recv(1e6)
        case "iterate":
            next(iter(endpoint))
        case "send":
            endpoint.send(payload.make(1, 0))
        case "send big":
            endpoint.send(big)
        case "loan":
            with endpoint.loan(big.shape):
                pass
        case "empty":
            endpoint.empty(big.shape)


def interrupted(role, address, verb, options=None):
    """Wait for ever in `verb`; say how KeyboardInterrupt came, then use the handle again."""
    endpoint = getattr(podipc, role)(address, **(options or {}))
    big = np.zeros(1 << 17)
    say("open")
    if hear() == "fill":
        kept = [endpoint.empty(big.shape) for _ in range(2)]
        say(len(kept))
    say("waiting")
    start = time.monotonic()
    try:
        while True:
            _wait_in(endpoint, verb, big)
    except KeyboardInterrupt:
        say("interrupted")
    say(time.monotonic() - start)
    hear()
    say(endpoint.stats()["messages"])
    endpoint.close()
    say("closed")


def threads(address, n):
    """Receive with n threads from one receiver; say everything that came."""
    rx = podipc.receiver(address)
    got = []

    def work():
        try:
            for x in rx:
                got.append(payload.check(x))
        except podipc.Closed:
            pass

    workers = [threading.Thread(target=work) for _ in range(n)]
    for worker in workers:
        worker.start()
    say("open")
    for worker in workers:
        worker.join()
    say(got)


def take_all_descriptors():
    """Leave none: neither one that is free, nor one that a thread is just done with."""
    import resource  # an extension, which not every user of the machine may read

    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, 4096))
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError:
            time.sleep(0.01)
