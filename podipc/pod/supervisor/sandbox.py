"""What a supervised Pod is made with: where its containers are started, and their runs."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from podipc.pod import manifest as manifests
from podipc.pod import runtime

__all__ = ["Process", "Sandbox", "Streams"]

Streams: TypeAlias = tuple[runtime.Stream, runtime.Stream, runtime.Stream]
"""Of a program: stdin, stdout, stderr."""


class Process(Protocol):
    """One run of a container. One thread at a time."""

    returncode: int | None

    @property
    def pid(self) -> int:
        """Its main process as seen from here."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when it has ended."""

    def poll(self) -> int | None:
        """The exit code, or minus the signal; None if it still runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; the exit code."""

    def send_signal(self, number: int) -> None:
        """Send its main process a signal; nothing happens if that has ended."""

    def is_deaf(self) -> bool:
        """Whether SIGTERM, if sent just now, was dropped by the kernel."""


class Sandbox(abc.ABC):
    """The place of one Pod, and what its containers are made with.

    Attributes
    ----------
    notes
        One line for everything that the manifest asks for and there is not.
    python
        In a container, for `exec_from_within`.
    exec_holds_state
        Whether the containers' states must not change while `exec` is at work.
    """

    notes: list[str]
    python = "python3"
    exec_holds_state = True

    @abc.abstractmethod
    def start(self, container: manifests.Container) -> tuple[Process, int]:
        """Start a container; its process, and a pipe with what it prints.

        Raises
        ------
        PodipcError
            The text says where in the manifest.
        """

    @abc.abstractmethod
    def exec(
        self,
        container: manifests.Container,
        process: Process,
        command: Sequence[str],
        streams: Streams,
    ) -> runtime.Program:
        """Start one more program in a container whose main process is `process`."""

    def exec_from_within(
        self,
        container: manifests.Container,
        process: Process,
        command: Sequence[str],
        streams: Streams,
    ) -> runtime.Program:
        """As `exec`, of a program that only has to be in the Pod's network."""
        return self.exec(container, process, command, streams)

    @abc.abstractmethod
    def kills(self, container: manifests.Container) -> int:
        """How often something in that container was killed because of its memory limit."""

    @abc.abstractmethod
    def close(self) -> None:
        """Kill all that is in it and remove it."""
