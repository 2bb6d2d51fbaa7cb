"""dtypes as text and back, whatever comes; array-likes of every kind."""

import array
import ctypes
import json
import mmap

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from strategies import dtypes

from podipc import CorruptSegment, UnsupportedTensor
from podipc.tensors import MAX_DEPTH, MAX_TYPE, as_array, decode_dtype, encode_dtype


def same(a, b):
    """Equal in everything that is seen from outside; == ignores titles and alignment."""
    return (
        a == b
        and a.str == b.str
        and a.fields == b.fields
        and a.names == b.names
        and a.itemsize == b.itemsize
        and a.isalignedstruct == b.isalignedstruct
    )


@given(dtypes())
@example(np.dtype([]))
@example(np.dtype({"names": [], "formats": [], "itemsize": 7}))
@example(np.dtype({"names": ["", " "], "formats": ["i4", "i4"]}))
@example(np.dtype({"names": ["a", "b"], "formats": ["i8", "u1"], "offsets": [0, 3]}))
@example(np.dtype([("a", "u1"), ("b", "i4")], align=True))
@example(np.dtype([(("t", "n"), "u1"), ("m", "f8", (2, 0))]))
@example(np.dtype((np.dtype(("<i8", (2,))), (3,))))
@example(np.dtype([("\ud800", "i4")]))
def test_round_trip(dtype):
    text = encode_dtype(dtype)
    assert len(text) <= MAX_TYPE
    assert same(decode_dtype(text), dtype)


@pytest.mark.parametrize("code", np.typecodes["All"].replace("O", ""))
@pytest.mark.parametrize("order", "<>")
def test_every_builtin(code, order):
    dtype = np.dtype(code).newbyteorder(order)
    assert encode_dtype(dtype) == dtype.str.encode()
    assert same(decode_dtype(encode_dtype(dtype)), dtype)


def test_unit_of_time():
    assert encode_dtype(np.dtype("M8[25s]")) == b"<M8[25s]"
    assert decode_dtype(b">m8[ns]") == np.dtype(">m8[ns]")


def test_record_becomes_struct():
    dtype = decode_dtype(encode_dtype(np.dtype((np.record, [("a", "i4")]))))
    assert dtype == np.dtype([("a", "i4")])
    assert dtype.type is np.void


@pytest.mark.parametrize(
    ("dtype", "parts"),
    [
        ("O", ["dtype object", "astype"]),
        ([("a", "i4"), ("b", [("c", "O")])], ["'b.c'", "dtype object"]),
        ([("a", "O", (2,))], ["'a'", "dtype object"]),
        ({"names": ["a"], "formats": ["i4"], "titles": [("x", 1)]}, ["'a'", "title", "tuple"]),
        ([(f"field{i:09}", "i4") for i in range(3000)], ["too many fields", "65536"]),
    ],
)
def test_unsupported(dtype, parts):
    with pytest.raises(UnsupportedTensor) as caught:
        encode_dtype(np.dtype(dtype))
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.skipif(
    not hasattr(np.dtypes, "StringDType"), reason="not possible here: NumPy 1 has no StringDType"
)
def test_string_dtype_is_named():
    with pytest.raises(UnsupportedTensor, match=r"StringDType.*astype"):
        encode_dtype(np.dtypes.StringDType())


def test_too_deep():
    dtype = np.dtype("i4")
    for _ in range(MAX_DEPTH):
        dtype = np.dtype([("a", dtype)])
    assert same(decode_dtype(encode_dtype(dtype)), dtype)
    with pytest.raises(UnsupportedTensor, match="nested deeper"):
        encode_dtype(np.dtype([("a", dtype)]))


def struct(**changes):
    text = {"names": ["a"], "formats": ["<i4"], "offsets": [0], "itemsize": 4, **changes}
    return json.dumps(
        {k: v for k, v in text.items() if v is not ...}, separators=(",", ":")
    ).encode()


def test_struct_is_the_text_of_a_dtype():
    """The refusals below are about their changes, not about the form."""
    assert decode_dtype(struct()) == np.dtype([("a", "<i4")])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"O",
        b"|O",
        b"|O8",
        b"<O8",
        b"object",
        b"i4",
        b"=i4",
        b"<i4 ",
        b" <i4",
        b"<i4,<f8",
        b"(2,)<i4",
        b"<i4[ns]",
        b"<M8[ns",
        b"<M8[s/10]",
        b"<M8[]",
        b"<M8[ns]]",
        b"|i4",
        b"<b1",
        b"<f3",
        b"|S04",
        b"|S-1",
        b"|S99999999999999999999",
        b"<U1073741824",
        b"|T16",
        b"\xff\xfe",
        b"<i4\0",
        b"{",
        b"{}",
        b'{"a":' * 10_000,
        b"[" * MAX_TYPE,
        b'{"base":' + b"[" * 60_000,
        b"<" * (MAX_TYPE + 1),
        b'{"base":"<i4"}',
        b'{"base":"<i4","shape":[]}',
        b'{"base":"<i4","shape":3}',
        b'{"base":"<i4","shape":[-1]}',
        b'{"base":"<i4","shape":[true]}',
        b'{"base":"<i4","shape":[2.0]}',
        b'{"base":"<i4","shape":[2147483647,2147483647]}',
        b'{"base":"<i4","shape":[' + b"1," * 100 + b"1]}",
        b'{"base":"|O","shape":[2]}',
        b'{"shape":[2],"base":"<i4"}',
        struct() + b" ",
        struct(names=...),
        struct(names="a"),
        struct(names=[1]),
        struct(names=["a", "b"]),
        struct(names=["a", "a"], formats=["<i4", "<i4"], offsets=[0, 0]),
        struct(names=[None]),
        struct(formats={}),
        struct(formats=[None]),
        struct(formats=["|O"], itemsize=8),
        struct(formats=["i4"]),
        struct(offsets=[1]),
        struct(offsets=[-1]),
        struct(offsets=[2**31]),
        struct(offsets=[10**30]),
        struct(offsets=[False]),
        struct(offsets=["0"]),
        struct(itemsize=3),
        struct(itemsize=-1),
        struct(itemsize=2**31),
        struct(itemsize=10**400),
        struct(itemsize=4.0),
        struct(itemsize=True),
        struct(itemsize=None),
        struct(itemsize=...),
        struct(aligned=False),
        struct(aligned=1),
        struct(itemsize=5, aligned=True),
        struct(titles=[None]),
        struct(titles=["a"]),
        struct(titles=[1]),
        struct(titles=[[]]),
        struct(titles="t"),
        struct(titles=["t", "u"]),
        struct(more=1),
        struct().replace(b'"<i4"', b"1e999"),
        struct().replace(b"0", b"NaN"),
        struct().replace(b'"a"', b'"\\u0061"'),
        struct().replace(b"}", b',"itemsize":4}'),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_corrupt(text):
    with pytest.raises(CorruptSegment):
        decode_dtype(text)


def test_depth_from_outside_is_bounded():
    text = b'"<i4"'
    for _ in range(MAX_DEPTH + 1):
        text = b'{"base":' + text + b',"shape":[1]}'
    with pytest.raises(CorruptSegment, match="nested deeper"):
        decode_dtype(text)


def decodes_or_is_corrupt(text):
    try:
        dtype = decode_dtype(text)
    except CorruptSegment:
        return
    assert not dtype.hasobject
    assert encode_dtype(dtype) == text


@given(st.binary(max_size=200))
def test_random_bytes(text):
    decodes_or_is_corrupt(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["<i4", "|O", "|S3", ">f8", "|b1", "names", "a", "<M8[s]"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["names", "formats", "offsets", "itemsize", "titles", "aligned"])
                | st.sampled_from(["base", "shape", "x"]),
                inner,
                max_size=6,
            )
        ),
        max_leaves=12,
    )
)
def test_random_json(value):
    decodes_or_is_corrupt(json.dumps(value, separators=(",", ":")).encode())


@settings(max_examples=300)
@given(dtypes(), st.data())
def test_one_byte_changed(dtype, data):
    text = bytearray(encode_dtype(dtype))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    decodes_or_is_corrupt(bytes(text))


# --- as_array ---------------------------------------------------------------


class HasInterface:
    def __init__(self, array):
        self._array = array
        self.__array_interface__ = array.__array_interface__


class DLPackOn:
    def __init__(self, device):
        self._device = device

    def __dlpack_device__(self):
        return (self._device, 0)

    def __dlpack__(self, **_):
        raise RuntimeError("no capsule")


def address_of(a):
    return a.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (np.float32(3), np.array(3, "f4")),
        (np.datetime64("2024-02-29", "D"), np.array("2024-02-29", "M8[D]")),
        (np.str_("né"), np.array("né")),
        (np.bytes_(b"ab"), np.array(b"ab")),
        (np.bool_(True), np.array(True)),
        (np.array((1, 2.5), "i4,f8")[()], np.array((1, 2.5), "i4,f8")),
        (b"abc", np.array([97, 98, 99], "u1")),
        (b"", np.array([], "u1")),
        (bytearray(b"ab"), np.array([97, 98], "u1")),
        (memoryview(b"\1\0\2\0").cast("H"), np.array([1, 2], "u2")),
        (memoryview(bytes(6)).cast("B", (2, 3)), np.zeros((2, 3), "u1")),
        (memoryview(b"abcd")[::-2], np.array([100, 98], "u1")),
        (array.array("d", [1, 2]), np.array([1.0, 2.0])),
        ((ctypes.c_int16 * 3)(1, 2, 3), np.array([1, 2, 3], "i2")),
        (np.array([[1, 2]]).view(np.matrix), np.array([[1, 2]])),
        (np.array([(1,)], [("a", "i4")]).view(np.recarray), np.array([(1,)], [("a", "i4")])),
        (HasInterface(np.arange(6).reshape(2, 3).T), np.arange(6).reshape(2, 3).T),
    ],
    ids=lambda x: type(x).__name__,
)
def test_as_array(obj, expected):
    result = as_array(obj)
    assert type(result) is np.ndarray
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)


def test_as_array_copies_nothing(tmp_path):
    data = bytearray(8)
    as_array(data)[3] = 7
    assert data[3] == 7
    mapped = np.memmap(tmp_path / "m", "u1", "w+", shape=8)
    assert address_of(as_array(mapped)) == address_of(mapped)
    with mmap.mmap(-1, 16) as m:
        a = as_array(m)
        a[2] = 9
        assert m[2] == 9
        del a


@pytest.mark.parametrize(
    ("obj", "parts"),
    [
        ([1, 2], ["list", "np.asarray(x)"]),
        ((1.0,), ["tuple", "np.asarray(x)"]),
        ("text", ["str", "np.asarray(x)"]),
        (3, ["int", "np.asarray(x)"]),
        (2.5, ["float", "np.asarray(x)"]),
        (True, ["bool", "np.asarray(x)"]),
        ({"a": 1}, ["dict", "np.asarray(x)"]),
        (object(), ["object", "np.asarray(x)"]),
        (None, ["None"]),
        (np.ndarray, ["numpy.ndarray is a class"]),
        (int, ["int is a class"]),
        (np.ma.array([1, 2], mask=[0, 1]), ["mask", "filled", "x.data"]),
        (DLPackOn(2), ["DLPackOn", "CUDA", "CPU"]),
        (DLPackOn(77), ["DLPackOn", "77"]),
        (DLPackOn(None), ["DLPackOn", "which device"]),
        (DLPackOn(1), ["DLPackOn", "DLPack", "no capsule"]),
        (
            type("Lies", (), {"__array_interface__": {"shape": "?"}})(),
            ["Lies", "__array_interface"],
        ),
        (type("Cuda", (), {"__cuda_array_interface__": {}})(), ["Cuda", "GPU"]),
        ((ctypes.c_void_p * 2)(), ["c_void_p_Array_2", "buffer"]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_refused(obj, parts):
    with pytest.raises(UnsupportedTensor) as caught:
        as_array(obj)
    for part in parts:
        assert part in str(caught.value)


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0)))
def test_dlpack_of_anything(a):
    """An object that only speaks DLPack: what NumPy cannot export is refused, not broken."""

    class OnlyDLPack:
        def __dlpack__(self, **options):
            return a.__dlpack__(**options)

        def __dlpack_device__(self):
            return a.__dlpack_device__()

    try:
        result = as_array(OnlyDLPack())
    except UnsupportedTensor:
        assert a.dtype.kind in "MmUSV" or not a.dtype.isnative or a.dtype.itemsize > 16
        return
    assert result.dtype == a.dtype
    assert np.array_equal(result, a, equal_nan=a.dtype.kind in "fc")


# --- torch ------------------------------------------------------------------


def test_torch():
    torch = pytest.importorskip("torch", reason="not possible here: torch is large")
    t = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert address_of(as_array(t)) == t.data_ptr()
    assert np.array_equal(as_array(t.T), t.T.numpy())
    assert as_array(torch.tensor(True)).dtype == np.bool_
    assert np.array_equal(as_array(torch.tensor([1j]).conj()), [-1j])
    for tensor, part in [
        (torch.nn.Parameter(t), "x.detach()"),
        (t.to(torch.bfloat16), "torch.uint16"),
        (t.to_sparse(), "to_dense()"),
        (torch.ones(1, device="meta"), "x.cpu()"),
        (t.to(torch.float8_e4m3fn), "torch.uint8"),
    ]:
        with pytest.raises(UnsupportedTensor) as caught:
            as_array(tensor)
        assert part in str(caught.value)
