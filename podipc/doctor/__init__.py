"""Is this container, or this manifest, a place where podipc works; if not, what to change.

Every check does the thing that it is about: it makes a sealed memfd and tries to break the
seal, sends a tensor, meets another doctor. What a check finds is a `Finding`.
"""

from podipc.doctor.finding import FAIL, OK, WARN, Finding, worst

__all__ = ["FAIL", "OK", "WARN", "Finding", "worst"]
