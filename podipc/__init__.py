"""Move tensors between the containers of one Kubernetes Pod.

``podipc.sender(address)`` in one container, ``podipc.receiver(address)`` in the
other; the address names the method (shared memory, TCP, Unix socket, FIFO,
files, HTTP), so that trying another is changing a string::

    with podipc.sender("shm://frames") as tx:
        tx.send(np.ones((1080, 1920, 3), np.uint8))

    with podipc.receiver("shm://frames") as rx:
        for x in rx:
            ...

Every exception derives from `PodipcError` and from the built-in it resembles.
"""

from podipc import starting  # noqa: F401  (first: what follows takes a while)
from podipc._core import (
    AddressError,
    AddressInUse,
    AlreadyExists,
    Closed,
    CorruptSegment,
    ForkedHandle,
    LoopbackListener,
    LoopbackStream,
    MemoryLimit,
    NoSpace,
    NotFound,
    NotPermitted,
    PeerDied,
    PodipcError,
    Segment,
    Semaphore,
    SystemCallError,
    Timeout,
    UnsupportedTensor,
    VersionMismatch,
)
from podipc.channels import publisher, receiver, sender, subscriber
from podipc.interface import Receiver, Sender

__version__ = "0.1.0.dev0"

__all__ = [
    "AddressError",
    "AddressInUse",
    "AlreadyExists",
    "Closed",
    "CorruptSegment",
    "ForkedHandle",
    "LoopbackListener",
    "LoopbackStream",
    "MemoryLimit",
    "NoSpace",
    "NotFound",
    "NotPermitted",
    "PeerDied",
    "PodipcError",
    "Receiver",
    "Segment",
    "Semaphore",
    "Sender",
    "SystemCallError",
    "Timeout",
    "UnsupportedTensor",
    "VersionMismatch",
    "__version__",
    "publisher",
    "receiver",
    "sender",
    "subscriber",
]
