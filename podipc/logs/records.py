"""A record of Python's logging as one line of JSON, of bounded size."""

import json
import logging
from typing import Any, Final

from podipc.logs.entries import LEVEL, LEVELS

MAX_TEXT: Final = 32 << 10
"""Characters of a message, and of a traceback."""
MAX_FIELD: Final = 1000
MAX_FIELDS: Final = 50

_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_TAKEN: Final = {"time", "level", "logger"}
_OWN: Final = b'"logger": "podipc.logs", '
_plain: Final = logging.Formatter()


def encode(record: logging.LogRecord, formatter: logging.Formatter | None) -> bytes:
    """The line, without an end.

    With a formatter its text is the message, tracebacks included. Without one, message,
    traceback and stack are fields of their own.
    """
    line: dict[str, Any] = {
        "time": record.created,
        "level": record.levelname,
        "logger": record.name,
    }
    if not LEVEL.fullmatch(name := str(record.levelname)):  # one in colours, for example
        line["level"] = _standard(record.levelno)
        line["levelname"] = _cut(name, MAX_FIELD)
    if formatter is not None:
        line["message"] = _cut(formatter.format(record), MAX_TEXT)
    else:
        line["message"] = _cut(record.getMessage(), MAX_TEXT)
        if record.exc_info and not record.exc_text:
            record.exc_text = _plain.formatException(record.exc_info)
        if record.exc_text:
            line["exception"] = _cut(record.exc_text, MAX_TEXT)
        if record.stack_info:
            line["stack"] = _cut(record.stack_info, MAX_TEXT)
    extra = [(name, value) for name, value in vars(record).items() if name not in _STANDARD]
    for name, value in extra[:MAX_FIELDS]:
        line[f"extra_{name}" if name in _TAKEN or name in line else name] = _field(value)
    return _encoded(line)


def _standard(number: int) -> str:
    """The name of the highest standard level that is not above this one."""
    steps = number // 10 if isinstance(number, int) else 2
    return LEVELS[min(max(steps, 1), len(LEVELS)) - 1]


def report(level: str, message: str, now: float) -> bytes:
    """A line of our own."""
    line = {"time": now, "level": level, "logger": "podipc.logs", "message": message}
    return _encoded(line)


def is_report(line: bytes) -> bool:
    """Whether it is a line of our own."""
    return _OWN in line


def _encoded(line: dict[str, Any]) -> bytes:
    # What UTF-8 cannot have is a half of a surrogate pair, and JSON writes it like this.
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _field(value: object) -> object:
    """As JSON has it, if it does and that is short; else its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _cut(value, MAX_FIELD)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _cut(str(value), MAX_FIELD)
    return value if len(text) <= MAX_FIELD else _cut(text, MAX_FIELD)


def _cut(text: str, limit: int) -> str:
    more = len(text) - limit
    return text if more <= 0 else f"{text[:limit]}… ({more} more characters)"
