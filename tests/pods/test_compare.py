"""`podipc compare` as a user runs it: two containers, real figures, nothing left behind."""

import contextlib
import csv
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import PATIENCE, ROOT, eventually

from podipc import cli

SMALL = ("--sizes", "64,64K", "--rounds", "20", "--repeat", "1")


def command(*args):
    return [sys.executable, "-m", "podipc", "compare", *map(str, args)]


@pytest.fixture
def environment(tmp_path):
    """Where temporary files of the run are seen."""
    place = tmp_path / "tmp"
    place.mkdir()
    yield {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
    assert not list(place.iterdir())


@pytest.fixture
def compare(environment):
    def run(*args, **more):
        return subprocess.run(
            command(*args),
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            env=environment,
            **more,
        )

    return run


def rows_of(ran):
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)["rows"]


def test_table(compare):
    ran = compare("--methods", "shm,mp-pipe", *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""  # no progress where there is no terminal
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "round trip, median (p50)"
    assert lines[1].split() == ["64", "64K"]
    assert [line.split()[0] for line in lines[2:4]] == ["shm", "mp-pipe"]
    assert "Fastest round trip: " in ran.stdout
    assert "none was wrong" in ran.stdout.replace("\n", " ")


def test_json_to_stdout_is_only_json(compare):
    ran = compare("--methods", "shm,shm-loan,shm-block,C:tcp", *SMALL, "--json", "-")
    rows = rows_of(ran)
    assert [(r["method"], r["size"]) for r in rows] == [
        (m, s) for s in (64, 65536) for m in ("shm", "shm-loan", "shm-block", "C:tcp")
    ]
    for row in rows:
        assert row["error"] is None
        assert row["wrong"] is False
        (once,) = row["repetitions"]
        assert 3 <= once["n"] <= 20
        assert once["p50_ns"] > 0
        assert once["bytes_per_s"] > 0
        if row["kind"] == "podipc":
            assert row["checked_whole"] > 1
            assert row["checked_sampled"] >= once["n"] + once["sent"]
    about = json.loads(ran.stdout)["about"]
    assert about["plan"]["rounds"] == 20


def test_files(compare, tmp_path):
    saved, flat = tmp_path / "r.json", tmp_path / "r.csv"
    ran = compare("--methods", "shm", "--sizes", "64", *SMALL[2:], "--json", saved, "--csv", flat)
    assert ran.returncode == 0, ran.stderr
    assert "round trip" in ran.stdout
    assert [r["method"] for r in json.loads(saved.read_text())["rows"]] == ["shm"]
    assert [r["method"] for r in csv.DictReader(flat.read_text().splitlines())] == ["shm"]


def test_the_containers_are_containers(compare):
    about = json.loads(
        compare("--methods", "shm", "--sizes", "64", *SMALL[2:], "--json", "-").stdout
    )["about"]
    one, other = about["containers"]["producer"], about["containers"]["consumer"]
    for part, name in (("pid", "pid"), ("mount", "mnt"), ("uts", "uts")):
        if about["isolation"][part]:
            assert one["namespaces"][name] != other["namespaces"][name]
    for name in ("net", "ipc"):
        assert one["namespaces"][name] == other["namespaces"][name]
    if about["isolation"]["pid"]:
        assert one["pid"] == other["pid"] == 1
    if not all(about["isolation"][p] for p in ("pid", "mount", "net", "ipc", "uts")):
        assert about["notes"]


def test_plain_processes_are_said_to_be_plain(compare):
    ran = compare("--runtime", "plain", "--methods", "shm", "--sizes", "64", *SMALL[2:])
    assert ran.returncode == 0, ran.stderr
    assert "Two plain processes, nothing isolated" in ran.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Real tensors in the three formats, and what is in them."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    place = tmp_path_factory.mktemp("files")
    china, flower = datasets.load_sample_images().images
    digits = datasets.load_digits()
    tensors = {
        "npy": {"photographs": np.stack([china, flower])},
        "npz": {"china": china, "digits": digits.images, "target": digits.target},
        "safetensors": {"digits": digits.data.astype(np.float16), "flower": flower},
    }
    np.save(place / "photographs.npy", tensors["npy"]["photographs"])
    np.savez(place / "all.npz", **tensors["npz"])
    safetensors.save_file(tensors["safetensors"], place / "all.safetensors")
    return {p.suffix[1:]: (p, tensors[p.suffix[1:]]) for p in place.iterdir()}


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_real_tensors(compare, files, kind):
    path, tensors = files[kind]
    ran = compare("--input", path, "--methods", "shm,shm-loan,mp-pipe", *SMALL[2:], "--json", "-")
    rows = rows_of(ran)
    for method in ("shm", "shm-loan", "mp-pipe"):
        mine = {r["tensor"]: r for r in rows if r["method"] == method}
        assert set(mine) - {"*"} == set(tensors)
        for name, tensor in tensors.items():
            assert mine[name]["size"] == tensor.nbytes
            assert mine[name]["error"] is None
            assert mine[name]["checked_whole"] >= 2
    described = json.loads(ran.stdout)["about"]["plan"]["tensors"]
    assert {t["name"]: t["shape"] for t in described} == {
        name: list(tensor.shape) for name, tensor in tensors.items()
    }


# Of 64 KiB: the first message is the cold one, 2 to 65 are checked whole, 66 to 68 are the
# first that are checked in four places, 69 to 88 are timed.
@pytest.mark.parametrize("number", [1, 2, 65, 66, 80])
def test_a_damaged_tensor_does_not_pass(compare, number):
    ran = compare("--methods", "shm,mp-pipe", *SMALL, "--json", "-", "--corrupt", number)
    assert ran.returncode == 1
    rows = json.loads(ran.stdout)["rows"]
    assert all(r["wrong"] and r["error"] == "1 arrived wrong" for r in rows)
    assert not any(r["times_ns"] for r in rows)
    assert "shm, 64 bytes: 1 arrived wrong" in ran.stderr


@pytest.mark.parametrize("number", [1, 4])
def test_a_damaged_real_tensor_does_not_pass(compare, files, number):
    path, _ = files["npz"]
    ran = compare("--input", path, "--methods", "shm", *SMALL[2:], "--corrupt", number)
    assert ran.returncode == 1
    assert "arrived wrong" in ran.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--methods", "shmm"), "no method 'shmm' (did you mean 'shm'?); there are shm, "),
        (("--methods", ""), "no method ''"),
        (("--sizes", "big"), "'big' is not a size"),
        (("--sizes", "7"), "multiple of 8 bytes, from 8 bytes to 4 GiB"),
        (("--sizes", "1T"), "'1T' is not a size"),
        (("--rounds", "0"), "'0' is not a whole number from 1"),
        (("--repeat", "x"), "'x' is not a whole number from 1"),
        (("--runtime", "docker"), "invalid choice: 'docker'"),
        (("--input", "/nowhere.npz"), "/nowhere.npz: No such file or directory"),
        (("--input", "/etc/passwd"), "the name must end in .npy, .npz, .safetensors"),
        (("--input", "x.npy", "--sizes", "64"), "--sizes is for synthetic tensors"),
        (("--json", "/nowhere/x.json"), "cannot write /nowhere/x.json: No such file"),
        (("--json", "-", "--csv", "-"), "cannot both have standard output"),
        (("--json", "x.parquet"), "the name x.parquet says: it is to end in .json"),
        (("--csv", "x.json"), "the name x.json says: it is to end in .csv"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_options(capsys, args, says):
    assert code_of(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err


def code_of(*args):
    """The exit code of the command in this process; what it raises is a failure."""
    try:
        return cli.main(["compare", *map(str, args)])
    except SystemExit as end:  # of argparse
        return end.code


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("x.npy", b"", "x.npy: "),
        ("x.npy", b"nonsense", "not a .npy file, or one that holds Python objects"),
        ("x.npz", b"PK\x03\x04nonsense", "x.npz: "),
        ("x.safetensors", b"\xff" * 64, "x.safetensors: "),
    ],
)
def test_broken_files(capsys, tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)
    assert code_of("--input", path, "--methods", "shm") == 2
    assert says in capsys.readouterr().err


def test_objects_are_not_unpickled(capsys, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([{}], object))
    assert code_of("--input", path, "--methods", "shm") == 2
    assert "Python objects, which are not sent" in capsys.readouterr().err


def test_a_missing_extra_does_not_stop_the_others(compare, tmp_path, environment):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'zmq' else find(name, *more)\n"
    )
    environment["PYTHONPATH"] += f":{tmp_path}"
    ran = compare("--methods", "shm,zmq-ipc", *SMALL)
    assert ran.returncode == 0, ran.stderr
    told = " ".join(ran.stdout.split())
    assert 'Not measured: zmq-ipc: zmq is not installed: pip install "podipc[peers]"' in told
    assert "shm" in ran.stdout.splitlines()[2]


def test_what_a_method_cannot_do_is_a_row(compare):
    """The smallest tensor goes, the bigger one is more than mp-shm finds room for."""
    ran = compare(
        *("--methods", "shm,mp-shm", "--sizes", "64,4M", *SMALL[2:]),
        *("--shm-size", "4M", "--json", "-"),
    )
    found = {(r["method"], r["size"]): r["error"] for r in rows_of(ran)}
    if json.loads(ran.stdout)["about"]["isolation"]["shm"]:
        assert "bytes in /dev/shm" in found.pop(("mp-shm", 4 << 20))
    assert not any(found.values())


def descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


WORKER = b"podipc.lab.worker"
MAINS = (b"--as\0producer", b"--as\0consumer")


def processes(pid, text):
    """Those below a run that have a text in their command line."""
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if text in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


@pytest.fixture
def running(environment):
    """A comparison that would take long, once its containers are at work."""
    with subprocess.Popen(
        command("--methods", "shm,mp-pipe,zmq-ipc,mp-shm", "--repeat", "1000"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            eventually(lambda: len(processes(run.pid, WORKER)) == 2, "two containers at work")
            time.sleep(0.5)
            yield run
        finally:
            run.kill()


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("main", MAINS, ids=["producer", "consumer"])
def test_a_killed_container(running, main):
    everyone = descendants(running.pid)
    (container,) = processes(running.pid, main)[-1:]
    os.kill(container, signal.SIGKILL)
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1, err
    assert out == ""
    assert f"container '{main[5:].decode()}' died (signal 9)" in err
    eventually(lambda: gone(everyone), "no process is left")


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_worker_that_dies_costs_its_turn(compare, side):
    """With --repeat 2 there is a figure of the first turn of what comes after it, and before."""
    ran = compare(
        *("--methods", "shm,mp-pipe,unix", "--sizes", "64,64K", "--rounds", "20", "--repeat", "2"),
        *("--die", f"{side}:mp-pipe", "--json", "-"),
    )
    rows = rows_of(ran)
    assert [(r["method"], r["died"]) for r in rows] == 2 * [
        ("shm", False),
        ("mp-pipe", True),
        ("unix", False),
    ]
    for row in rows:
        if row["died"]:
            assert row["error"].startswith(f"died (signal 7) in container '{side}'")
            assert row["times_ns"] == row["repetitions"] == []
        else:
            assert row["error"] is None
            assert len(row["repetitions"]) == 2


def test_a_method_of_podipc_that_dies_is_a_failure(compare):
    ran = compare("--methods", "shm,tcp", *SMALL, "--die", "consumer:shm", "--json", "-")
    assert ran.returncode == 1
    assert "podipc: shm, 64 bytes: died (signal 7) in container 'consumer'" in ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert [r["error"] is None for r in rows] == [False, True] * 2


@pytest.mark.peers
def test_a_peer_that_gets_sigbus(compare):
    """One sample is more than /dev/shm has, so it must touch memory that is not there.

    (Of smaller ones it depends on the receiver's pace how many are used.)
    What comes after it is measured.
    """
    pytest.importorskip("iceoryx2", reason="the extra peers is not installed")
    ran = compare(
        *("--methods", "iceoryx2,shm,unix", "--sizes", "64,8M", *SMALL[2:]),
        *("--shm-size", "8M", "--json", "-"),
    )
    found = {(r["method"], r["size"]): r["error"] for r in rows_of(ran)}
    if json.loads(ran.stdout)["about"]["isolation"]["shm"]:
        assert "died (signal 7)" in found.pop(("iceoryx2", 8 << 20))
    assert not any(found.values())


@pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "")]
)
def test_a_stopped_run(running, number, code, says):
    everyone = descendants(running.pid)
    running.send_signal(number)
    out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == code, err
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    eventually(lambda: gone(everyone), "no process is left")


def test_a_reader_that_has_had_enough(environment):
    with subprocess.Popen(
        command("--methods", "shm", "--sizes", "64", *SMALL[2:]),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        run.stdout.close()
        assert run.wait(PATIENCE) == 1
        assert run.stderr.read() == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_on_a_terminal(environment, quiet):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("--methods", "shm", *SMALL, *(["--no-progress"] if quiet else [])),
        env={**environment, "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as run:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(ours, 4096):
                shown += data
        os.close(ours)
        assert run.wait(PATIENCE) == 0
    assert bool(shown) != quiet


def test_list(compare):
    ran = compare("--list")
    assert ran.returncode == 0
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines][:2] == ["shm", "shm-loan"]
    assert max(map(len, lines)) <= 80


@pytest.mark.peers
def test_every_peer(compare):
    pytest.importorskip("iceoryx2", reason="the extra peers is not installed")
    from podipc.lab import methods

    names = list(methods.peers())
    ran = compare("--methods", ",".join(names), *SMALL, "--json", "-")
    assert {r["method"]: r["error"] for r in rows_of(ran)} == dict.fromkeys(names)


def test_help_and_version():
    for args, says in (
        (["--help"], "exit codes"),
        (["compare", "--help"], "podipc compare --quick"),
        (["--version"], "podipc 0."),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "podipc", *args],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert says in ran.stdout
        assert max(map(len, ran.stdout.splitlines())) <= 80
