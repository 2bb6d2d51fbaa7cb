"""Whether somebody is there at an address, seen from outside, and waiting until so.

Nothing here joins a channel: the one who is looked at does not take the one who looks
for a peer, and nothing stays.
"""

from podipc.waiting.look import ANY, RECEIVER, SENDER, Watch
from podipc.waiting.sight import Sight
from podipc.waiting.wait import wait

__all__ = ["ANY", "RECEIVER", "SENDER", "Sight", "Watch", "wait"]
