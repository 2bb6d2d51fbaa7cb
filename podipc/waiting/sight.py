"""What a look at an address gives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sight:
    """What was seen. `text` says it, in words that may follow "ADDRESS: "."""

    there: bool
    text: str
