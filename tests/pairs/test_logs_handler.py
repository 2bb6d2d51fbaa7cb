"""An application that logs to ``podipc logd``, which dies, stops and comes back."""

import logging
import random
import signal
import socket
import threading
import time

import pytest
from logging_agents import agent_here, start_agents  # noqa: F401
from support import eventually, free_port, took_at_most

from podipc._core import AddressError
from podipc.logs import Handler, agent


@pytest.fixture
def logger():
    """A logger of its own, whose handlers are closed at the end."""
    made = logging.Logger("test", 1)
    yield made
    for handler in list(made.handlers):
        made.removeHandler(handler)
        handler.close()


def lines_of(logger, count):
    return [f"{logger.name}: line {number}" for number in range(count)]


APPLICATION = """
import logging, podipc.logs
logger = logging.getLogger("app")
logger.setLevel(1)
logger.addHandler(podipc.logs.Handler(args[0], timeout=60, queue=args[1]))
for number in range(args[2]):
    logger.info("line %d", number)
    if number % 8 == 0:
        time.sleep(0.002)
    if number % 500 == 0:
        say(number)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_restarts_of_the_agent(started, spawn, number):
    """Nothing is lost, nothing is there twice, and all is in order."""
    one = started("--max-bytes", "20K", "--keep", "99")
    child = spawn(APPLICATION, one.url, True, 5000)
    rng = random.Random(number)
    for heard in range(0, 5000, 500):
        child.expect(heard)
        if heard % 1000 == 0:
            time.sleep(rng.uniform(0, 0.05))
            assert one.end(number) == (0 if number == signal.SIGTERM else -number)
            one.start()
    child.end()
    assert one.kept() == [f"app: line {n}" for n in range(5000)]
    assert one.end() == 0
    if number == signal.SIGTERM:
        assert one.printed() == one.kept()


def test_restarts_of_the_agent_without_a_queue(started, spawn):
    one = started()
    child = spawn(APPLICATION, one.url, False, 1001)
    for heard in (0, 500, 1000):
        child.expect(heard)
        one.end(signal.SIGKILL)
        one.start()
    child.end()
    assert one.kept() == [f"app: line {n}" for n in range(1001)]


@pytest.mark.parametrize("queue", [True, False])
def test_the_agent_comes_later(started, logger, queue):
    one = started(run=False)
    logger.addHandler(handler := Handler(one.url, queue=queue, block=0.05))
    with took_at_most(10):
        for number in range(50):
            logger.info("line %d", number)
    assert handler.stats()["waiting"] == 50
    one.start()
    assert handler.flush(60)
    assert one.kept() == lines_of(logger, 50)


def longest(logger, count):
    """Log so many lines; the longest time that one took."""
    found = 0.0
    for number in range(count):
        start = time.monotonic()
        logger.info("line %d", number)
        found = max(found, time.monotonic() - start)
    return found


@pytest.mark.parametrize("drop", ["newest", "oldest"])
def test_a_stopped_agent_does_not_stop_the_application(started, logger, drop, capsys):
    one = started()
    logger.addHandler(handler := Handler(one.url, capacity=100, block=0.3, drop=drop, timeout=60))
    logger.info("first")
    assert handler.flush()
    one.send(signal.SIGSTOP)
    with took_at_most(10):
        assert longest(logger, 1000) < 5  # the promise is 0.3
    dropped = handler.stats()["dropped"]
    assert 890 <= dropped <= 900
    said = capsys.readouterr().err
    assert "no room for more lines, some are dropped: the agent has not answered yet\n" in said
    one.send(signal.SIGCONT)
    assert handler.flush(60)
    logger.info("last")
    assert handler.flush(60)
    _, *kept, last = one.kept()
    assert last == f"{logger.name}: last"
    (report,) = [line for line in kept if "dropped" in line]
    assert report.startswith(f"podipc.logs: {dropped} lines dropped")
    kept.remove(report)
    numbers = [int(line.rpartition(" ")[2]) for line in kept]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 1000 - dropped
    assert numbers[-1] == (999 if drop == "oldest" else len(numbers) - 1)


def test_a_stopped_agent_without_a_queue(started, logger):
    one = started()
    logger.addHandler(handler := Handler(one.url, block=0.2, queue=False))
    logger.info("line 0")
    one.send(signal.SIGSTOP)
    with took_at_most(30):
        for number in range(1, 6):
            logger.info("line %d", number)
    one.send(signal.SIGCONT)
    assert handler.flush(60)
    assert one.kept() == lines_of(logger, 6)


def test_threads(started, logger):
    one = started()
    logger.addHandler(handler := Handler(one.url))
    threads = [
        threading.Thread(target=lambda k=k: [logger.info("%d %d", k, n) for n in range(300)])
        for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert handler.flush(60)
    kept = [tuple(map(int, line.split()[1:])) for line in one.kept()]
    for k in range(8):
        assert [n for who, n in kept if who == k] == list(range(300))


@pytest.mark.parametrize("queue", [True, False])
def test_fork(started, spawn, queue):
    """A child sends its own lines, and not its parent's."""
    one = started()
    child = spawn(
        "import logging, podipc.logs\n"
        "handler = podipc.logs.Handler(args[0], timeout=60, queue=args[1])\n"
        "logger = logging.getLogger('app')\n"
        "logger.setLevel(1)\n"
        "logger.addHandler(handler)\n"
        "for n in range(200): logger.info('parent %d', n)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    for n in range(200): logger.info('child %d', n)\n"
        "    os._exit(not handler.flush())\n"
        "for n in range(200, 400): logger.info('parent %d', n)\n"
        "say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n",
        one.url,
        queue,
    )
    child.expect(0)
    child.end()
    kept = one.kept()
    assert [line for line in kept if "parent" in line] == [f"app: parent {n}" for n in range(400)]
    assert [line for line in kept if "child" in line] == [f"app: child {n}" for n in range(200)]


def test_configured_by_a_dictionary(started, spawn):
    """With text for numbers, a formatter, and nothing that closes it but the end of Python."""
    one = started()
    child = spawn(
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1,\n"
        "    'formatters': {'f': {'format': '<%(message)s>'}},\n"
        "    'handlers': {'h': {'class': 'podipc.logs.Handler', 'url': args[0],\n"
        "        'capacity': '50', 'timeout': '60', 'queue': 'true', 'formatter': 'f'}},\n"
        "    'root': {'level': 'DEBUG', 'handlers': ['h']}})\n"
        "logging.warning('gr\\xfc\\xdfe %s', '\\U0001f600')\n"
        "try: {}['x']\n"
        "except KeyError: logging.exception('failed')\n",
        one.url,
    )
    child.end()
    first, second = one.kept()
    assert first == "root: <gr\xfc\xdfe \U0001f600>"
    assert second.startswith("root: <failed>\\nTraceback")
    assert child.errors() == ""


def test_at_the_end_of_python_without_an_agent(spawn):
    """It ends in time, and says what was not delivered."""
    url = f"http://localhost:{free_port()}/log"
    with took_at_most(30):
        child = spawn(
            "import logging, atexit, podipc.logs\n"
            "logging.getLogger().addHandler(podipc.logs.Handler(args[0], timeout=0.5))\n"
            "logging.warning('lost')\n",
            url,
        )
        child.end()
    assert f"podipc.logs: {url}: 1 lines were not delivered: " in child.errors()
    assert "refused" in child.errors()


def test_what_logs_while_it_is_logged(started, logger):
    one = started()
    logger.addHandler(handler := Handler(one.url))

    class Loud:
        def __str__(self):
            logger.info("inner")
            return "outer"

    class Endless:
        def __str__(self):
            logger.info("%s", Endless())
            return "endless"

    logger.info("%s", Loud())
    logger.info("%s", Endless())
    assert handler.flush(60)
    kept = [line.rpartition(" ")[2] for line in one.kept()]
    assert kept == ["inner", "outer", *["endless"] * 4]


def test_what_cannot_be_formatted_does_not_raise(started, logger, capsys):
    one = started()
    logger.addHandler(handler := Handler(one.url))
    logger.info("%d", "text")
    logger.info("good")
    assert handler.flush(60)
    assert one.kept() == [f"{logger.name}: good"]
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_line_the_agent_refuses(started, logger):
    one = started("--max-body", "2K")
    logger.addHandler(handler := Handler(one.url))
    for number in range(40):
        logger.info("line %d%s", number, "x" * 3000 if number == 20 else "")
    assert handler.flush(60)
    logger.info("last")
    assert handler.flush(60)
    kept = one.kept()
    (report,) = [line for line in kept if line.startswith("podipc.logs:")]
    assert "was refused by the agent: a body of" in report
    kept.remove(report)
    expected = lines_of(logger, 40)
    del expected[20]
    assert kept == [*expected, f"{logger.name}: last"]


def test_an_agent_that_has_enough_of_an_idle_client(here, logger, monkeypatch):
    monkeypatch.setattr(agent.Handler, "idle_seconds", 0.1)
    logger.addHandler(handler := Handler(here.agent.url))
    for number in range(3):
        logger.info("line %d", number)
        assert handler.flush(60)
        eventually(lambda: not here.agent._server.handlers, "it has closed the connection")
    assert here.printed().count("line") == 3
    assert handler.stats()["delivered"] == 3


def test_something_else_listens(logger):
    """Lines are kept as long as what answers is no agent."""
    port = free_port()
    logger.addHandler(handler := Handler(f"http://127.0.0.1:{port}/log", timeout=0.5))
    with socket.create_server(("127.0.0.1", port)) as server:
        logger.info("line 0")
        for answer in (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b""):
            connection, _ = server.accept()
            connection.recv(65536)
            connection.sendall(answer)
            connection.close()
        assert handler.stats()["waiting"] == 1
        connection, _ = server.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert handler.flush(60)
        connection.close()


def test_after_close(started, logger, capsys):
    one = started()
    handler = Handler(one.url)
    logger.addHandler(handler)
    logger.info("line 0")
    handler.close()
    handler.close()
    logger.info("line 1")
    logger.info("line 2")
    assert handler.flush()
    assert one.kept() == lines_of(logger, 1)
    assert capsys.readouterr().err.count("after close()") == 1


def test_wrong_arguments():
    for url in ("http://example.com:80/log", "shm://x", "localhost:8080", "http://localhost/log"):
        with pytest.raises(AddressError):
            Handler(url)
    for wrong in (
        {"capacity": 0},
        {"block": -1},
        {"timeout": "soon"},
        {"timeout": float("nan")},
        {"queue": "maybe"},
        {"drop": "all"},
        {"max_bytes": 10},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Handler(**wrong)
