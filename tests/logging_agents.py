"""Agents for the tests of logging: ``podipc logd`` as a process, or one in this process."""

import http.client
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, eventually, free_port, send_signal

from podipc.logs import agent, lines
from podipc.logs.sink import Sink

LINE = re.compile(r"(\S+Z) ([A-Z]+) Received log: (.*)")


class Agent:
    """``podipc logd`` as a process, started and ended as the test likes."""

    def __init__(self, place: Path, *options: str) -> None:
        self.directory = place / "log"
        self.output = place / "output"
        self.errors = place / "errors"
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/log"
        self.options = ["--port", str(self.port), *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        before = self.said().count("listening on")
        with self.output.open("ab") as output, self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "podipc", "logd", *self.options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        if wait:
            eventually(lambda: self.said().count("listening on") > before, "it listens")

    def said(self) -> str:
        return self.errors.read_text() if self.errors.exists() else ""

    def send(self, number: int) -> None:
        assert self.process
        send_signal(self.process, number)

    def wait(self) -> int:
        assert self.process
        return self.process.wait(PATIENCE)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait()

    def request(self, method: str, path: str, body=None, **fields):
        return request(self.port, method, path, body, **fields)

    def post(self, body, **fields):
        return self.request("POST", "/log", body, **{"Content-Type": "text/plain", **fields})

    def printed(self) -> list[str]:
        return [LINE.fullmatch(line)[3] for line in self.output.read_text().splitlines()]

    def kept(self) -> list[str]:
        number = lambda path: -int(path.suffix[1:].replace("log", "0"))  # noqa: E731
        files = sorted(self.directory.glob("pod.log*"), key=number)
        text = "".join(path.read_text() for path in files)
        return [LINE.fullmatch(line)[3] for line in text.splitlines()]


def request(port, method, path, body=None, **fields):
    """Code, text and fields of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip(), answer.headers
    finally:
        connection.close()


@pytest.fixture(name="started")
def start_agents(tmp_path):
    """A factory of agents, which end with the test."""
    agents = []

    def start(*options, run=True, keep=True):
        directory = ["--directory", str(tmp_path / "log")] if keep else []
        agents.append(Agent(tmp_path, *directory, *options))
        if run:
            agents[-1].start()
        return agents[-1]

    yield start
    for one in agents:
        if one.process is not None and one.process.poll() is None:
            one.send(signal.SIGCONT)
            one.send(signal.SIGKILL)
            one.wait()


class Here:
    """An agent in this process, whose limits a test may change."""

    def __init__(self, **options):
        self.read, self.write = os.pipe()
        self.sink = Sink(self.write, None, lines.as_text)
        self.agent = agent.Agent(agent.Options(port=0, **options), self.sink, list)
        self.port = int(re.search(r":(\d+)/", self.agent.url)[1])

    def post(self, body="x", method="POST", path="/log", **fields):
        fields = {"Content-Type": "text/plain", **fields}
        return request(self.port, method, path, body, **fields)

    def line(self):
        """All that is printed, to the end of a line; waits for it."""
        said = b""
        while not said.endswith(b"\n"):
            said += os.read(self.read, 65536)
        return said

    def printed(self):
        os.set_blocking(self.read, False)
        try:
            return os.read(self.read, 1 << 20).decode()
        except BlockingIOError:
            return ""


@pytest.fixture(name="here")
def agent_here(request):
    one = Here(**getattr(request, "param", {}))
    yield one
    one.agent.close(30)
    os.close(one.read)
    os.close(one.write)
