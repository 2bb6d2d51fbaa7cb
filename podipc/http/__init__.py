r"""Tensors as HTTP requests to a sidecar, with nothing but the standard library.

The receiver serves one path of one port of 127.0.0.1; a sender keeps one
connection to it. Every request is a POST to that path; what it is for stands in
``Podipc-Do``:

==========  ===================================================================
``join``    here is a sender; answered with the limits of the receiver
``room``    wait (``Podipc-Wait`` ms) for ``Podipc-Need`` bytes of room
``tensor``  the body is a tensor's bytes; answered when it is queued
``bye``     the sender closes; a connection that ends without it has died
==========  ===================================================================

A tensor is described by ``Podipc-Type`` (the text of its dtype, percent-encoded),
``Podipc-Shape`` (``2,3``; empty for 0-d) and ``Podipc-Order`` (``C`` or ``F``), so
that a shell can send one, too::

    curl --data-binary @x.bin -H 'Podipc-Type: <f4' -H 'Podipc-Shape: 2,3' \
        http://127.0.0.1:8080/x

A page that a browser shows could send requests to 127.0.0.1 as well. So a request
with an ``Origin``, or with a ``Host`` that is not this one, is refused.
"""

from typing import TYPE_CHECKING

from podipc.http.receiver import HttpReceiver
from podipc.http.sender import HttpSender

if TYPE_CHECKING:
    from podipc.address import Address

__all__ = ["HttpReceiver", "HttpSender", "open_receiver", "open_sender"]


def open_sender(address: "Address", max_bytes: int | None = None) -> HttpSender:
    """Open the sending side; does not wait for a receiver. See `podipc.sender`."""
    return HttpSender(address, max_bytes)


def open_receiver(address: "Address", max_bytes: int | None = None) -> HttpReceiver:
    """Open the receiving side, which listens at once. See `podipc.receiver`.

    `max_bytes` is the largest tensor, and all that may wait to be received.
    Raises ``AddressInUse`` and ``NotPermitted``.
    """
    return HttpReceiver(address, max_bytes)
