"""What a check has found, and how bad it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
LEVELS: Final = (OK, WARN, FAIL)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    level
        `OK`; `WARN`: it works, with less than one might expect; `FAIL`: it does not work.
    area
        What it is about: ``/dev/shm``, or a field of a manifest.
    text
        What was found.
    change
        What mends it, a field of the manifest and its value; "" if nothing has to.
    """

    level: str
    area: str
    text: str
    change: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> str:
    """The worst level there is."""
    return max((finding.level for finding in findings), key=LEVELS.index, default=OK)
