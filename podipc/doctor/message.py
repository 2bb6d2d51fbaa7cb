"""What one doctor tells another: its facts, and whom it has heard. Input, when it arrives."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from podipc.console import printable

MAX_BYTES: Final = 64 << 10
MAX_TEXT: Final = 256
MAX_ITEMS: Final = 128
_KIND: Final = "podipc-doctor 1"


@dataclass(frozen=True)
class Message:
    """From `who`, a number that it has chosen; it has heard `heard` on the same way."""

    who: str
    heard: frozenset[str]
    facts: dict[str, Any]


def encode(who: str, heard: Collection[str], facts: dict[str, Any]) -> bytes:
    """At most `MAX_BYTES`, in one line; mounts are left out rather than more be sent."""
    content = {"kind": _KIND, "who": who, "heard": sorted(heard)[:MAX_ITEMS], "facts": facts}
    data = json.dumps(content).encode()
    if len(data) > MAX_BYTES:
        content["facts"] = {**facts, "mounts": []}
        data = json.dumps(content).encode()
    return data


def decode(data: bytes) -> Message | None:
    """What another one said; None if it is no such message."""
    if len(data) > MAX_BYTES:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        return None
    who, facts = _text(found.get("who")), found.get("facts")
    if not who or not isinstance(facts, dict):
        return None
    return Message(who, frozenset(_strings(found.get("heard"))), _facts(facts))


def _text(value: object) -> str | None:
    """Printable, so that it can do nothing to a terminal."""
    if not isinstance(value, str):
        return None
    return printable(value[:MAX_TEXT])


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < 1 << 64 else None


def _numbers(value: object) -> list[int]:
    items = value[:MAX_ITEMS] if isinstance(value, list) else []
    return [number for number in map(_number, items) if number is not None]


def _strings(value: object) -> list[str]:
    items = value[:MAX_ITEMS] if isinstance(value, list) else []
    return [text for text in map(_text, items) if text is not None]


def _facts(found: dict[str, Any]) -> dict[str, Any]:
    """Every fact of `facts.collect`, of its type or None."""
    namespaces = found.get("namespaces")
    mounts = found.get("mounts")
    return {
        **{key: _text(found.get(key)) for key in _TEXTS},
        **{key: _number(found.get(key)) for key in _NUMBERS},
        "groups": _numbers(found.get("groups")),
        "shm": _numbers(found.get("shm")) or None,
        "meeting": _strings(found.get("meeting")),
        "namespaces": {
            str(_text(name)): _text(value) for name, value in list(namespaces.items())[:MAX_ITEMS]
        }
        if isinstance(namespaces, dict)
        else {},
        "mounts": [_mount(mount) for mount in mounts[:MAX_ITEMS] if isinstance(mount, dict)]
        if isinstance(mounts, list)
        else [],
    }


_TEXTS = ("podipc", "hostname", "libc", "kernel", "arch", "byte_order", "boot")
_NUMBERS = ("pid", "uid", "gid", "umask", "page_size")


def _mount(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "target": _text(found.get("target")) or "?",
        "type": _text(found.get("type")) or "?",
        "read_only": found.get("read_only") is True,
        "in_place": found.get("in_place") is True,
        "identity": _numbers(found.get("identity")) or None,
    }
