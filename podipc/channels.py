"""From an address to an open endpoint."""

from typing import TYPE_CHECKING

from podipc import _core
from podipc._core import AddressError
from podipc.address import parse

if TYPE_CHECKING:
    from podipc.interface import Receiver, Sender

MODES = (0o600, 0o660, 0o666)


def sender(address: str, *, mode: int = 0o600, max_bytes: int | None = None) -> "Sender":
    """Open the sending side of a channel.

    Does not wait for a receiver: the two sides may be started in any order.
    Several senders and receivers may use one channel of shm or file: each tensor
    goes to one of the receivers, in the order of its sender (what a dead receiver
    had not taken comes to another one later). A channel of tcp, unix or http has
    one receiver and any number of senders, one of fifo one of each at a time.

    Parameters
    ----------
    address
        What carries the tensors:

        ===============================  ==========================================
        ``NAME``, ``shm://NAME``         shared memory; by far the fastest.
                                         ``?wait=adaptive|block|spin|semaphore``
                                         chooses how to wait
        ``shm:///abs/dir``               the same, if the containers do not share
                                         ``/dev/shm``: peers meet in a directory on
                                         a volume that both mount
        ``tcp://127.0.0.1:PORT``         loopback socket; the receiver listens
        ``unix:///abs/path.sock``        Unix socket on a shared volume
        ``fifo:///abs/path.fifo``        named pipe on a shared volume
        ``file:///abs/dir``              files on a shared volume
        ``http://127.0.0.1:PORT/PATH``   HTTP POST; the receiver serves
        ===============================  ==========================================

        The peers of a NAME meet in the directory that the environment variable
        ``PODIPC_DIR`` names, ``/dev/shm/podipc`` by default.
    mode
        Who may join: 0o600 only this UID, 0o660 also a common group, 0o666 every
        UID of the Pod. Not for tcp and http, which any UID of the Pod can reach.
    max_bytes
        Budget in bytes for tensors that were sent and are not yet let go; when it
        is used up, `send` waits. None takes a safe share of the memory limit of
        this container. The memory of shm counts for the sender's container.

    Returns
    -------
    Sender
        See `podipc.Sender` for its methods. Any thread may use it. A child made by
        ``fork`` may not: there it raises ``ForkedHandle``.

    Raises
    ------
    AddressError
        The address or an option of it is not valid.
    AddressInUse
        What listens at the port of http is no receiver of podipc; `send` may find that out, too.
    NotFound
        The directory that the address names is not there: the volume is not mounted.
    NotPermitted
        The UID, or the mode of what is there, does not allow to join.
    NoSpace, MemoryLimit
        Not enough room to open it; the text names the limit.
    ValueError
        `mode` or `max_bytes` is not one of what is listed above.
    """
    return _open_sender(address, mode, max_bytes, broadcast=False)


def receiver(address: str, *, mode: int = 0o600, max_bytes: int | None = None) -> "Receiver":
    """Open the receiving side of a channel.

    Does not wait for a sender: the two sides may be started in any order.
    Several receivers of one channel (of shm or file) share its tensors out
    between them.

    Parameters
    ----------
    address
        As for `podipc.sender`; both sides give the same.
    mode
        As for `podipc.sender`; both sides should give the same.
    max_bytes
        The largest tensor, in bytes, to be taken from tcp, unix, fifo and http,
        whose tensors are in memory of this container. None takes a safe share of
        its memory limit. Of file it is the most that all received arrays may take
        together; a tensor larger than that raises ``MemoryLimit`` at each ``recv``
        until another receiver has taken it. Of no effect for shm, where the sender
        pays.

    Returns
    -------
    Receiver
        See `podipc.Receiver` for its methods. Any thread may use it. A child made
        by ``fork`` may not: there it raises ``ForkedHandle``.

    Raises
    ------
    AddressError
        The address or an option of it is not valid.
    AddressInUse
        The port or path is taken by another process of the Pod.
    NotFound
        The directory that the address names is not there: the volume is not mounted.
    NotPermitted
        The UID, or the mode of what is there, does not allow to join.
    NoSpace, MemoryLimit
        Not enough room to open it; the text names the limit.
    ValueError
        `mode` or `max_bytes` is not one of what is listed above.
    """
    return _open_receiver(address, mode, max_bytes, broadcast=False, latest=False)


def publisher(address: str, *, mode: int = 0o600, max_bytes: int | None = None) -> "Sender":
    """Open the sending side of a channel where every receiver gets every tensor.

    Like `podipc.sender`, with the same parameters and errors, but only for shm,
    and the other side are `podipc.subscriber`. ``send`` does not wait for a
    subscriber: it returns the number of those it goes to, which may be 0 (counted
    as ``unheard`` in ``stats()``). It waits for a subscriber that is slow, unless
    that one asked for ``latest=True``.
    """
    return _open_sender(address, mode, max_bytes, broadcast=True)


def subscriber(
    address: str, *, latest: bool = False, mode: int = 0o600, max_bytes: int | None = None
) -> "Receiver":
    """Open a receiving side that gets every tensor sent by a `podipc.publisher`.

    Like `podipc.receiver`, with the same parameters and errors, but only for shm.
    It gets what is sent after it joined.

    With ``latest=True``, ``recv`` gives the newest tensor there is, and passes over
    older ones; how many is counted as ``skipped`` in ``stats()``. The publisher
    never waits for such a subscriber. What it publishes beyond two tensors it keeps
    back until ``recv`` asks for it, which waits for the answer 10 ms at most and not
    beyond its timeout; then it gives the newest that has arrived.
    """
    return _open_receiver(address, mode, max_bytes, broadcast=True, latest=latest)


def _check(mode: int, max_bytes: int | None) -> int:
    """Check what does not depend on the address; the budget as _core takes it (0: default)."""
    if mode not in MODES:
        shown = oct(mode) if isinstance(mode, int) else repr(mode)
        slip = ""
        if mode in {600, 660, 666}:
            slip = f"; {mode} is decimal: write 0o{mode}"
        raise ValueError(f"mode must be 0o600, 0o660 or 0o666, not {shown}{slip}")
    if max_bytes is None:
        return 0
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
        raise TypeError(f"max_bytes must be an int or None, not {type(max_bytes).__name__}")
    if not 1 <= max_bytes < 2**63:
        raise ValueError(f"max_bytes must be a number of bytes from 1 up, or None, not {max_bytes}")
    return max_bytes


def _only_shm(text: str, method: str) -> None:
    if method != "shm":
        raise AddressError(
            f"address {text!r}: publisher and subscriber work over shm only, because {method} has "
            "no way to give one tensor to several receivers; use shm://NAME, or sender and receiver"
        )


def _open_sender(address: str, mode: int, max_bytes: int | None, *, broadcast: bool) -> "Sender":
    parsed = parse(address)
    budget = _check(mode, max_bytes)
    if broadcast:
        _only_shm(parsed.text, parsed.method)
    if parsed.method == "http":
        from podipc import http

        return http.open_sender(parsed, max_bytes)
    return _core.Sender(
        parsed.text,
        parsed.method,
        parsed.host or parsed.path,
        port=parsed.port,
        wait=parsed.wait,
        named=parsed.named,
        mode=mode,
        max_bytes=budget,
        broadcast=broadcast,
    )


def _open_receiver(
    address: str, mode: int, max_bytes: int | None, *, broadcast: bool, latest: bool
) -> "Receiver":
    parsed = parse(address)
    budget = _check(mode, max_bytes)
    if broadcast:
        _only_shm(parsed.text, parsed.method)
    if parsed.method == "http":
        from podipc import http

        return http.open_receiver(parsed, max_bytes)
    return _core.Receiver(
        parsed.text,
        parsed.method,
        parsed.host or parsed.path,
        port=parsed.port,
        wait=parsed.wait,
        named=parsed.named,
        mode=mode,
        max_bytes=budget,
        broadcast=broadcast,
        latest=latest,
    )
