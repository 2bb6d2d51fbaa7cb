"""One line names the method: take it apart, refuse what is wrong with it.

==================================  ===================================================
``NAME`` or ``shm://NAME``          shared memory; the peers meet in ``$PODIPC_DIR/NAME``
``shm:///abs/dir``                  the same; they meet in a directory on a volume
``tcp://127.0.0.1:PORT``            loopback socket
``unix:///abs/path``                Unix socket on a shared volume
``fifo:///abs/path``                named pipe on a shared volume
``file:///abs/dir``                 files on a shared volume
``http://127.0.0.1:PORT/PATH``      HTTP POST to a sidecar
==================================  ===================================================

Nothing is percent-decoded: a path is taken as it stands, up to a ``?``. The one
option is ``wait`` of ``shm``: ``shm://NAME?wait=adaptive|block|spin|semaphore``.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

from podipc._core import AddressError

METHODS: Final = ("shm", "tcp", "unix", "fifo", "file", "http")
WAITS: Final = ("adaptive", "block", "spin", "semaphore")
OPTIONS: Final[dict[str, dict[str, tuple[str, ...]]]] = {"shm": {"wait": WAITS}}
DEFAULT_DIR: Final = "/dev/shm/podipc"

MAX_NAME: Final = 128
MAX_ADDRESS: Final = 4096
_NAME_CHARACTERS: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
)
_NAME_RULE: Final = (
    f"a name is 1 to {MAX_NAME} ASCII letters, digits or any of '._-', and does not start with '.'"
)
_ARGUMENTS: Final = ("mode", "max_bytes", "latest", "timeout")
_FORMS: Final = {
    "shm": "shm://NAME or shm:///absolute/directory",
    "tcp": "tcp://127.0.0.1:PORT",
    "unix": "unix:///absolute/path.sock",
    "fifo": "fifo:///absolute/path.fifo",
    "file": "file:///absolute/directory",
    "http": "http://127.0.0.1:PORT/PATH",
}


@dataclass(frozen=True, slots=True)
class Address:
    """An address, taken apart and checked. Immutable: any thread may use it."""

    text: str
    """The address as it was given, with ``shm://`` before a bare name."""
    method: str
    """One of ``METHODS``."""
    path: str = ""
    """An absolute path; for ``http`` the path of the URL; for ``tcp`` empty."""
    host: str = ""
    """``tcp`` and ``http``: an IPv4 loopback address in digits."""
    port: int = 0
    """``tcp`` and ``http``: 1 to 65535, else 0."""
    wait: str = "adaptive"
    """``shm``: one of ``WAITS``."""
    named: bool = False
    """``shm``: `path` was made from a name, and the directory above it is podipc's."""


def parse(address: str) -> Address:
    """Take an address apart.

    Raises ``AddressError``, whose text says what is wrong and what would be
    right, and ``TypeError`` for what is not a ``str``. Touches no file. The
    directory of a bare name comes from the environment variable ``PODIPC_DIR``
    (default ``/dev/shm/podipc``), read at every call.
    """
    if not isinstance(address, str):
        raise TypeError(
            f"an address is a str such as 'shm://frames', not {type(address).__name__}: {address!r}"
        )
    if len(address) > MAX_ADDRESS:
        raise AddressError(
            f"address {address[:40]!r}... has {len(address)} characters, "
            f"more than the {MAX_ADDRESS} that are allowed"
        )
    scheme, separator, rest = address.partition("://")
    if not separator:
        _check_is_name(address)
        scheme, rest = "shm", address
    if scheme not in METHODS:
        _unknown_scheme(address, scheme)
    text = f"{scheme}://{rest}"
    rest, question, query = rest.partition("?")
    options = _options(text, scheme, query) if question else {}
    if not rest:
        _fail(text, "names nothing", _FORMS[scheme])

    match scheme:
        case "shm":
            path = _directory(text, rest) if rest.startswith("/") else _named(text, rest)
            wait = options.get("wait", "adaptive")
            return Address(text, scheme, path, wait=wait, named=not rest.startswith("/"))
        case "tcp":
            host, port, url_path = _host_port_path(text, scheme, rest)
            if url_path:
                _fail(text, f"has a path, {url_path!r}, which tcp cannot have", _FORMS[scheme])
            return Address(text, scheme, host=host, port=port)
        case "http":
            host, port, url_path = _host_port_path(text, scheme, rest)
            _check_url_path(text, url_path)
            return Address(text, scheme, url_path or "/", host, port)
        case "file":
            return Address(text, scheme, _directory(text, rest))
        case _:
            if rest.endswith("/"):
                _fail(text, "names a directory where a file is needed", _FORMS[scheme])
            return Address(text, scheme, _directory(text, rest))


def _fail(text: str, what: str, right: str) -> NoReturn:
    raise AddressError(f"address {text!r} {what}; it should be like {right}")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _unknown_scheme(address: str, scheme: str) -> NoReturn:
    if scheme == "flight":
        raise AddressError(
            f"address {address!r}: podipc works inside one Pod; "
            "to reach another Pod, put Arrow Flight behind a Kubernetes Service"
        )
    raise AddressError(
        f"address {address!r} has an unknown scheme {scheme!r}"
        f"{_did_you_mean(scheme, METHODS)}; there are "
        + ", ".join(f"{method}://" for method in METHODS)
    )


def _check_is_name(address: str) -> None:
    """A bare word: catch the slips that are not even meant to be a name."""
    if not address:
        raise AddressError(f"the address is empty; it should be like {_FORMS['shm']}")
    scheme, colon, _ = address.partition(":")
    if colon and scheme in METHODS:
        _fail(address, f"lacks the '//' after '{scheme}:'", _FORMS[scheme])
    if address.startswith("/"):
        right = f"'shm://{address}' or 'file://{address}'"
        raise AddressError(f"address {address!r} is a path without a method; write {right}")


def _options(text: str, scheme: str, query: str) -> dict[str, str]:
    known = OPTIONS.get(scheme, {})
    found: dict[str, str] = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if key in _ARGUMENTS:
            raise AddressError(
                f"address {text!r}: {key!r} is no option of the address but an argument of the "
                f"call: podipc.sender(address, {key}=...) and the like"
            )
        if key not in known:
            takes = (
                f"the options of {scheme} are: {', '.join(known)}"
                if known
                else f"{scheme} takes no options"
            )
            raise AddressError(
                f"address {text!r} has an unknown option {key!r}"
                f"{_did_you_mean(key, known)}; {takes}"
            )
        if key in found:
            raise AddressError(f"address {text!r} gives the option {key!r} more than once")
        if not equals or value not in known[key]:
            raise AddressError(
                f"address {text!r}: the option {key!r} cannot be {value!r}"
                f"{_did_you_mean(value, known[key])}; it is one of {', '.join(known[key])}"
            )
        found[key] = value
    return found


def _named(text: str, name: str) -> str:
    if "/" in name:
        raise AddressError(
            f"address {text!r}: {name!r} is a relative path, which would mean something else in "
            "each container; use an absolute one (three slashes: shm:///absolute/directory) or a "
            "name without '/'"
        )
    if not _NAME_CHARACTERS.issuperset(name) or name.startswith(".") or len(name) > MAX_NAME:
        raise AddressError(f"address {text!r}: {name!r} is not a name; {_NAME_RULE}")
    base = os.environ.get("PODIPC_DIR") or DEFAULT_DIR
    if not base.startswith("/"):
        raise AddressError(
            f"the environment variable PODIPC_DIR is {base!r}, a relative path; it must be the "
            "absolute path of a directory that both containers share"
        )
    return f"{base.rstrip('/')}/{name}"


def _directory(text: str, path: str) -> str:
    """The path without doubled or trailing slashes, so that equal paths are equal texts."""
    if not path.startswith("/"):
        method = text.partition(":")[0]
        raise AddressError(
            f"address {text!r}: {path!r} is a relative path, which would mean something else in "
            f"each container; use an absolute one (three slashes: {method}:///{path})"
        )
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise AddressError(f"address {text!r} has '..' in its path; write the path without it")
    if not parts:
        raise AddressError(
            f"address {text!r} names the root directory; name a directory of its own"
        )
    try:
        has_nul = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        raise AddressError(f"address {text!r}: its path cannot be encoded as a file name") from None
    if has_nul:
        raise AddressError(f"address {text!r} has a NUL character in its path")
    return "/" + "/".join(parts)


def _host_port_path(text: str, scheme: str, rest: str) -> tuple[str, int, str]:
    authority, slash, path = rest.partition("/")
    if authority.startswith("["):
        raise AddressError(
            f"address {text!r} has an IPv6 host; use 127.0.0.1, which every Pod has, "
            "also one without any other IPv4 address"
        )
    host, colon, digits = authority.rpartition(":")
    if not colon:
        _fail(text, "has no port", _FORMS[scheme])
    port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 5 else 0
    if not 1 <= port <= 65535:
        _fail(
            text,
            f"has {digits!r} for a port, which is not a number from 1 to 65535",
            _FORMS[scheme],
        )
    return _loopback(text, scheme, host), port, slash + path


def _loopback(text: str, scheme: str, host: str) -> str:
    """The host in digits. Only loopback: podipc has no encryption and trusts its Pod."""
    if not host:
        _fail(text, "has no host", _FORMS[scheme])
    if host.lower() == "localhost":
        return "127.0.0.1"
    parts = host.split(".")
    if len(parts) == 4 and all(
        p.isascii() and p.isdigit() and len(p) <= 3 and int(p) <= 255 and str(int(p)) == p
        for p in parts
    ):
        if parts[0] == "127":
            return host
        if host == "0.0.0.0":
            raise AddressError(
                f"address {text!r} would open the port to every Pod of the cluster, and podipc "
                "trusts whoever connects; use 127.0.0.1, which all containers of a Pod share"
            )
    raise AddressError(
        f"address {text!r} has the host {host!r}, but podipc works inside one Pod, whose "
        "containers share 127.0.0.1; use that, or, to reach another Pod, Arrow Flight behind a "
        "Kubernetes Service"
    )


def _check_url_path(text: str, path: str) -> None:
    if not all("!" <= c <= "~" for c in path) or "#" in path:
        raise AddressError(
            f"address {text!r}: the path of a URL is printable ASCII without spaces and '#'; "
            "percent-encode the rest"
        )
