"""What a tensor is on the way: its dtype as text, and anything array-like as an ndarray.

The text of a dtype is ``dtype.str`` (``<f4``, ``<M8[ns]``, ``|S5``), or, where the
dtype has fields or is a subarray, compact JSON with the same at its leaves::

    {"names":["x","y"],"formats":["<f4",{"base":"|u1","shape":[3]}],
     "offsets":[0,4],"itemsize":8,"aligned":true,"titles":[null,"why"]}

There is exactly one text for a dtype: what does not come out again when the
decoded dtype is encoded was not written by `encode_dtype`, and is refused.
"""

import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from podipc._core import CorruptSegment, UnsupportedTensor

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_TYPE: Final = 64 * 1024  # PODIPC_MAX_TYPE
MAX_DEPTH: Final = 16
_SIMPLE_KINDS: Final = frozenset("biufcmMSUV")
_LAST_BUILTIN: Final = np.dtype("f2").num  # the highest type number of NumPy's own C types
_REQUIRED: Final = frozenset({"names", "formats", "offsets", "itemsize"})
_OPTIONAL: Final = frozenset({"aligned", "titles"})

_CPU_DEVICES: Final = frozenset({1, 3, 11, 13})  # kDLCPU, and host memory of CUDA and ROCm
_DEVICE_NAMES: Final = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}


def encode_dtype(dtype: "np.dtype[Any]") -> bytes:
    """The text that stands for `dtype`; at most 64 KiB.

    Raises ``UnsupportedTensor`` for dtypes whose values are not in the array
    itself (object, ``StringDType``), for those that other packages define, and
    for nesting deeper than 16. Metadata of a dtype is not part of the text.
    """
    if dtype.names is None and dtype.subdtype is None:
        return _simple(dtype, "").encode("ascii")
    import json

    text = json.dumps(_describe(dtype, "", 0), separators=(",", ":")).encode("ascii")
    if len(text) > MAX_TYPE:
        raise UnsupportedTensor(
            f"this dtype has too many fields: its description takes {len(text)} bytes, and at most "
            f"{MAX_TYPE} can be sent; send the fields as several arrays"
        )
    return text


def _simple(dtype: "np.dtype[Any]", field: str) -> str:
    if dtype.num <= _LAST_BUILTIN and not dtype.hasobject:
        return dtype.str
    where = f"the field {field!r}" if field else "this array"
    if dtype.hasobject and dtype.num <= _LAST_BUILTIN:
        raise UnsupportedTensor(
            f"{where} has dtype object, whose elements are references to Python objects, not "
            "values; convert it to a numeric dtype or to fixed-width text first, for example with "
            "x.astype('f8') or x.astype('U')"
        )
    if type(dtype).__name__ == "StringDType":
        raise UnsupportedTensor(
            f"{where} has dtype StringDType, which keeps its text outside of the array; convert it "
            "to fixed-width text with x.astype('U')"
        )
    raise UnsupportedTensor(
        f"{where} has dtype {dtype.name!r} of {type(dtype).__module__}, which the receiver may not "
        "know; send its bytes as a plain dtype, for example x.view('u2'), or convert it"
    )


def _describe(dtype: "np.dtype[Any]", field: str, depth: int) -> "str | dict[str, Any]":
    if depth > MAX_DEPTH:
        raise UnsupportedTensor(
            f"this dtype has fields nested deeper than {MAX_DEPTH} (at {field!r}); flatten it"
        )
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _describe(base, field, depth + 1), "shape": list(shape)}
    if dtype.names is None:
        return _simple(dtype, field)
    assert dtype.fields is not None
    formats = []
    offsets = []
    titles = []
    for name in dtype.names:
        inner = f"{field}.{name}" if field else name
        of_field, offset, *title = dtype.fields[name]
        if title and not isinstance(title[0], str):
            raise UnsupportedTensor(
                f"the field {inner!r} has a title that is not a str but "
                f"{type(title[0]).__name__}: {title[0]!r}"
            )
        formats.append(_describe(of_field, inner, depth + 1))
        offsets.append(offset)
        titles.append(title[0] if title else None)
    text: dict[str, Any] = {
        "names": list(dtype.names),
        "formats": formats,
        "offsets": offsets,
        "itemsize": dtype.itemsize,
    }
    if dtype.isalignedstruct:
        text["aligned"] = True
    if any(title is not None for title in titles):
        text["titles"] = titles
    return text


def decode_dtype(text: bytes) -> "np.dtype[Any]":
    """The dtype that `text` stands for.

    `text` comes from another process and may be anything: whatever
    `encode_dtype` does not write raises ``CorruptSegment``. The result never
    refers to objects, and all its fields lie within its itemsize.
    """
    if len(text) > MAX_TYPE:
        raise CorruptSegment(f"a dtype description of {len(text)} bytes, more than {MAX_TYPE}")
    try:
        if text[:1] != b"{":
            dtype = _decode_simple(text.decode("ascii"))
        else:
            import json

            dtype = _build(json.loads(text.decode("ascii")), 0)
        canonical = encode_dtype(dtype)
    except CorruptSegment:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # RecursionError: a scanner for nested JSON that meets 64 KiB of "[".
        raise CorruptSegment(f"not the description of a dtype: {_excerpt(text)}: {error}") from None
    if canonical != text:
        raise CorruptSegment(f"not the canonical description of a dtype: {_excerpt(text)}")
    return dtype


def _excerpt(text: bytes) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."


def _decode_simple(text: str) -> "np.dtype[Any]":
    # np.dtype() understands much more than dtype.str ever is ("i4,f8", "object"):
    # let it see only a byte order, a kind and a size, with the unit of a time.
    kind_and_size, bracket, unit = text[1:].partition("[")
    size = kind_and_size[1:]
    if (
        text[:1] not in {"<", ">", "|"}
        or kind_and_size[:1] not in _SIMPLE_KINDS
        or (size and not (size.isascii() and size.isdigit()))
        or (bracket and not (unit.endswith("]") and unit[:-1].isalnum()))
    ):
        raise ValueError("neither a simple dtype nor JSON")
    return np.dtype(text)


def _build(text: Any, depth: int) -> "np.dtype[Any]":
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(text, str):
        return _decode_simple(text)
    if not isinstance(text, dict):
        raise ValueError("a format that is neither text nor an object")
    if text.keys() == {"base", "shape"}:
        shape = text["shape"]
        if not _are(int, shape) or not all(0 <= n < 2**31 for n in shape):
            raise ValueError("a shape that is not a list of sizes")
        return np.dtype((_build(text["base"], depth + 1), tuple(shape)))
    if not _REQUIRED <= text.keys() <= _REQUIRED | _OPTIONAL:
        raise ValueError("keys that are missing or unknown")
    return _build_struct(text, depth)


def _build_struct(text: dict[str, Any], depth: int) -> "np.dtype[Any]":
    names, formats, offsets, itemsize = (
        text[key] for key in ("names", "formats", "offsets", "itemsize")
    )
    if not _are(str, names) or not isinstance(formats, list) or not _are(int, offsets):
        raise ValueError("names, formats or offsets of the wrong type")
    if type(itemsize) is not int or not 0 <= itemsize < 2**31:
        raise ValueError(f"an itemsize of {itemsize!r}")
    if not len(names) == len(formats) == len(offsets):
        raise ValueError("names, formats and offsets that differ in number")
    dtypes = [_build(inner, depth + 1) for inner in formats]
    for inner, offset in zip(dtypes, offsets, strict=True):
        if not 0 <= offset <= itemsize or inner.itemsize > itemsize - offset:
            raise ValueError("a field outside of its itemsize")
    spec: Any = {
        "names": names,
        "formats": dtypes,
        "offsets": offsets,
        "itemsize": itemsize,
    }
    if "aligned" in text:
        # NumPy 1 divides by the alignment, which is 0 there for an aligned struct of no fields.
        spec["aligned"] = text["aligned"] is True and all(inner.alignment for inner in dtypes)
    if "titles" in text:
        titles = text["titles"]
        if not isinstance(titles, list) or len(titles) != len(names):
            raise ValueError("titles that differ in number from the names")
        if not all(title is None or type(title) is str for title in titles):
            raise ValueError("a title that is not text")
        spec["titles"] = titles
    dtype: np.dtype[Any] = np.dtype(spec)
    return dtype


def _are(kind: type, values: object) -> bool:
    """Whether it is a list of exactly that type (so that true is no int)."""
    return isinstance(values, list) and all(type(value) is kind for value in values)


def as_array(obj: object) -> "npt.NDArray[Any]":
    """`obj` as an ndarray over the same memory, without a copy wherever that is possible.

    Takes NumPy scalars and subclasses of ndarray (which lose what their class
    adds), torch tensors on the CPU, and whatever has the buffer protocol,
    ``__array_interface__`` or DLPack. All else raises ``UnsupportedTensor``:
    above all lists and Python numbers, which have no dtype of their own.
    """
    if isinstance(obj, np.ndarray):
        masked = sys.modules.get("numpy.ma")  # who has one has imported it
        if masked is not None and isinstance(obj, masked.MaskedArray):
            raise UnsupportedTensor(
                "a masked array would lose its mask; send x.filled(value), or x.data and x.mask as "
                "two arrays"
            )
        return np.asarray(obj)
    if isinstance(obj, np.generic):
        return np.asarray(obj)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(obj, getattr(torch, "Tensor", ())):
        return _from_torch(obj)
    if isinstance(obj, type):
        _refuse(obj)
    try:
        view = memoryview(obj)  # type: ignore[arg-type]
    except TypeError:
        pass
    else:
        return _from_protocol(np.asarray, view, obj, "buffer")
    if _has(obj, "__array_interface__") or _has(obj, "__array_struct__"):
        return _from_protocol(np.asarray, obj, obj, "__array_interface__")
    if _has(obj, "__dlpack__") and _has(obj, "__dlpack_device__"):
        return _from_dlpack(obj)
    _refuse(obj)


def _has(obj: object, name: str) -> bool:
    """Whether it is there, without computing it: a picture would be copied for that."""
    return hasattr(type(obj), name) or name in getattr(obj, "__dict__", ())


def _name(obj: object) -> str:
    kind = obj if isinstance(obj, type) else type(obj)
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return prefix + kind.__qualname__


def _refuse(obj: object) -> NoReturn:
    if isinstance(obj, type):
        raise UnsupportedTensor(f"{_name(obj)} is a class, not a tensor")
    if obj is None:
        raise UnsupportedTensor("None is not a tensor; to send a signal, send an empty array")
    if _has(obj, "__cuda_array_interface__"):
        raise UnsupportedTensor(
            f"this {_name(obj)} is in the memory of a GPU; copy it to the CPU first"
        )
    raise UnsupportedTensor(
        f"{_name(obj)} is not a tensor: it has neither the buffer protocol nor "
        "__array_interface__ nor DLPack; send np.asarray(x), with the dtype that it should have"
    )


def _from_protocol(convert: Any, source: object, obj: object, protocol: str) -> "npt.NDArray[Any]":
    """What the object says about itself may be wrong in any way: one error for all."""
    try:
        array = convert(source)
    except Exception as error:
        raise UnsupportedTensor(
            f"the {protocol} of this {_name(obj)} cannot be read as an array: {error}"
        ) from error
    if type(array) is not np.ndarray:
        raise UnsupportedTensor(f"the {protocol} of this {_name(obj)} does not give an array")
    return array


def _from_dlpack(obj: Any) -> "npt.NDArray[Any]":
    device = _device(obj)
    if device not in _CPU_DEVICES:
        raise UnsupportedTensor(
            f"this {_name(obj)} is in the memory of a {_DEVICE_NAMES.get(device, 'other')} device "
            f"(DLPack device type {device}); copy it to the CPU first"
        )
    return _from_protocol(np.from_dlpack, obj, obj, "DLPack capsule")


def _device(obj: Any) -> int:
    try:
        return int(obj.__dlpack_device__()[0])
    except Exception as error:
        raise UnsupportedTensor(
            f"this {_name(obj)} does not say on which device it is: {error}"
        ) from error


def _from_torch(tensor: Any) -> "npt.NDArray[Any]":
    """Not through DLPack: torch's own conversion knows more, and its faults can be named."""
    if tensor.device.type != "cpu":
        raise UnsupportedTensor(
            f"this torch tensor is on the device {str(tensor.device)!r}; send x.cpu()"
        )
    if str(tensor.layout) != "torch.strided":
        raise UnsupportedTensor(
            f"this torch tensor has the layout {tensor.layout}; send x.to_dense(), or its indices "
            "and its values as two tensors"
        )
    if tensor.requires_grad:
        raise UnsupportedTensor(
            "this torch tensor requires grad, and the graph cannot be sent with it; send x.detach()"
        )
    if str(tensor.dtype) == "torch.bfloat16":
        raise UnsupportedTensor(
            "NumPy has no bfloat16; send x.view(torch.uint16), which the receiver turns back with "
            ".view(torch.bfloat16), or x.float()"
        )
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    try:
        array: npt.NDArray[Any] = tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise UnsupportedTensor(
            f"NumPy cannot take a torch tensor of dtype {tensor.dtype}: {error}; "
            "send x.view(torch.uint8), or convert it"
        ) from error
    return array
