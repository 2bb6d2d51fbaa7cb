"""Every exception is a PodipcError and the built-in it resembles; bad options by their text."""

import errno
import pickle

import pytest

import podipc

TABLE = {
    "Timeout": TimeoutError,
    "PeerDied": ConnectionError,
    "Closed": EOFError,
    "NoSpace": OSError,
    "MemoryLimit": MemoryError,
    "NotPermitted": PermissionError,
    "AddressError": ValueError,
    "AddressInUse": OSError,
    "AlreadyExists": FileExistsError,
    "NotFound": FileNotFoundError,
    "UnsupportedTensor": TypeError,
    "VersionMismatch": RuntimeError,
    "CorruptSegment": RuntimeError,
    "ForkedHandle": RuntimeError,
    "SystemCallError": OSError,
}


def test_the_table_is_whole():
    found = {
        name
        for name, value in vars(podipc).items()
        if isinstance(value, type) and issubclass(value, podipc.PodipcError)
    }
    assert found == {"PodipcError", *TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_class(name):
    cls = getattr(podipc, name)
    assert issubclass(cls, podipc.PodipcError)
    assert issubclass(cls, TABLE[name])
    assert cls.__module__ == "podipc"
    assert cls.__doc__
    assert name in podipc.__all__


@pytest.mark.parametrize("name", ["PodipcError", *TABLE])
def test_attributes_are_always_there(name):
    """Also on one that was raised by Python code, which has no system call to name."""
    error = getattr(podipc, name)("text")
    assert str(error) == "text"
    assert (error.errno, error.call, error.need, error.have) == (None, None, None, None)


@pytest.mark.parametrize("name", ["PodipcError", *TABLE])
def test_survives_pickle(name):
    """As multiprocessing and pytest-xdist carry exceptions from process to process this way."""
    error = getattr(podipc, name)("text")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == "text"


def test_public_names():
    for name in podipc.__all__:
        assert hasattr(podipc, name)
    public = {n for n in vars(podipc) if not n.startswith("_")}
    modules = {n for n in public if type(getattr(podipc, n)).__name__ == "module"}
    assert public - modules == set(podipc.__all__) - {"__version__"}


@pytest.mark.parametrize("opener", [podipc.sender, podipc.receiver])
@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"mode": 0o644}, ValueError, ["0o644", "0o600, 0o660 or 0o666"]),
        ({"mode": 600}, ValueError, ["600 is decimal", "0o600"]),
        ({"mode": "rw"}, ValueError, ["'rw'"]),
        ({"max_bytes": 0}, ValueError, ["max_bytes", "0"]),
        ({"max_bytes": -1}, ValueError, ["-1"]),
        ({"max_bytes": 2**63}, ValueError, ["max_bytes"]),
        ({"max_bytes": 1.5}, TypeError, ["max_bytes", "float"]),
        ({"max_bytes": True}, TypeError, ["max_bytes", "bool"]),
    ],
)
def test_bad_options(opener, options, error, parts):
    with pytest.raises(error) as caught:
        opener("shm://x", **options)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("opener", [podipc.publisher, podipc.subscriber])
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "unix:///x", "http://127.0.0.1:1/"])
def test_broadcast_is_for_shm(opener, address):
    with pytest.raises(podipc.AddressError, match="work over shm only"):
        opener(address)


def test_errno_and_call_are_kept():
    with pytest.raises(podipc.PodipcError) as caught:
        podipc.sender("shm:///proc/nowhere/x")
    assert caught.value.errno in {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}
    assert caught.value.call
    assert "/proc/nowhere" in str(caught.value)


def test_not_a_directory():
    with pytest.raises(podipc.AddressError, match="/dev/null/x is not a directory"):
        podipc.sender("shm:///dev/null/x")
