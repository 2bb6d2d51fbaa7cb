"""What containers did when, and their memory: recorded in real processes, and drawn."""

import threading
import time

import pytest
from support import PATIENCE

from podipc.lab import timeline
from podipc.lab.sampler import Sample, Sampler

SIDE = """
from podipc.lab.timeline import Recorder
import time
clock = Recorder(args[0])
if args[0] == "producer":
    with podipc.sender(args[1]) as tx:
        with clock.span("make"):
            array = np.ones(1 << 20)
        hear()
        with clock.span("send"):
            tx.send(array)
        hear()
else:
    with podipc.receiver(args[1]) as rx:
        say("there")
        with clock.span("recv"):
            x = rx.recv(timeout=60)
        with clock.span("sum"):
            x.sum()
        del x
say(clock.to_json())
"""


def test_one_exchange(spawn):
    consumer = spawn(SIDE, "consumer", "traces")
    consumer.expect("there")
    producer = spawn(SIDE, "producer", "traces")
    producer.tell("go")
    received = consumer.hear()
    producer.tell("end")
    events = timeline.from_json(producer.hear(), received)
    by = {(e.container, e.label): e for e in events}
    assert set(by) == {
        ("producer", "make"),
        ("producer", "send"),
        ("consumer", "recv"),
        ("consumer", "sum"),
    }
    assert events == timeline.in_order(events)
    # One clock for both: it is received after sending began, and waited for before.
    send, recv = by["producer", "send"], by["consumer", "recv"]
    assert recv.start_ns < send.start_ns < recv.end_ns <= by["consumer", "sum"].start_ns

    plots = pytest.importorskip("podipc.lab.plots")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    figure = plots.timeline(events, about="runtime plain")
    (ax,) = figure.axes
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == [f"{e.container}: {e.label}" for e in events]
    assert ax.get_xlabel().endswith(("(ns)", "(µs)", "(ms)", "(s)"))
    assert [bar.get_x() for bar in ax.patches] == sorted(bar.get_x() for bar in ax.patches)
    assert ax.patches[0].get_x() == 0


def test_a_span_is_recorded_if_it_raises():
    clock = timeline.Recorder("here")
    with pytest.raises(ZeroDivisionError), clock.span("divide"):
        1 / 0  # noqa: B018
    ((container, label, start, end),) = clock.events
    assert (container, label) == ("here", "divide")
    assert 0 < start <= end


def test_a_recorder_is_bounded(monkeypatch):
    monkeypatch.setattr(timeline, "MOST", 2)
    clock = timeline.Recorder("here")
    for _ in range(5):
        with clock.span("x"):
            pass
    assert (len(clock.events), clock.dropped) == (2, 3)
    with pytest.raises(timeline.TimelineError, match="at most 2 events"):
        timeline.from_json("[[], [], []]")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[["a", "b", 1]]',
        '[["a", "b", 2, 1]]',
        '[["a", "b", -1, 1]]',
        '[["a", "b", 1, 99999999999999999999]]',
        '[["a", 7, 1, 2]]',
        '[["a", "b", 1.5, 2]]',
        f'[["{"a" * 201}", "b", 1, 2]]',
        "[" * 100_000,
    ],
)
def test_what_is_no_timeline(text):
    with pytest.raises(timeline.TimelineError):
        timeline.from_json(text)


def resident(pid):
    def ask():
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    return ask


def test_memory_of_two_processes(spawn):
    grow = "hear(); x = np.ones(args[0] << 17); say('grown'); hear()"
    big, small = spawn(grow, 64), spawn(grow, 1)
    with Sampler({"big": resident(big.pid), "small": resident(small.pid)}, 0.005) as sampler:
        for child in (big, small):
            child.tell("grow")
            child.expect("grown")
        time.sleep(0.05)
        small.tell("end")
        small.end()
    assert {s.container for s in sampler.samples} == {"big", "small"}
    assert [s.t for s in sampler.samples] == sorted(s.t for s in sampler.samples)
    mine = [s.bytes for s in sampler.samples if s.container == "big"]
    assert max(mine) - mine[0] >= 60 << 20

    plots = pytest.importorskip("podipc.lab.plots")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    (ax,) = plots.memory(sampler, about="runtime plain").axes
    assert {line.get_label() for line in ax.lines} == {"big", "small"}
    assert ax.get_xlabel() == "time (s)"
    assert "(MiB)" in ax.get_ylabel()
    assert max(ax.lines[0].get_ydata()) == max(mine) / (1 << 20)


IN_A_CONTAINER = """
import numpy as np, podipc, time
from podipc.lab.timeline import Recorder
clock = Recorder(name)
"""
SENDS = """
with podipc.sender("frames") as tx:
    with clock.span("make"):
        array = np.ones(8 << 20)
    with clock.span("send"):
        tx.send(array)
    with clock.span("wait for the other side"):
        while tx.stats()["queued"] or tx.stats()["held"]:
            time.sleep(0.001)
clock.to_json()
"""
TAKES = """
with podipc.receiver("frames") as rx:
    with clock.span("recv"):
        array = rx.recv(timeout=60)
    with clock.span("sum"):
        total = float(array.sum())
    copy = array.copy()
    del array
clock.to_json()
"""


@pytest.fixture
def pod(podipc_dir, monkeypatch):
    """Two containers that wait for code, with a /dev/shm of their own."""
    monkeypatch.delenv("PODIPC_DIR")
    from podipc.pod import up
    from podipc.pod.local import namespaces

    with namespaces.Pod() as made:
        if not made.isolation["pid"]:
            pytest.skip("not possible here: " + "; ".join(made.notes))
    containers = [{"name": name, "image": "unused"} for name in ("producer", "consumer")]
    spec = {"terminationGracePeriodSeconds": 1, "containers": containers}
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "traces"}}
    with up({**head, "spec": spec}, "local", idle=True) as made:
        yield made


def test_in_the_containers_of_a_pod(pod):
    """The memory of each, as the runtime accounts it, and an exchange on one clock."""
    for name, container in pod.containers.items():
        container.run(IN_A_CONTAINER, variables={"name": name}).unwrap()
    ask = {name: container.stats for name, container in pod.containers.items()}
    with Sampler(ask, 0.01) as sampler:
        sends = pod["producer"].background(SENDS)
        taken = pod["consumer"].run(TAKES).unwrap()
        sent = sends.wait(PATIENCE).unwrap()
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            time.sleep(0.01)
    assert sampler.ended == {}
    for name in ask:
        used = [s.bytes for s in sampler.samples if s.container == name]
        assert max(used) - used[0] >= 56 << 20, name
    events = timeline.from_json(sent, taken)
    assert {e.container for e in events} == {"producer", "consumer"}
    by = {e.label: e for e in events}
    assert by["send"].start_ns < by["recv"].end_ns <= by["sum"].start_ns


class Stats:
    """As `Container.stats` returns."""

    def __init__(self, memory):
        self.memory = memory


def test_who_cannot_be_asked_is_not_asked_again():
    asked = []

    def dead():
        asked.append(1)
        raise ProcessLookupError("it has ended")

    ask = {"lives": lambda: Stats(7), "dead": dead, "unknown": lambda: Stats(None)}
    with Sampler(ask, 0.001) as sampler:
        time.sleep(0.05)
    assert len(asked) == 1
    assert sampler.ended == {
        "dead": "ProcessLookupError: it has ended",
        "unknown": "LookupError: its memory is not known here",
    }
    assert len(sampler.samples) > 1
    assert all(isinstance(s, Sample) and s[1:] == ("lives", 7) for s in sampler.samples)


def test_a_sampler_ends_with_its_block():
    before = threading.active_count()
    with pytest.raises(KeyError), Sampler({"x": lambda: 1}, 10):
        raise KeyError
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("ask", "interval"), [({}, 0.1), ({"x": int}, 0), ({"x": int}, -1), ({"x": int}, float("nan"))]
)
def test_wrong_samplers(ask, interval):
    with pytest.raises(ValueError, match=r"no container|positive"):
        Sampler(ask, interval)
