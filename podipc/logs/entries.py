"""What an application sends to be logged: the body of a request, taken apart and checked."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from typing import Any, Final, NoReturn

TEXT: Final = "text/plain"
JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
KINDS: Final = (TEXT, JSON, LINES)

MAX_LINES: Final = 10_000
"""Of one request."""

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SAME: Final = {"TRACE": "DEBUG", "WARN": "WARNING", "ERR": "ERROR", "FATAL": "CRITICAL"}
_LEADING: Final = re.compile(r"\s*[\[<(]?([A-Za-z]{3,8})(?=[\]>):\s]|$)")
LEVEL: Final = re.compile(r"[A-Za-z0-9][\w .+-]{0,31}")
"""What an application may call a level."""
_LAST_SECOND: Final = 253402300799


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `time` in seconds since 1970; `fields` is what else the application gave."""

    time: float
    level: str
    message: str
    logger: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """What was sent cannot be taken; `code` is the status of the answer."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def kind_of(fields: Message) -> str:
    """One of `KINDS`, from the head of a request. Raises `Refused` (415)."""
    if "Content-Type" not in fields:
        return TEXT
    kind = fields.get_content_type()
    if kind not in KINDS:
        raise Refused(
            415,
            f"the type of the body is {kind[:80]}, not one of {', '.join(KINDS)}; "
            f"set the field Content-Type, for example to {TEXT}",
        )
    charset = str(fields.get_param("charset", "utf-8")).lower()
    if charset not in {"utf-8", "utf8", "us-ascii"}:
        raise Refused(415, f"the charset of the body is {charset[:40]}, not utf-8")
    return kind


def parse(kind: str, body: bytes, now: float) -> list[Entry]:
    """The lines of a body; `now` is the time of those that have none. Raises `Refused`."""
    if kind == TEXT:
        found = [_of_text(line, now) for line in _lines(body.decode("utf-8", "backslashreplace"))]
    else:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(400, f"the body is not UTF-8: {error.reason}, at {error.start}") from None
        values = _values(text) if kind == LINES else _one_or_more(_decode(text, "the body"))
        found = [_of_object(value, f"line {n}", now) for n, value in enumerate(values, 1)]
    if not found:
        raise Refused(400, "there is no line in the body")
    return found


def _lines(text: str) -> list[str]:
    if not text:
        return []
    _check_count(text.count("\n"))
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _check_count(count: int) -> None:
    if count > MAX_LINES:
        raise Refused(413, f"{count} lines in one request; up to {MAX_LINES} are taken")


def _of_text(line: str, now: float) -> Entry:
    word = match[1].upper() if (match := _LEADING.match(line)) else ""
    level = _SAME.get(word, word)
    return Entry(now, level if level in LEVELS else "INFO", line)


def _values(text: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(text), 1):
        if line.strip():
            yield _decode(line, f"line {number}")


def _one_or_more(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    _check_count(len(values))
    return values


def _decode(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise Refused(400, f"{where} is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"{where} is not JSON: {str(error)[:200]}") from None


def _finite(text: str) -> float:
    """Not 1e999, which Python takes for infinity and would write as no JSON has it."""
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:40])


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _of_object(value: Any, where: str, now: float) -> Entry:
    if not isinstance(value, dict):
        raise Refused(400, f"{where}: expected an object with a message, not {_short(value)}")
    fields = dict(value)
    message = fields.pop("message", None)
    if not isinstance(message, str):
        raise Refused(400, f"{where}: message: expected a text, not {_short(message)}")
    logger = fields.pop("logger", "")
    if not isinstance(logger, str):
        raise Refused(400, f"{where}: logger: expected a text, not {_short(logger)}")
    level = _level(fields.pop("level", "INFO"), where)
    return Entry(_time(fields.pop("time", now), where), level, message, logger, fields)


def _level(value: Any, where: str) -> str:
    if not (isinstance(value, str) and LEVEL.fullmatch(value)):
        raise Refused(400, f"{where}: level: expected {', '.join(LEVELS)}, not {_short(value)}")
    return _SAME.get(value.upper(), value.upper())


def _time(value: Any, where: str) -> float:
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= _LAST_SECOND else math.nan
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value[:64])
            seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            pass
    if not 0 <= seconds <= _LAST_SECOND:
        raise Refused(
            400,
            f"{where}: time: expected seconds since 1970, or a text like "
            f"2026-01-31T23:59:59.999Z, not {_short(value)}",
        )
    return seconds


def _short(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]
