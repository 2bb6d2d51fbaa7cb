"""Which addresses the containers of a manifest use, as far as one can read it there.

They are looked for in command, args and the values of the environment; what a program
makes up when it runs cannot be seen.
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
_RECEIVER = re.compile(r"(?:receiver|subscriber)\(\s*[rf]?[\"']$|\bwait\s+[\"']?$|LoopbackListener")
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


def find(pod: Pod) -> tuple[list[Use], list[Wrong]]:
    """All addresses of a Pod, each once a container."""
    uses: dict[tuple[str, str], Use] = {}
    wrong: list[Wrong] = []
    for container in pod.everyone():
        for path, text in texts(container):
            for match in _FOUND.finditer(text):
                # `$(NAME)` and the like stand right behind what was found.
                found = match[0].rstrip(".:")
                if _NOTHING.fullmatch(match[0]):
                    continue
                if _COMPUTED.search(match[0] + text[match.end() : match.end() + 1]):
                    continue
                try:
                    address = parse(found)
                except AddressError as error:
                    # Of other programs there are many with those schemes.
                    if match["scheme"] in ("shm", "fifo", "tcp"):
                        wrong.append(Wrong(container, path, found, str(error)))
                    continue
                receives = bool(_RECEIVER.search(text[max(0, match.start() - 32) : match.start()]))
                key = (container.name, address.text)
                before = uses.get(key)
                receives |= before.receives if before else False
                uses[key] = Use(container, path, address, receives)
    return list(uses.values()), wrong


def concerned(pod: Pod, uses: Collection[Use]) -> list[Container]:
    """The containers that use podipc, as far as can be seen."""
    return [c for c in pod.everyone() if uses_podipc(c) or any(use.container is c for use in uses)]
