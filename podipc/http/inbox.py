"""What is between the threads of a server and `recv`: the queue, and who is there."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from podipc._core import Closed, PeerDied
from podipc.deadline import Deadline

GRACE_SECONDS: Final = 0.08
"""A sender that gives a request up opens a new connection before it ends the old one."""

PROMISE_SECONDS: Final = 0.5
"""How long room is kept for a sender that asked for it. One that timed out just before it
was promised does not come for it; one that is only slow asks again."""


@dataclass
class Peer:
    """A sender, as long as something may still come of it."""

    next: int
    connections: int = 0
    lost_at: float = 0.0
    """When its last connection ended."""
    bye: bool = False
    reserved: int = 0
    """Bytes that it was promised,"""
    promised_at: float = 0.0
    """then."""
    queued: int = 0
    """Tensors."""
    taken: int = 0


@dataclass
class Inbox:
    """What is between the server's threads and `recv`. All of it under `changed`."""

    max_bytes: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    queue: "deque[tuple[np.ndarray[Any, Any], str]]" = field(default_factory=deque)
    used: int = 0
    """Bytes that are queued or promised."""
    peers: dict[str, Peer] = field(default_factory=dict)
    ended: bool = False
    """The sender that left last closed in order."""
    closing: bool = False
    messages: int = 0
    bytes: int = 0
    died: int = 0

    def join(self, who: str, sequence: int) -> int:
        """A connection of that sender; the number of the tensor that is to come next."""
        with self.changed:
            peer = self.peers.setdefault(who, Peer(sequence))
            peer.connections += 1
            self.ended = False
            self.changed.notify_all()
            return peer.next

    def leave(self, who: str) -> None:
        """The end of a connection."""
        with self.changed:
            peer = self.peers.get(who)
            if peer is None:
                return
            peer.connections -= 1
            if peer.connections == 0:
                peer.lost_at = time.monotonic()
                self._release(peer)
            self.changed.notify_all()

    def bye(self, who: str) -> None:
        with self.changed:
            if who in self.peers:
                self.peers[who].bye = True
            self.changed.notify_all()

    def _release(self, peer: Peer) -> None:
        self.used -= peer.reserved
        peer.reserved = 0

    def _expire(self) -> float:
        """Take back what nobody came for; how long until there may be more of it."""
        now = time.monotonic()
        soon = float("inf")
        for peer in self.peers.values():
            left = peer.promised_at + PROMISE_SECONDS - now
            if peer.reserved and left <= 0:
                self._release(peer)
            elif peer.reserved:
                soon = min(soon, left)
        return soon

    def room(self, who: str, need: int, wait: float) -> bool:
        """Promise `need` bytes to that sender, if it is there, once they are free."""
        deadline = Deadline(wait)
        with self.changed:
            if who in self.peers:
                self._release(self.peers[who])
            while not self.closing:
                soon = self._expire()
                peer = self.peers.get(who)
                if peer is None:
                    return False  # nobody would ever give them back
                if self.used + need <= self.max_bytes:
                    self.used += need
                    peer.reserved = need
                    peer.promised_at = time.monotonic()
                    return True
                if deadline.passed or peer.bye:
                    return False
                self.changed.wait(min(deadline.left(), soon))
            return False

    def claim(self, who: str, need: int) -> bool:
        """Take bytes for a body: those that were promised, or free ones."""
        with self.changed:
            peer = self.peers.get(who)
            if peer is not None and peer.reserved >= need:
                self.used -= peer.reserved - need
                peer.reserved = 0
                return True
            if self.closing or self.used + need > self.max_bytes:
                return False
            self.used += need
            return True

    def unclaim(self, need: int) -> None:
        with self.changed:
            self.used -= need
            self.changed.notify_all()

    def put(self, array: "np.ndarray[Any, Any]", who: str) -> bool:
        """Queue a tensor whose bytes were claimed. False: too late."""
        with self.changed:
            if self.closing:
                return False
            peer = self.peers.get(who)
            if peer is not None:
                peer.next += 1
                peer.queued += 1
            self.queue.append((array, who))
            self.changed.notify_all()
            return True

    def _gone(self, now: float) -> "PeerDied | None":
        """Forget senders of which nothing more can come."""
        for who, peer in list(self.peers.items()):
            if peer.queued or not (peer.bye or peer.connections == 0):
                continue
            if peer.bye:
                self._release(peer)
                del self.peers[who]
                self.ended = True
            elif now >= peer.lost_at + GRACE_SECONDS:
                del self.peers[who]
                self.ended = False
                self.died += 1
                return PeerDied("a sender died without closing; what it had sent was delivered")
        return None

    def _until(self) -> float:
        """When to look again, if nothing happens before: a sender may prove to be dead."""
        lost = [p.lost_at for p in self.peers.values() if p.connections == 0 and not p.queued]
        return min(lost, default=float("inf")) + GRACE_SECONDS

    def get(self, deadline: Deadline) -> "np.ndarray[Any, Any] | None":
        """The next tensor; None when the deadline has passed."""
        with self.changed:
            while not self.closing:
                died = self._gone(time.monotonic())
                if died is not None:
                    raise died
                if self.queue:
                    return self._take()
                if self.ended and not self.peers:
                    raise Closed("every sender has closed, and nothing is left")
                if deadline.passed:
                    return None
                again = max(0.0, self._until() - time.monotonic())
                self.changed.wait(min(deadline.left(), again))
            raise Closed("this receiver was closed")

    def _take(self) -> "np.ndarray[Any, Any]":
        array, who = self.queue.popleft()
        self.used -= array.nbytes
        self.messages += 1
        self.bytes += array.nbytes
        if who in self.peers:
            self.peers[who].queued -= 1
            self.peers[who].taken += 1
        self.changed.notify_all()
        return array
