r"""How a line is written: as text, or as an object of JSON. One entry is always one line.

As text::

    2026-01-31T23:59:59.999Z WARNING Received log: app.db: slow query ms=912 table="users"

Time (UTC), level, the logger if there is one, the message, and what else the application gave
as ``name=value`` in JSON. What could forge a line or act on a terminal is shown instead: line
ends, control characters, and those that turn the direction of writing, as ``\n``, ``\x1b``,
``\u202e``.
"""

import json
import re
from datetime import UTC, datetime
from typing import Final

from podipc.logs.entries import Entry

PREFIX: Final = "Received log: "

_UNSAFE: Final = re.compile(
    "[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_SHORT: Final = {"\n": "\\n", "\r": "\\r"}


def as_text(entry: Entry) -> bytes:
    """A line for people, with its end."""
    words = [_time(entry.time), entry.level, PREFIX.rstrip()]
    if entry.logger:
        words.append(f"{entry.logger}:")
    words.append(entry.message)
    words += [f"{name}={_json(value)}" for name, value in entry.fields.items()]
    return _UNSAFE.sub(_shown, " ".join(words)).encode() + b"\n"


def as_json(entry: Entry) -> bytes:
    """A line for programs, with its end."""
    line = {"time": _time(entry.time), "level": entry.level, "message": entry.message}
    if entry.logger:
        line["logger"] = entry.logger
    return _UNSAFE.sub(_escaped, _json({**line, **entry.fields})).encode() + b"\n"


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
