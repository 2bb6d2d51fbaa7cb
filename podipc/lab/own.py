"""podipc's own methods: an address each way."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import podipc
from podipc.lab.methods import PATIENCE, Array, Link, Method, Place, Role

Address = Callable[[Place, int], str]
"""The address of one of the two ways (0: there, 1: back)."""


def _open(role: Role, place: Place, address: Address, lends: bool) -> Link:
    there, back = address(place, 0), address(place, 1)
    out, into = (there, back) if role == "ask" else (back, there)
    rx = podipc.receiver(into)
    try:
        tx = podipc.sender(out)
    except BaseException:
        rx.close()
        raise

    def close() -> None:
        tx.close()
        rx.close()

    _join(role, tx, rx)
    loan: Callable[[int], Array] | None = None
    if lends and role == "ask":
        itemsize = 8 if place.dtype == "<u8" else 1

        def loan(nbytes: int) -> Array:
            return tx.empty((nbytes // itemsize,), place.dtype)

    return Link(tx.send, lambda: rx.recv(timeout=PATIENCE), close, loan)


def _join(role: Role, tx: podipc.Sender, rx: podipc.Receiver) -> None:
    """Find the other side now, so that the first round trip is not also a search.

    Endpoints of shm find each other by themselves, and nothing may be sent, or
    memory would no longer be touched for the first time. The others connect
    when there is something to send.
    """
    if tx.address.startswith("shm:"):
        until = time.monotonic() + PATIENCE
        while not tx.stats()["peers"] and time.monotonic() < until:
            time.sleep(0.001)
        return
    hello = np.zeros(1, np.uint8)
    if role == "ask":
        tx.send(hello, timeout=PATIENCE)
    rx.recv(timeout=PATIENCE)
    if role == "answer":
        tx.send(hello, timeout=PATIENCE)


def _method(
    name: str, about: str, address: Address, *, lends: bool = False, extra: bool = False
) -> Method:
    return Method(
        name,
        "podipc",
        about,
        lambda role, place: _open(role, place, address, lends),
        # A loan is asked for as bytes, whatever the tensor is.
        typed=not lends,
        extra=extra,
    )


def _shm(options: str = "") -> Address:
    return lambda place, way: f"shm://{place.name}-{way}{options}"


METHODS = [
    _method("shm", "shared memory, one copy", _shm()),
    _method("shm-loan", "shared memory, no copy", _shm(), lends=True),
    _method("shm-block", "shared memory, asleep while it waits", _shm("?wait=block")),
    _method("shm-spin", "shared memory, never asleep", _shm("?wait=spin"), extra=True),
    _method("shm-semaphore", "shared memory, semaphores", _shm("?wait=semaphore"), extra=True),
    _method("tcp", "loopback socket", lambda p, way: f"tcp://127.0.0.1:{p.ports[way]}"),
    _method("unix", "Unix socket", lambda p, way: f"unix://{p.memory}/{p.name}-{way}.sock"),
    _method("fifo", "named pipe", lambda p, way: f"fifo://{p.memory}/{p.name}-{way}.fifo"),
    _method("file", "files in memory", lambda p, way: f"file://{p.memory}/{p.name}-{way}"),
    _method("file-disk", "files on disk", lambda p, way: f"file://{p.directory}/{p.name}-{way}"),
    _method("http", "HTTP POST", lambda p, way: f"http://127.0.0.1:{p.ports[way]}/{p.name}"),
]
