"""Every form of an address, and what is said about each wrong one."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podipc import AddressError, PodipcError
from podipc.address import DEFAULT_DIR, METHODS, WAITS, Address, parse


@pytest.fixture(autouse=True)
def default_dir(podipc_dir, monkeypatch):
    monkeypatch.delenv("PODIPC_DIR")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("frames", Address("shm://frames", "shm", f"{DEFAULT_DIR}/frames", named=True)),
        ("shm://frames", Address("shm://frames", "shm", f"{DEFAULT_DIR}/frames", named=True)),
        ("A-b_c.9", Address("shm://A-b_c.9", "shm", f"{DEFAULT_DIR}/A-b_c.9", named=True)),
        ("_x", Address("shm://_x", "shm", f"{DEFAULT_DIR}/_x", named=True)),
        (
            "x" * 128,
            Address("shm://" + "x" * 128, "shm", f"{DEFAULT_DIR}/" + "x" * 128, named=True),
        ),
        (
            "x?wait=spin",
            Address("shm://x?wait=spin", "shm", f"{DEFAULT_DIR}/x", wait="spin", named=True),
        ),
        ("shm:///shared/frames", Address("shm:///shared/frames", "shm", "/shared/frames")),
        (
            "shm:///shared/frames?wait=block",
            Address("shm:///shared/frames?wait=block", "shm", "/shared/frames", wait="block"),
        ),
        ("shm:////a/./b//c/", Address("shm:////a/./b//c/", "shm", "/a/b/c")),
        ("tcp://127.0.0.1:7000", Address("tcp://127.0.0.1:7000", "tcp", "", "127.0.0.1", 7000)),
        ("tcp://127.1.2.3:1", Address("tcp://127.1.2.3:1", "tcp", "", "127.1.2.3", 1)),
        ("tcp://localhost:65535", Address("tcp://localhost:65535", "tcp", "", "127.0.0.1", 65535)),
        ("unix:///s/x.sock", Address("unix:///s/x.sock", "unix", "/s/x.sock")),
        ("fifo:///s/a b", Address("fifo:///s/a b", "fifo", "/s/a b")),
        ("file:///shared-mem/d/", Address("file:///shared-mem/d/", "file", "/shared-mem/d")),
        ("file:///s/%41é", Address("file:///s/%41é", "file", "/s/%41é")),
        (
            "http://127.0.0.1:8080/in/put",
            Address("http://127.0.0.1:8080/in/put", "http", "/in/put", "127.0.0.1", 8080),
        ),
        ("http://localhost:80", Address("http://localhost:80", "http", "/", "127.0.0.1", 80)),
    ],
)
def test_good(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize("wait", WAITS)
def test_waits(wait):
    assert parse(f"shm://x?wait={wait}").wait == wait


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty", "shm://NAME"]),
        ("shm://", ["names nothing", "shm://NAME"]),
        ("shm://?wait=spin", ["names nothing"]),
        ("tcp://", ["names nothing", "tcp://127.0.0.1:PORT"]),
        ("file://", ["names nothing", "file:///absolute/directory"]),
        # scheme
        ("shn://x", ["'shn'", "did you mean 'shm'", *(f"{m}://" for m in METHODS)]),
        ("TCP://127.0.0.1:1", ["'TCP'", "did you mean 'tcp'"]),
        ("://x", ["unknown scheme ''"]),
        ("flight://model:8815/x", ["inside one Pod", "Flight", "Service"]),
        ("tcp:127.0.0.1:1", ["lacks the '//'"]),
        ("/shared/x", ["without a method", "shm:///shared/x", "file:///shared/x"]),
        # names
        (".hidden", ["not a name", "does not start with '.'"]),
        ("..", ["not a name"]),
        ("a b", ["not a name", "letters, digits"]),
        ("naïve", ["not a name", "ASCII"]),
        ("x\0y", ["not a name"]),
        ("x" * 129, ["not a name", "1 to 128"]),
        ("x" * 5000, ["5000 characters", "4096"]),
        ("127.0.0.1:80", ["not a name"]),
        # paths
        ("a/b", ["relative path", "three slashes"]),
        ("shm://a/b", ["relative path", "three slashes"]),
        ("unix://a/b", ["relative path", "unix:///a/b"]),
        ("file://d", ["relative path", "file:///d"]),
        ("file:///a/../b", ["'..'"]),
        ("file:///", ["root directory"]),
        ("unix:///a/", ["directory where a file is needed"]),
        ("fifo:///a\0b", ["NUL"]),
        ("unix:///\ud800", ["cannot be encoded"]),
        # hosts and ports
        ("tcp://127.0.0.1", ["no port", "tcp://127.0.0.1:PORT"]),
        ("tcp://:80", ["no host"]),
        ("tcp://127.0.0.1:", ["''", "1 to 65535"]),
        ("tcp://127.0.0.1:0", ["'0'", "1 to 65535"]),
        ("tcp://127.0.0.1:65536", ["'65536'", "1 to 65535"]),
        ("tcp://127.0.0.1:80a", ["'80a'"]),
        ("tcp://127.0.0.1:-1", ["'-1'"]),
        ("tcp://127.0.0.1:٨٠", ["1 to 65535"]),
        ("tcp://127.0.0.1:" + "9" * 4000, ["1 to 65535"]),
        ("tcp://10.1.2.3:80", ["'10.1.2.3'", "inside one Pod", "Flight", "Service"]),
        ("tcp://model.default.svc:80", ["inside one Pod", "Service"]),
        ("tcp://127.0.0.256:80", ["inside one Pod"]),
        ("tcp://127.0.0.01:80", ["inside one Pod"]),
        ("tcp://127.0.1:80", ["inside one Pod"]),
        ("tcp://0.0.0.0:80", ["every Pod of the cluster", "127.0.0.1"]),
        ("tcp://[::1]:80", ["IPv6", "127.0.0.1"]),
        ("tcp://127.0.0.1:80/x", ["'/x'", "tcp cannot have"]),
        ("http://me@127.0.0.1:80/x", ["inside one Pod"]),
        ("http://example.org:80/", ["inside one Pod"]),
        ("http://127.0.0.1/x", ["no port"]),
        ("http://127.0.0.1:80/a b", ["percent-encode"]),
        ("http://127.0.0.1:80/a\r\nHost: b", ["percent-encode"]),
        ("http://127.0.0.1:80/#top", ["percent-encode"]),
        # options
        ("x?", ["unknown option ''"]),
        ("x?wiat=spin", ["'wiat'", "did you mean 'wait'", "options of shm are: wait"]),
        ("x?wait", ["'wait' cannot be ''"]),
        ("x?wait=blok", ["'blok'", "did you mean 'block'", ", ".join(WAITS)]),
        ("x?wait=Spin", ["'Spin'", "did you mean 'spin'"]),
        ("x?wait=spin&wait=spin", ["more than once"]),
        ("x?wait=spin&", ["unknown option ''"]),
        ("x?mode=0o660", ["argument", "mode=..."]),
        ("tcp://127.0.0.1:80?wait=spin", ["'wait'", "tcp takes no options"]),
        ("http://127.0.0.1:80/x?y=1", ["'y'", "http takes no options"]),
    ],
)
def test_bad(text, parts):
    with pytest.raises(AddressError) as caught:
        parse(text)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PodipcError)


@pytest.mark.parametrize("value", [None, 3, b"shm://x", ["x"]])
def test_not_text(value):
    with pytest.raises(TypeError, match="an address is a str"):
        parse(value)


def test_directory_of_names(monkeypatch):
    monkeypatch.setenv("PODIPC_DIR", "/shared/meet/")
    assert parse("x").path == "/shared/meet/x"
    assert parse("shm:///other/x").path == "/other/x"
    monkeypatch.setenv("PODIPC_DIR", "")
    assert parse("x").path == f"{DEFAULT_DIR}/x"
    monkeypatch.setenv("PODIPC_DIR", "meet")
    with pytest.raises(AddressError, match="PODIPC_DIR is 'meet', a relative path"):
        parse("x")


def test_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("x").port = 3
    assert not hasattr(parse("x"), "__dict__")


@given(
    st.one_of(
        st.text(max_size=60),
        st.builds(
            "{}{}{}{}".format,
            st.sampled_from([*METHODS, "", "x", "shm:", "flight"]),
            st.sampled_from(["://", ":", "", ":///", "://127.0.0.1:", "://localhost"]),
            st.text("abc./:@[]%#&=?0123456789 \0é", max_size=20),
            st.sampled_from(["", "?", "?wait=spin", "?wait=spin&wait=spin", "?x=y", "/"]),
        ),
    )
)
def test_any_text(text):
    """Either an error that names what is wrong, or something that can be opened as it is."""
    try:
        address = parse(text)
    except AddressError:
        return
    assert address.method in METHODS
    assert parse(address.text) == address
    if address.method in {"tcp", "http"}:
        assert address.host.startswith("127.")
        assert 1 <= address.port <= 65535
    else:
        assert address.path.startswith("/")
        assert not {"", ".", ".."} & set(address.path.split("/")[1:])
        assert "\0" not in address.path
