"""Meet the doctors of other containers, and say what is shared with each."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from podipc.doctor import facts, verdicts, ways
from podipc.doctor.finding import WARN, Finding
from podipc.doctor.message import encode

PATIENCE: Final = 10.0
"""Seconds for one who was heard on one way to be heard on the others that are shared."""
GRACE: Final = 0.5
"""Seconds to go on telling, when all is known: the others have to know it, too."""
PAUSE: Final = 0.02


@dataclass
class Peer:
    """Another doctor. `heard`, `hears`: the ways on which we hear it, and it us."""

    facts: dict[str, Any]
    since: float
    heard: set[str] = field(default_factory=set)
    hears: set[str] = field(default_factory=set)


@dataclass
class Met:
    """What came of it: the others, our own facts, and what kept a way from working."""

    peers: list[Peer]
    own: dict[str, Any]
    errors: dict[str, str]
    directory: str | None


def meet(seconds: float, directory: str | None = None) -> Met:
    """Wait for others to come, `seconds` at most, and learn what is shared with them.

    They meet in the channel that `ways.both` names and, at the same time, on a port. Leaves
    nothing of either.
    """
    now = time.monotonic
    own = facts.collect()
    own["meeting"] = ways.identities(directory)
    me = secrets.token_hex(8)
    peers: dict[str, Peer] = {}
    settled: float | None = None
    deadline = now() + seconds

    def say(way: str) -> bytes:
        return encode(me, [who for who, peer in peers.items() if way in peer.heard], own)

    with contextlib.ExitStack() as stack:
        all_ways = [stack.enter_context(contextlib.closing(w)) for w in ways.both(directory)]
        while True:
            for way in all_ways:
                for message in way.step(say):
                    if message.who == me:
                        continue
                    peer = peers.setdefault(message.who, Peer(message.facts, now()))
                    peer.heard.add(way.name)
                    if me in message.heard:
                        peer.hears.add(way.name)
            if peers and all(_known(peer, own, now()) for peer in peers.values()):
                settled = settled or now()
                if now() >= settled + GRACE:
                    break
            else:
                settled = None
                if now() >= deadline + (PATIENCE if peers else 0):
                    break
            time.sleep(PAUSE)
        errors = {way.name: way.error for way in all_ways if way.error}
    return Met(list(peers.values()), own, errors, directory)


def _known(peer: Peer, own: dict[str, Any], now: float) -> bool:
    """Whether there is nothing more to hear of it."""
    if now >= peer.since + PATIENCE:
        return True
    loopback = "loopback" in peer.heard or not verdicts.same(own, peer.facts, "net")
    memory = "memory" in peer.heard & peer.hears or not verdicts.same(own, peer.facts, "meeting")
    return loopback and memory


def findings(met: Met, seconds: float) -> Iterator[Finding]:
    """What is shared with each of them, or why nobody may have come."""
    if not met.peers:
        kept = "".join(f"; {way}: {error}" for way, error in met.errors.items())
        yield Finding(
            WARN,
            "meeting",
            f"nobody came in {seconds:g} s. Either no other container runs `podipc doctor "
            "--meet` at the same time, or the two share neither 127.0.0.1 nor the directory "
            f"{ways.place(met.directory)}: then they are not of one Pod, or one has a volume of "
            f"its own there{kept}",
            "spec.containers: both in one Pod; the command of both: podipc doctor --meet 60",
        )
    for peer in met.peers:
        yield from verdicts.of(met.own, peer.facts, peer.heard, peer.hears, met.errors)
