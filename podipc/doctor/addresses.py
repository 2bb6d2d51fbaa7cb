"""Which addresses the containers of a manifest use, as far as one can read it there.

They are looked for in command, args and the values of the environment; a bare name only
where podipc is called with it. What a program makes up when it runs cannot be seen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from podipc._core import AddressError
from podipc.address import Address, parse
from podipc.pod.manifest import Container, Pod

_FOUND = re.compile(r"""\b(?P<scheme>shm|tcp|unix|fifo|file|https?)://[^\s"'`<>|;,)\]}]+""")
_NOTHING = re.compile(r"""[a-z]+://[\\.:]*""")
"""A method that is spoken of: ``over fifo://``."""
_COMPUTED = re.compile(r"[{}%$*]")
_RECEIVER = re.compile(r"(?:receiver|subscriber)\(\s*[rf]?\\?[\"']$|LoopbackListener")
_CALL = re.compile(
    r"""(?<![\w.])(?:(?P<module>\w+)\.)?(?P<end>sender|receiver|publisher|subscriber)\(\s*"""
    r"""(?:address\s*=\s*)?[rRfF]?\\?(?P<quote>["'])(?P<name>[^"'\\\n]{0,200})\\?(?P=quote)"""
)
_WAIT = re.compile(
    r"""\bpodipc\s+wait\s+(?:(?:--(?:for|timeout)[ =]\S+|-q|--quiet)\s+)*"""
    r"""["']?(?P<name>\w[\w.-]*)(?=[\s"';&|)]|$)"""
)
_FROM = re.compile(r"\bfrom\s+podipc\s+import\b")
_AS = re.compile(r"\bimport\s+podipc\s+as\s+(\w+)")
_USE = re.compile(r"\bpodipc\b")
_SEEN = re.compile(r"\bpodipc(?:\.[A-Za-z]|\s+(?:logd|wait|doctor|ls|rm)\b)")
_ENDPOINT = re.compile(r"\b(?:sender|receiver|publisher|subscriber)\b")
MAX_TEXT = 1 << 20
"""Characters of one command or value that are looked through."""


@dataclass(frozen=True)
class Use:
    """An address in a container: `path` is the field, `receives` whether it is listened at."""

    container: Container
    path: str
    address: Address
    receives: bool


@dataclass(frozen=True)
class Wrong:
    """What looks like an address of podipc and is none."""

    container: Container
    path: str
    text: str
    error: str


def texts(container: Container) -> Iterator[tuple[str, str]]:
    """The path and the text of everything that may hold an address."""
    for field, words in (("command", container.command), ("args", container.args)):
        for i, word in enumerate(words):
            yield f"{container.path}.{field}[{i}]", word[:MAX_TEXT]
    for variable in container.env:
        if variable.value is not None:
            yield f"{variable.path}.value", variable.value[:MAX_TEXT]


def whole(container: Container) -> str:
    """All of its text, to look for words in."""
    return "\n".join(text for _, text in texts(container))


def uses_podipc(container: Container) -> bool:
    """Whether something in it names podipc: its programs, or its image."""
    return bool(_USE.search(whole(container)) or _USE.search(container.image))


def may_use_shm(container: Container) -> bool:
    """Whether it may, when there is no address: not if podipc is seen to do other things."""
    text = whole(container)
    return uses_podipc(container) and not (_SEEN.search(text) and not _ENDPOINT.search(text))


@dataclass(frozen=True)
class _Place:
    """A text that is an address, or should be one, and where it stands."""

    path: str
    text: str
    receives: bool
    certain: bool
    """Whether it can be meant for nothing but podipc."""


def find(pod: Pod) -> tuple[list[Use], list[Wrong]]:
    """All addresses of a Pod, each once a container."""
    uses: dict[tuple[str, str], Use] = {}
    wrong: list[Wrong] = []
    for container in pod.everyone():
        for place in _places(container):
            try:
                address = parse(place.text)
            except AddressError as error:
                if place.certain:
                    wrong.append(Wrong(container, place.path, place.text, str(error)))
                continue
            key = (container.name, address.text)
            before = uses.get(key)
            receives = place.receives or (before is not None and before.receives)
            uses[key] = Use(container, place.path, address, receives)
    return list(uses.values()), wrong


def _places(container: Container) -> Iterator[_Place]:
    for path, text in texts(container):
        yield from _with_scheme(path, text)
        yield from _bare_in_calls(path, text)
    words = " ".join((*container.command, *container.args))[:MAX_TEXT]
    for match in _WAIT.finditer(words):
        field = "command" if container.command else "args"
        yield _Place(f"{container.path}.{field}", match["name"], False, True)


def _with_scheme(path: str, text: str) -> Iterator[_Place]:
    for match in _FOUND.finditer(text):
        # `$(NAME)` and the like stand right behind what was found.
        whole = match[0] + text[match.end() : match.end() + 1]
        if _NOTHING.fullmatch(match[0]) or _COMPUTED.search(whole):
            continue
        receives = bool(_RECEIVER.search(text[max(0, match.start() - 32) : match.start()]))
        # Of other programs there are many with the other schemes.
        certain = match["scheme"] in ("shm", "fifo", "tcp")
        yield _Place(path, match[0].rstrip(".:\\"), receives, certain)


def _bare_in_calls(path: str, text: str) -> Iterator[_Place]:
    """Bare names: ``podipc.sender('frames')``, and the same after other ways to import it."""
    modules: set[str | None] = {"podipc", *_AS.findall(text)}
    if _FROM.search(text):
        modules.add(None)
    for match in _CALL.finditer(text):
        name = match["name"]
        if match["module"] not in modules or "://" in name or _COMPUTED.search(name):
            continue
        yield _Place(path, name, match["end"] in ("receiver", "subscriber"), True)


def concerned(pod: Pod, uses: Collection[Use]) -> list[Container]:
    """The containers that use podipc, as far as can be seen."""
    return [c for c in pod.everyone() if uses_podipc(c) or any(use.container is c for use in uses)]
