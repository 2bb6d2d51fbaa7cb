"""The manifest of an application and its logging agent, also with an agent that is restarted."""

import os
import re
import subprocess
import sys

import pytest
from support import PATIENCE, ROOT, eventually, unique_name

import podipc.pod

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

MANIFEST = ROOT / "k8s/pods/logging-sidecar.yaml"


def run(path):
    return subprocess.run(
        [sys.executable, "-m", "podipc", "pod", "run", "-q", "--runtime", "local", path],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def manifest(monkeypatch):
    """The manifest, to be changed by a test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (document,) = yaml.safe_load_all(MANIFEST.read_text())
    document["metadata"]["name"] = unique_name("logs").lower()
    return document


def change(manifest, *pairs):
    application = manifest["spec"]["containers"][0]
    for what, instead in pairs:
        assert what in application["args"][0]
        application["args"][0] = application["args"][0].replace(what, instead)


def test_as_it_stands():
    ran = run(MANIFEST)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "application | 503 lines logged: each kept by the agent once, in order\n" in ran.stdout
    said = re.findall(r"^agent +\| \S+ \S+ Received log: (.*)$", ran.stdout, re.MULTILINE)
    assert said[:3] == [f"My log message {i}" for i in range(3)]
    assert said[3:] == [f"application: line {i}" for i in range(500)]


def test_with_an_agent_that_is_killed_and_restarted(manifest):
    """Nothing is lost, and nothing is there twice."""
    manifest["spec"]["restartPolicy"] = "OnFailure"
    manifest["spec"]["containers"][1]["args"] = ["--max-bytes", "64K", "--keep", "9"]
    slower = 'logger.warning("line %d", i); time.sleep(0.001)'
    change(manifest, ("range(500)", "range(3000)"), ('logger.warning("line %d", i)', slower))
    with podipc.pod.up(manifest, runtime="local", backoff=0.1) as pod:
        agent = pod["agent"]
        for number, end in enumerate([agent.restart, agent.kill, agent.restart], 1):
            wanted = f"line {400 * number}\n"
            eventually(lambda w=wanted: w in agent.logs(), "the application has come so far")
            end()
        assert pod.wait(PATIENCE) == "Succeeded", pod.message
        assert agent.restarts == 3
        said = pod["application"].logs()
    assert said.endswith("3003 lines logged: each kept by the agent once, in order\n")


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("line {i}", "line {i + 1}"),
        ("logged.append", "logged.insert(0, '') if i == 7 else logged.append"),
        ('logger.warning("line %d", i)', 'logger.warning("line %d", i - (i == 9))'),
    ],
    ids=["another line", "a line too few", "a line twice"],
)
def test_the_application_sees_what_is_wrong(manifest, tmp_path, what, instead):
    """And the Pod ends all the same."""
    change(manifest, (what, instead))
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump(manifest))
    ran = run(path)
    assert ran.returncode == 1, ran.stdout
    assert "of 503 lines 503 are there, or not in order" in ran.stdout
