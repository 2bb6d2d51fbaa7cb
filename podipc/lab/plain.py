"""Two plain processes, with the interface of a local Pod: nothing is isolated."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any


class Pod:
    """Runs "containers" as ordinary processes of this machine."""

    isolation = "none"
    notes: Sequence[str] = (
        "plain processes: no namespaces, no limits, and the /dev/shm of this machine",
    )

    def __init__(self, name: str, shm_bytes: int | None = None) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Pod:
        return self

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends at the latest with the Pod."""
        process = subprocess.Popen(
            list(argv),
            env={**os.environ, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
