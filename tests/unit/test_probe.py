"""What a container says of itself, against what is so; version 2 of cgroups from files."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Child

from podipc.pod.inside import probe

GIB = 1 << 30


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hierarchy of version 2, as the kernel lays it out, in which this process is in /pod/a."""
    own = tmp_path / "pod" / "a"
    own.mkdir(parents=True)
    files = {
        "cgroup.type": "domain",
        "cgroup.procs": "1\n17",
        "memory.current": str(100 << 20),
        "memory.peak": str(150 << 20),
        "memory.max": "max",
        "memory.stat": f"anon 1\nfile 2\ninactive_file {30 << 20}",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 2",
        "cpu.max": "max 100000",
    }
    for name, text in files.items():
        (own / name).write_text(text + "\n")
    (own.parent / "memory.max").write_text(f"{GIB}\n")
    (own.parent / "cpu.max").write_text("150000 100000\n")
    mount = {"fstype": "cgroup2", "target": str(tmp_path), "root": "/", "options": "rw"}
    monkeypatch.setattr(probe, "mountinfo", lambda: iter([mount]))
    monkeypatch.setattr(probe, "whereabouts", lambda: {"namespace": 1, "groups": {"": "/pod/a"}})
    return own


def test_version_2(unified: Path) -> None:
    stats = probe.stats(probe.Groups())
    assert stats["memory_of"] == stats["cpu_of"] == "cgroup"
    assert stats["memory"] == 70 << 20
    assert stats["memory_charged"] == 100 << 20
    assert stats["memory_peak"] == 150 << 20
    assert stats["memory_limit"] == GIB
    assert stats["cpu"] == 2.5
    assert stats["cpu_limit"] == 1.5
    (unified / "memory.max").write_text("1000000\n")
    assert probe.memory_limit(probe.Groups()) == 1_000_000


@pytest.mark.parametrize(
    ("outside", "own"),
    [
        (None, True),
        ({"namespace": 1, "groups": {"": "/"}}, True),
        ({"namespace": 1, "groups": {"": "/pod/ab"}}, True),
        ({"namespace": 1, "groups": {"": "/pod/a"}}, False),
        ({"namespace": 1, "groups": {"": "/pod/a/b"}}, False),
        ({"namespace": 2, "groups": {"": "/pod/a"}}, True),
    ],
)
def test_a_group_with_others_in_it_is_not_the_containers(
    unified: Path, outside: Any, own: bool
) -> None:
    groups = probe.Groups(outside)
    assert groups.memory is not None
    assert groups.memory.own is own
    stats = probe.stats(groups)
    assert stats["memory_of"] == ("cgroup" if own else "processes")
    assert stats["memory_limit"] == GIB, "the limit is in force all the same"


def test_processes_of_another_pid_namespace(unified: Path) -> None:
    (unified / "cgroup.procs").write_text("0\n17\n")
    assert not probe.Groups().memory.own  # type: ignore[union-attr]


def test_the_root_is_the_machines(unified: Path) -> None:
    (unified / "cgroup.type").unlink()
    assert not probe.Groups().memory.own  # type: ignore[union-attr]


def test_the_sum_over_processes_has_what_a_child_uses(spawn: Any) -> None:
    groups = probe.Groups(probe.whereabouts())
    before = probe.stats(groups)
    assert before["memory_of"] == before["cpu_of"] == "processes"
    child: Child = spawn("held = bytearray(b'x') * (64 << 20)\nsay(1)\nhear()")
    child.hear(PATIENCE)
    after = probe._sums([str(child.pid)])
    assert 64 << 20 <= (after[0] or 0) < 400 << 20
    assert 0 < (after[1] or 0) < 100


def test_facts_of_this_process() -> None:
    facts = probe.facts(probe.Groups())
    assert facts["uid"] == os.geteuid()
    assert facts["hostname"] == socket.gethostname()
    assert facts["namespaces"]["net"] == os.stat("/proc/self/ns/net").st_ino
    assert facts["limits"]["affinity"] == sorted(os.sched_getaffinity(0))
    umask = os.umask(0o27)
    try:
        assert probe.facts(probe.Groups())["umask"] == 0o27
    finally:
        os.umask(umask)
    targets = [mount["target"] for mount in facts["mounts"]]
    assert "/" in targets
    assert "/proc" not in targets
    assert len(set(targets)) == len(targets)


def test_capabilities_by_name() -> None:
    assert probe.capabilities("0") == []
    assert probe.capabilities("200001") == ["CHOWN", "SYS_ADMIN"]
    assert probe.capabilities(f"{1 << 40 | 1 << 50:x}") == ["CHECKPOINT_RESTORE", "CAP_50"]


def test_mount_points_with_spaces() -> None:
    assert probe._unescaped(r"/a\040b\134c") == "/a b\\c"


def test_addresses_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    read = probe._read
    monkeypatch.setattr(probe, "_read", lambda path: "" if "if_inet6" in path else read(path))
    assert not any(":" in address for address in probe.addresses())
