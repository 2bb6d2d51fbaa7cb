"""iceoryx2's Python binding as a peer: publish-subscribe of byte slices, the receiver polling.

Nothing is dropped: there is no overflow, and a full buffer makes the publisher
wait. The sender copies the tensor into memory lent by iceoryx2 with `memmove`,
or computes into it. The receiver uses it in place.
"""

from __future__ import annotations

import ctypes
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np

from podipc.lab.methods import PATIENCE, Array, Link, Place, Role, depth

TRIES = 1 << 16
"""Polls between two looks at the clock."""


class _Iceoryx:
    def __init__(self, role: Role, place: Place) -> None:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Fatal)
        self._prefix = f"iox2_{place.name}_"
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(str(place.memory / "iceoryx2"))
        config.global_cfg.prefix = iox2.FileName.new(self._prefix)
        self._node = (
            iox2.NodeBuilder.new()
            .config(config)
            .signal_handling_mode(iox2.SignalHandlingMode.Disabled)
            .create(iox2.ServiceType.Ipc)
        )
        there, back = (self._service(iox2, place, way) for way in ("there", "back"))
        out, into = (there, back) if role == "ask" else (back, there)
        self._subscriber = into.subscriber_builder().create()
        self._publisher = (
            out.publisher_builder()
            .initial_max_slice_len(place.nbytes if role == "ask" else 8)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        until = time.monotonic() + PATIENCE
        while out.dynamic_config.number_of_subscribers < 1 and time.monotonic() < until:
            time.sleep(0.001)
        self._publisher.update_connections()
        self._dtype = np.dtype(place.dtype)
        self._lent: Any = None
        self._sample: Any = None

    def _service(self, iox2: Any, place: Place, way: str) -> Any:
        return (
            self._node.service_builder(iox2.ServiceName.new(f"{place.name}-{way}"))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .payload_alignment(iox2.Alignment.new(64))
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(depth(place.nbytes))
            .max_publishers(1)
            .max_subscribers(1)
            .open_or_create()
        )

    def send(self, array: Array) -> None:
        n = array.nbytes
        sample = self._publisher.loan_slice_uninit(n)
        ctypes.memmove(sample.payload_ptr, array.ctypes.data, n)
        sample.assume_init().send()

    def loan(self, nbytes: int) -> Array:
        self._lent = sample = self._publisher.loan_slice_uninit(nbytes)
        return np.frombuffer(sample.payload().as_memory_view(), self._dtype)

    def send_lent(self, array: Array) -> None:
        sample, self._lent = self._lent, None
        sample.assume_init().send()

    def recv(self) -> Array:
        self._sample = None
        receive = self._subscriber.receive
        sample = receive()
        if sample is None:
            sample = self._poll(receive)
        self._sample = sample
        return np.frombuffer(sample.payload().as_memory_view(), self._dtype)

    @staticmethod
    def _poll(receive: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            for _ in range(TRIES):
                sample = receive()
                if sample is not None:
                    return sample
            if time.monotonic() > until:
                raise TimeoutError("no sample came")

    def close(self) -> None:
        """Drop everything, in the order that lets iceoryx2 remove its files; then the rest."""
        for name in ("_sample", "_lent", "_publisher", "_subscriber", "_node"):
            self.__dict__.pop(name, None)
        gc.collect()
        for left in Path("/dev/shm").glob(self._prefix + "*"):
            left.unlink(missing_ok=True)


def link(role: Role, place: Place, *, loan: bool) -> Link:
    """With `loan` tensors are made in iceoryx2's memory."""
    one = _Iceoryx(role, place)
    if loan and role == "ask":
        return Link(one.send_lent, one.recv, one.close, one.loan)
    return Link(one.send, one.recv, one.close)
