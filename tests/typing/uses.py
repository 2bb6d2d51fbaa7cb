"""Checked by mypy --strict, never run. Every `type: ignore` marks a use that must be refused."""

import array
import mmap
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

import podipc


def good(tx: podipc.Sender, rx: podipc.Receiver, m: mmap.mmap) -> npt.NDArray[Any]:
    reached: int = tx.send(np.zeros(3), 1.5)
    tx.send(np.float32(3), timeout=reached)
    tx.send(b"bytes")
    tx.send(memoryview(b"bytes"))
    tx.send(array.array("d"))
    tx.send(m)
    with tx.loan((2, 3), np.uint8, timeout=None) as out:
        out[0] = 1
    a = tx.empty(5)
    tx.send(a)
    counters: dict[str, int] = tx.stats()
    assert counters
    for x in rx:
        x.sum()
    rx.recv()
    rx.recv(0)
    return rx.recv(timeout=3, copy=True, writable=False)


def opening() -> None:
    with podipc.sender("shm://x", mode=0o660, max_bytes=1 << 20) as tx:
        sender: podipc.Sender = tx
        sender.close()
    with podipc.receiver("x") as rx, podipc.publisher("p") as px:
        assert not rx.closed
        assert px.address
    with podipc.subscriber("p", latest=True) as sx:
        receiver: podipc.Receiver = sx
        receiver.close()
    try:
        podipc.sender("")
    except podipc.NoSpace as error:
        need: int | None = error.need
        number: int | None = error.errno
        assert need == number
    except (podipc.Timeout, podipc.PeerDied, podipc.Closed) as error:
        base: podipc.PodipcError = error
        assert base.call


def blocks() -> None:
    with podipc.Segment.create(4096, "frames", mode=0o660) as segment:
        a: npt.NDArray[np.uint8] = np.frombuffer(memoryview(segment), np.uint8)
        view: memoryview = memoryview(segment)
        name: str | None = segment.name
        print(a, view, name, len(segment), segment.fileno())
    podipc.Segment.from_fd(3, writable=True).close()
    podipc.Segment.open(pathlib.Path("/shared/frames"), owner=1001).unlink()
    semaphore = podipc.Semaphore.create("turn", 0, mode=0o666)
    semaphore.release(2)
    with semaphore:
        got: bool = semaphore.acquire(timeout=1.5)
        print(got, semaphore.value)
    with podipc.LoopbackListener() as listener:
        stream: podipc.LoopbackStream = podipc.LoopbackStream.connect(listener.port, timeout=1)
        with listener.accept() as other:
            other.send(b"bytes")
        x: npt.NDArray[Any] = stream.recv()
        print(x.shape)


def bad(tx: podipc.Sender, rx: podipc.Receiver) -> None:
    tx.send([1, 2, 3])  # type: ignore[arg-type]
    tx.send("text")  # type: ignore[arg-type]
    tx.send(None)  # type: ignore[arg-type]
    tx.send(3.5)  # type: ignore[arg-type]
    tx.send(np.zeros(3), timeout="1")  # type: ignore[arg-type]
    rx.recv(1, True)  # type: ignore[call-arg]
    podipc.sender("x", 0o600)  # type: ignore[call-arg]
    podipc.receiver("x", latest=True)  # type: ignore[call-arg]
    with tx.loan("x"):  # type: ignore[arg-type]
        pass
    podipc.Segment(4096)  # type: ignore[call-arg]
    podipc.Segment.create("4096")  # type: ignore[arg-type]
    podipc.Segment.open(None)  # type: ignore[arg-type]
    podipc.Semaphore.create("turn", "1")  # type: ignore[arg-type]
    podipc.LoopbackListener("7001")  # type: ignore[arg-type]
