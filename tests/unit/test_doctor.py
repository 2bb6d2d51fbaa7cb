"""What doctors judge by: with figures of every kind of container, and with hostile peers."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT

import podipc
from podipc.console import size
from podipc.doctor import (
    FAIL,
    OK,
    WARN,
    Finding,
    checks,
    container,
    facts,
    kernel,
    meet,
    message,
    places,
    show,
    verdicts,
    worst,
)

MI = 1 << 20


def test_every_check_runs_here_and_leaves_nothing() -> None:
    """The fixture of all tests sees what is left."""
    found = list(checks.run())
    assert not [f for f in found if "did not work" in f.text], found
    by_area = {f.area: f for f in found}
    for area in ("memfd", "futex", "descriptors", "loopback", "shm://", "channels"):
        assert by_area[area].level == OK, by_area[area]


def test_the_local_runtime_is_tried() -> None:
    (finding,) = kernel.user_namespaces()
    assert finding.area == "local runtime"
    assert finding.level in (OK, WARN)


def test_a_check_that_fails_is_a_finding() -> None:
    def broken() -> Any:
        raise OSError(5, "out of order")
        yield

    (finding,) = checks.run((broken,))
    assert (finding.level, finding.area) == (FAIL, "broken")
    assert "out of order" in finding.text


def test_seals_that_do_not_hold_are_seen() -> None:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 4096)
        assert len(kernel._broken_seals(fd, writable=False)) == 4
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("limit", "left", "budget", "level", "change"),
    [
        (None, 1 << 34, 1 << 33, OK, ""),
        (512 * MI, 400 * MI, 256 * MI, OK, ""),
        (128 * MI, 40 * MI, 64 * MI, WARN, "resources.limits.memory: 512Mi"),
        (64 * MI, 4 * MI, 32 * MI, FAIL, "resources.limits.memory: 256Mi"),
    ],
)
def test_memory(limit: int | None, left: int, budget: int, level: str, change: str) -> None:
    finding = container.judge_memory(limit, left, budget)
    assert finding.level == level
    assert finding.change.startswith(change)
    assert bool(finding.change) == bool(change)


@pytest.mark.parametrize(
    ("cpus", "allowed", "level", "change"),
    [
        (8, 8, OK, ""),
        (2, 4, OK, ""),
        (0.2, 4, WARN, "resources.limits.cpu"),
        (1, 1, WARN, "two processors or more"),
    ],
)
def test_cpu(cpus: float, allowed: int, level: str, change: str) -> None:
    finding = container.judge_cpu(cpus, allowed)
    assert finding.level == level
    assert change in finding.change


@pytest.mark.parametrize(("files", "level"), [(1024, OK), (200, WARN), (32, FAIL), (-1, OK)])
def test_files(files: int, level: str) -> None:
    assert container.judge_files(files).level == level


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({}, OK, "64 MiB, 63.9 MiB free"),
        ({"free": 4096}, WARN, "a named Segment and a Semaphore do"),
        ({"inodes": 3}, FAIL, "3 inodes"),
        ({"kind": "ext4"}, WARN, "ext4 and no memory"),
        ({"writable": False}, FAIL, "to write to"),
        ({"mode": 0o777}, WARN, "not sticky"),
        ({"mode": 0o700}, OK, ""),
    ],
)
def test_dev_shm(changes: dict[str, Any], level: str, text: str) -> None:
    usual: dict[str, Any] = {
        "size_": 64 * MI,
        "free": int(63.9 * MI),
        "inodes": 10_000,
        "kind": "tmpfs",
        "writable": True,
        "mode": 0o1777,
    }
    finding = places.judge_shm(**{**usual, **changes})
    assert finding.level == level
    assert text in finding.text
    assert bool(finding.change) == (level != OK)


def test_a_place_that_is_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIPC_DIR", "here")
    (finding,) = places.rendezvous()
    assert finding.level == FAIL
    assert "relative path" in finding.text


def test_a_place_that_is_not_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIPC_DIR", "/not-mounted/podipc")
    (finding,) = places.rendezvous()
    assert finding.level == FAIL
    assert "no directory /not-mounted" in finding.text
    assert "mountPath: /not-mounted}" in finding.change
    (finding,) = kernel.round_trip()
    assert (finding.level, finding.area) == (FAIL, "shm://")


def test_a_place_where_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODIPC_DIR", "/proc/podipc")
    (finding,) = places.rendezvous()
    assert finding.level == FAIL
    assert "cannot make a file in /proc" in finding.text


# Two doctors


OWN: dict[str, Any] = {
    "podipc": podipc.__version__,
    "hostname": "a",
    "pid": 1,
    "uid": 1001,
    "gid": 1001,
    "groups": [1001],
    "umask": 18,
    "libc": "glibc 2.36",
    "kernel": "6.1",
    "arch": "x86_64",
    "page_size": 4096,
    "byte_order": "little",
    "boot": "b",
    "namespaces": {"net": "net:[1]", "ipc": "ipc:[2]", "pid": "pid:[3]"},
    "shm": [5, 1],
    "meeting": ["5:1"],
    "mounts": [
        {
            "target": "/data",
            "type": "ext4",
            "read_only": False,
            "in_place": False,
            "identity": [9, 9],
        }
    ],
}
WAYS = ({"memory", "loopback"}, {"memory"})


def judged(heard: Any = WAYS[0], hears: Any = WAYS[1], **changes: Any) -> dict[str, Finding]:
    other = {**copy.deepcopy(OWN), "hostname": "b", **changes}
    other["namespaces"] = {**other["namespaces"], "pid": "pid:[4]"}
    return {f.area: f for f in verdicts.of(OWN, other, heard, hears, {})}


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {area: f.level for area, f in found.items() if f.level != OK}


def test_all_is_shared() -> None:
    found = judged()
    assert levels(found) == {}
    assert "/data" in found["volumes"].text
    assert "not shared, as usual" in found["pid"].text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"uid": 1002}, {"UID": WARN}),
        ({"libc": "musl"}, {"libc": WARN}),
        ({"libc": "glibc 2.17"}, {}),
        ({"podipc": "9.9"}, {"podipc": WARN}),
        ({"page_size": 65536}, {"machine": FAIL}),
        ({"byte_order": "big"}, {"machine": FAIL}),
        ({"shm": [6, 1]}, {"/dev/shm": FAIL}),
        ({"shm": None}, {"/dev/shm": FAIL}),
        # On another machine equal numbers mean nothing.
        ({"boot": "c"}, {"ipc": WARN, "/dev/shm": FAIL}),
    ],
)
def test_what_differs(changes: dict[str, Any], expected: dict[str, str]) -> None:
    found = judged(**changes)
    assert levels(found) == expected
    assert all(found[area].change for area in expected)


def test_ways_that_do_not_work() -> None:
    found = judged(heard={"loopback"}, hears=set())
    assert levels(found) == {"shm://": FAIL}
    assert "neither way" in found["shm://"].text
    found = judged(heard={"memory"}, hears={"memory"})
    assert levels(found) == {"net": FAIL}
    assert "nothing came through 127.0.0.1" in found["net"].text
    found = judged(
        heard={"memory"}, hears={"memory"}, namespaces={"net": "net:[7]", "ipc": "ipc:[2]"}
    )
    assert "not shared" in found["net"].text


def test_groups() -> None:
    other = {"uid": 1002, "gid": 1002, "groups": [1002, 2000]}
    assert "no common group" in judged(**other)["UID"].text
    both = judged(**{**other, "gid": 1001})
    assert both["UID"].change.startswith("mode=0o660")


def test_facts_survive_the_way() -> None:
    own = {**facts.collect(), "meeting": ["1:2"]}
    told = message.decode(message.encode("me", ["you"], own))
    assert told is not None
    assert told.who == "me"
    assert told.heard == {"you"}
    assert told.facts == json.loads(json.dumps(own))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[" * 60_000,
        json.dumps({"kind": "podipc-doctor 1", "who": 7, "facts": {}}).encode(),
        json.dumps({"kind": "podipc-doctor 2", "who": "x", "facts": {}}).encode(),
        json.dumps({"kind": "podipc-doctor 1", "who": "x", "facts": []}).encode(),
        b"x" * (message.MAX_BYTES + 1),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    assert message.decode(data) is None


HOSTILE: list[Any] = [None, 7, -1, 2**70, 1e999, "x\x1b[2J", [], {}, [[1]], {"net": 5}, True]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_a_peer_that_lies(value: Any) -> None:
    """Whatever it says of itself, it is judged, and cannot write to the terminal."""
    for key in OWN:
        data = json.dumps(
            {"kind": "podipc-doctor 1", "who": "x", "heard": value, "facts": {**OWN, key: value}}
        ).encode()
        told = message.decode(data)
        assert told is not None
        peer = meet.Peer(told.facts, 0.0, {"loopback"}, set())
        met = meet.Met([peer], OWN, {}, None)
        for finding in meet.findings(met, 1):
            assert all("\x1b" not in line for line in show.lines(finding))


# What is shown


def test_worst() -> None:
    found = [Finding(OK, "a", ""), Finding(FAIL, "b", ""), Finding(WARN, "c", "")]
    assert worst(found) == FAIL
    assert worst(found[::2]) == WARN
    assert worst([]) == OK


def test_lines() -> None:
    text = "64 MiB, 63.9 MiB free"
    assert show.lines(Finding(OK, "/dev/shm", text)) == [f"ok    /dev/shm      {text}"]
    long = Finding(WARN, "memory", "word " * 40, "resources.limits.memory: 128Mi")
    found = show.lines(long)
    assert all(len(line) <= 80 for line in found)
    assert found[0].startswith("warn  memory        word")
    assert all(line.startswith(" " * 20) for line in found[1:])
    assert found[-1] == " " * 20 + "change: resources.limits.memory: 128Mi"
    path = "pod.yaml: spec.containers[0].resources.limits.memory"
    assert show.lines(Finding(FAIL, path, "x")) == [f"fail  {path}", "      x"]


def test_names_of_others_do_nothing_to_a_terminal(podipc_dir: Any) -> None:
    channel = podipc_dir / "evil\x1b[2J"
    channel.mkdir(parents=True)
    channel.chmod(0)
    (channel.parent / "a\nb").mkdir()
    found = [line for finding in places.living() for line in show.lines(finding)]
    channel.rmdir()
    (channel.parent / "a\nb").rmdir()
    channel.parent.rmdir()
    assert all(line.isprintable() for line in found)


def test_a_field_deep_in_a_file_fits_into_80_columns() -> None:
    path = "spec.template.spec.containers[0].resources.limits.memory"
    first, second, *_ = show.lines(Finding(FAIL, f"deploy/all.yaml, document 12: {path}", "x"))
    assert first == "fail  deploy/all.yaml, document 12:"
    assert second == f"      {path}"


def test_a_place_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("PODIPC_DIR", str(file))
    (found,) = places.rendezvous()
    assert found.level == FAIL
    assert "is no directory" in found.text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        *((None, "?"), (0, "0 B"), (999, "999 B"), (1000, "1000 B"), (1023, "1023 B")),
        *((1024, "1 KiB"), (1047552, "1023 KiB"), (MI - 1, "1 MiB"), (64 * MI, "64 MiB")),
        *((24_738_011_624, "23 GiB"), (68_612_915, "65.4 MiB"), (1 << 60, "1048576 TiB")),
    ],
)
def test_sizes(nbytes: int | None, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_what_cannot_be_said_is_no_warning(words: list[str]) -> None:
    """Not 1, which would mean that it works."""
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "podipc", "doctor", *words],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert ran.returncode == 2
    assert "podipc doctor: [Errno 28] No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_help_says_the_exit_codes() -> None:
    from podipc.doctor import command

    codes = dict(re.findall(r"^  (\d)  +(\S+)", command.EXIT_CODES, re.MULTILINE))
    assert set(codes) == {str(code) for code in command.CODES.values()}
