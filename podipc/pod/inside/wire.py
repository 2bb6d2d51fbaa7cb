"""Frames between a session in a container and whoever opened it, and the values in them.

A frame is ``pod1``, the length of a JSON object, the number of binary parts, their
lengths, the object, the parts. A value is JSON; what JSON has not is an object with one
key: ``{"t": [...]}`` a tuple, ``{"d": [[key, value], ...]}`` a mapping, ``{"a": 0}`` the
array in part 0 as ``.npy``, ``{"s": 0}`` a scalar of NumPy. Nothing is pickled.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import warnings
from typing import Any, BinaryIO, Dict, Iterable, List, Optional, Sequence, Tuple  # noqa: UP035

MAX_JSON = 16 << 20
MAX_PART = 256 << 20
MAX_PARTS = 1024
MAX_DEPTH = 64
"""Bounds of what one frame may hold, in bytes, parts, and levels of a value."""

_MAGIC = b"pod1"
_HEAD = struct.Struct("!4sII")
_LENGTH = struct.Struct("!Q")
_ARRAY_ERRORS = (ValueError, TypeError, MemoryError, OverflowError, SyntaxError, EOFError)

Frame = Tuple[Dict[str, Any], List[bytearray]]  # noqa: UP006


class Malformed(ValueError):
    """What came is not a frame, or not a value. The text says why."""


class Unsendable(TypeError):
    """A value that does not travel. The text says why."""


def frame(message: dict[str, Any], parts: Sequence[bytes | bytearray] = ()) -> list[Any]:
    """The buffers of a frame, to be written one after the other."""
    text = json.dumps(message, separators=(",", ":")).encode()
    total = sum(map(len, parts))
    if len(text) > MAX_JSON:
        raise Unsendable(f"it takes {len(text)} bytes of JSON; at most {MAX_JSON} travel")
    if total > MAX_PART:
        raise Unsendable(f"it has {total} bytes of arrays; at most {MAX_PART} travel")
    if len(parts) > MAX_PARTS:
        raise Unsendable(f"it has {len(parts)} arrays; at most {MAX_PARTS} travel")
    head = [_HEAD.pack(_MAGIC, len(text), len(parts))]
    head += [_LENGTH.pack(len(part)) for part in parts]
    return [b"".join(head) + text, *parts]


def read(file: BinaryIO) -> Optional[Frame]:  # noqa: UP045
    """The next frame; None at the end of the file, also in the middle of one.

    Raises
    ------
    Malformed
        It is none.
    """
    head = _exactly(file, _HEAD.size)
    if head is None:
        return None
    magic, size, count = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise Malformed(f"not a frame: it begins with {bytes(head)!r}")
    if size > MAX_JSON or count > MAX_PARTS:
        raise Malformed(f"a frame of {size} bytes of JSON and {count} parts")
    lengths_text = _exactly(file, _LENGTH.size * count)
    if lengths_text is None:
        return None
    lengths = [n for (n,) in _LENGTH.iter_unpack(lengths_text)]
    if sum(lengths) > MAX_PART:
        raise Malformed(f"a frame with {sum(lengths)} bytes in its parts")
    text = _exactly(file, size)
    parts = []
    for length in lengths:
        part = _exactly(file, length)
        if part is None:
            return None
        parts.append(part)
    if text is None:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a frame whose JSON cannot be read: {error}") from None
    if not isinstance(message, dict):
        raise Malformed("a frame that is not a JSON object")
    return message, parts


def _exactly(file: BinaryIO, size: int) -> Optional[bytearray]:  # noqa: UP045
    # In steps: memory is taken for what has come, not for what was announced.
    data = bytearray()
    while len(data) < size:
        piece = file.read(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return data


def pack(value: object) -> tuple[Any, list[bytes]]:
    """A value as JSON, and the parts it refers to.

    Raises
    ------
    Unsendable
        It, or something in it, is neither JSON nor an array.
    """
    parts: list[bytes] = []
    return _pack(value, parts, 0), parts


def _pack(value: Any, parts: list[bytes], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise Unsendable(f"it is nested deeper than {MAX_DEPTH} levels")
    np = sys.modules.get("numpy")
    if np is not None and (type(value) in (np.ndarray, np.memmap) or isinstance(value, np.generic)):
        parts.append(_npy(np, np.asarray(value), sum(map(len, parts))))
        return {"s" if isinstance(value, np.generic) else "a": len(parts) - 1}
    if value is None or isinstance(value, (bool, str, float, int)):
        return _plain(value)
    if isinstance(value, list):
        return [_pack(item, parts, depth + 1) for item in value]
    if isinstance(value, tuple):
        return {"t": [_pack(item, parts, depth + 1) for item in value]}
    if isinstance(value, dict):
        items = ((_key(key), _pack(item, parts, depth + 1)) for key, item in value.items())
        return {"d": [list(item) for item in items]}
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _dotted(kind)
    raise Unsendable(f"a value of type {name} does not travel; what does: JSON, tuples, arrays")


def _plain(value: Any) -> Any:
    """As JSON has it, also of a subclass such as an enumeration."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and value.bit_length() > 4096:
        raise Unsendable(f"an int of {value.bit_length()} bits does not travel; at most 4096")
    if value is None or isinstance(value, bool):
        return value
    return float(value) if isinstance(value, float) else int(value)


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _key(key: object) -> object:
    if key is None or type(key) in (bool, int, float, str):
        return key
    raise Unsendable(f"a key of type {type(key).__name__} does not travel; what does: str, int")


def _npy(np: Any, array: Any, before: int) -> bytes:
    if array.nbytes + before > MAX_PART:
        raise Unsendable(f"it has {array.nbytes + before} bytes of arrays; at most {MAX_PART}")
    with warnings.catch_warnings():
        # Of dtypes of other packages, which are refused below.
        warnings.simplefilter("ignore")
        form = np.lib.format
        described = None
        if not array.dtype.hasobject:
            described = form.descr_to_dtype(form.dtype_to_descr(array.dtype))
        if described != array.dtype:
            raise Unsendable(f"an array of dtype {array.dtype} does not travel; convert it")
        file = io.BytesIO()
        form.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def unpack(tree: Any, parts: Sequence[bytes | bytearray]) -> Any:
    """The value that `pack` was given.

    Raises
    ------
    Malformed
        Neither was made by `pack`.
    Unsendable
        It has arrays, and there is no NumPy here.
    """
    return _unpack(tree, parts, 0)


def _unpack(tree: Any, parts: Sequence[bytes | bytearray], depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise Malformed(f"a value nested deeper than {MAX_DEPTH} levels")
    if isinstance(tree, list):
        return [_unpack(item, parts, depth + 1) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1:
        raise Malformed(f"a value of {len(tree)} kinds")
    ((kind, content),) = tree.items()
    if kind in ("a", "s"):
        if type(content) is not int or not 0 <= content < len(parts):
            raise Malformed(f"an array in part {content!r} of {len(parts)}")
        array = _array(parts[content])
        if kind == "s" and array.shape != ():
            raise Malformed(f"a scalar of shape {array.shape}")
        return array[()] if kind == "s" else array
    if not isinstance(content, list):
        raise Malformed(f"a value of the kind {kind!r} that is no list")
    if kind == "t":
        return tuple(_unpack(content, parts, depth))
    if kind == "d":
        return dict(_item(item, parts, depth + 1) for item in content)
    raise Malformed(f"a value of the kind {kind!r}")


def _item(item: Any, parts: Sequence[bytes | bytearray], depth: int) -> tuple[Any, Any]:
    if not isinstance(item, list) or len(item) != 2 or isinstance(item[0], (list, dict)):
        raise Malformed("a mapping with something else in it than pairs")
    return item[0], _unpack(item[1], parts, depth)


def _array(part: bytes | bytearray) -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise Unsendable(f"it has arrays, and there is no NumPy here: {error}") from None
    file = io.BytesIO(part)
    try:
        array = np.lib.format.read_array(file, allow_pickle=False)
    except _ARRAY_ERRORS as error:
        raise Malformed(f"an array that cannot be read: {error}") from None
    if file.read(1):
        raise Malformed("an array with something behind it")
    return array


def chunks(data: bytes | memoryview, size: int = 1 << 20) -> Iterable[bytes]:
    """`data` in pieces of at most `size` bytes."""
    for start in range(0, len(data), size):
        yield bytes(data[start : start + size])
