"""`podipc ls` and `podipc rm`: who lives in a channel, and what a crash left."""

import json
import os
import signal

import pytest
from support import PATIENCE, eventually

import podipc
from podipc import leftovers
from podipc.cli import main

CLOSED = "endpoint = getattr(podipc, args[0])(args[1])\nsay('open')\nhear()"


@pytest.fixture
def crashed(spawn):
    """Leaves a channel with a dead sender and a dead receiver in it."""

    def crash(name):
        both = [spawn(CLOSED, role, name) for role in ("sender", "receiver")]
        for child in both:
            child.expect("open")
        # At once, or the one that lives longer clears up after the other.
        for child in both:
            child.signal(signal.SIGSTOP)
        for child in both:
            child.kill()

    return crash


def counts(name):
    (one,) = [c for c in leftovers.channels() if c.name == name]
    return len(one.senders), len(one.receivers), len(one.dead)


def test_nothing_there(podipc_dir, capsys):
    assert main(["ls"]) == 0
    out = capsys.readouterr()
    assert out.out == ""
    assert str(podipc_dir) in out.err
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["rm", "--dead"]) == 0


def test_the_living_and_the_dead(spawn, capsys, podipc_dir):
    with podipc.sender("frames"), podipc.receiver("frames"):
        other = spawn(CLOSED, "receiver", "frames")
        other.expect("open")
        assert counts("frames") == (1, 2, 0)
        other.kill()
        eventually(lambda: sum(counts("frames")) == 2 or counts("frames")[2] == 1, "one is dead")
        assert main(["ls"]) == 0
        head, line = capsys.readouterr().out.splitlines()
        assert head.split() == ["CHANNEL", "SENDERS", "RECEIVERS", "DEAD", "UID", "AGE"]
        assert line.split()[:3] == ["frames", "1", "1"]
        assert line.split()[4] == str(os.getuid())
        assert main(["ls", "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)
        assert (found["name"], found["path"]) == ("frames", str(podipc_dir / "frames"))
        assert [len(found[key]) for key in ("senders", "receivers")] == [1, 1]
        assert (found["uid"], found["refused"]) == (os.getuid(), None)
        assert 0 <= found["age_seconds"] < PATIENCE


def test_looking_does_not_disturb():
    with podipc.sender("frames") as tx, podipc.receiver("frames") as rx:
        for number in range(20):
            leftovers.channels()
            tx.send(bytes([number]))
            assert rx.recv(timeout=60).tolist() == [number]
        assert tx.stats()["peers"] == 1
        assert tx.stats()["peers_died"] == rx.stats()["peers_died"] == 0


def test_remove(crashed, capsys, podipc_dir):
    crashed("frames")
    assert counts("frames") == (0, 0, 2)
    assert main(["rm", "shm://frames"]) == 0
    assert capsys.readouterr().out == "removed frames (2 left behind)\n"
    assert not podipc_dir.exists()


def test_remove_all_that_is_dead(crashed, capsys):
    crashed("frames")
    crashed("labels")
    with podipc.receiver("alive"):
        assert main(["rm", "--dead"]) == 0
        assert capsys.readouterr().out.count("removed") == 2
        assert [c.name for c in leftovers.channels()] == ["alive"]


def test_directories_that_are_no_channels_are_not_dead(podipc_dir, crashed, capsys):
    """Of a PODIPC_DIR that has other things in it, too: they go only by their name."""
    crashed("frames")
    (podipc_dir / "empty").mkdir()
    (podipc_dir / "full" / "notes").mkdir(parents=True)
    try:
        assert main(["rm", "--dead"]) == 0
        assert capsys.readouterr().out == "removed frames (2 left behind)\n"
        assert sorted(os.listdir(podipc_dir)) == ["empty", "full"]
        assert main(["rm", "empty"]) == 0
        assert main(["rm", "full"]) == 1
    finally:
        (podipc_dir / "full" / "notes").rmdir()
    assert main(["rm", "full"]) == 0


def test_the_living_are_not_removed(capsys):
    with podipc.receiver("frames") as rx, podipc.sender("frames") as tx:
        assert main(["rm", "frames"]) == 1
        assert "frames: in use, by 1 sender and 1 receiver" in capsys.readouterr().err
        tx.send(b"x")
        assert rx.recv(timeout=60).tobytes() == b"x"


def test_what_is_not_there(capsys):
    with podipc.receiver("frames"):
        assert main(["rm", "frame"]) == 1
        err = capsys.readouterr().err
        assert "frame: no such channel in " in err
        assert "did you mean 'frames'?" in err


@pytest.mark.parametrize("args", [[], ["--dead", "frames"]])
def test_wrong_use(args, capsys):
    assert main(["rm", *args]) == 2
    assert "name the channels to remove, or give --dead" in capsys.readouterr().err


def test_what_is_not_ours_stays(podipc_dir, crashed, tmp_path):
    crashed("frames")
    (podipc_dir / "frames" / "notes").write_text("mine")
    (podipc_dir / "link").symlink_to(tmp_path)
    assert main(["rm", "frames"]) == 1
    assert (podipc_dir / "frames" / "notes").read_text() == "mine"
    assert [c.name for c in leftovers.channels()] == ["frames"]
    (podipc_dir / "frames" / "notes").unlink()
    (podipc_dir / "link").unlink()
    assert main(["rm", "frames"]) == 0


AS_ANOTHER = """
import io, contextlib
from podipc.cli import main
import podipc.leftovers
os.setgroups([]); os.setgid(12345); os.setuid(12345)
for command in args:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command.split())
    say([code, out.getvalue(), err.getvalue()])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="not possible here: needs root to become another")
def test_of_another_user(spawn, crashed):
    crashed("frames")
    child = spawn(AS_ANOTHER, "ls", "rm frames", "rm --dead")
    code, out, _ = child.hear()
    assert (code, out.splitlines()[1].split()[:5]) == (0, ["frames", "?", "?", "?", "0"])
    code, _, err = child.hear()
    assert code == 1
    assert "it belongs to UID 0, mode 0700" in err
    assert child.hear()[0] == 0
    assert main(["rm", "frames"]) == 0
