"""A cluster for the tests: ``apiserver.py`` in a process of its own, and manifests for it."""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from support import PATIENCE, ROOT, TESTS, unique_name


class Cluster:
    """A context manager; `env` and ``KUBECONFIG`` lead to it.

    With `tls` it has a certificate of its own; not its control, `tell`.
    """

    def __init__(self, *, tls=False):
        self._directory = tempfile.TemporaryDirectory(prefix="podipc-cluster-")
        if tls:
            self._certify()
        self.kubeconfig = f"{self._directory.name}/kubeconfig"
        # The client imports it if it is there, which takes more than a second.
        without = Path(self._directory.name, "without")
        without.mkdir()
        (without / "kubernetes_validate.py").write_text("raise ImportError")
        path = f"{ROOT}:{without}"
        self.env = {**os.environ, "PYTHONPATH": path, "KUBECONFIG": self.kubeconfig}
        self._process = subprocess.Popen(
            [sys.executable, TESTS / "pods/apiserver.py", self._directory.name],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{TESTS}"},
        )
        self.url = json.loads(self._process.stdout.readline())

    def kill(self):
        """It is gone at once."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._process.stdout.close()
        self._directory.cleanup()

    def _certify(self):
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        words += ["-nodes", "-days", "2"]
        words += ["-subj", "/CN=podipc-test", "-addext", "subjectAltName=IP:127.0.0.1"]
        words += ["-keyout", "tls.key", "-out", "tls.crt"]
        subprocess.run(
            ["openssl", *words], check=True, cwd=self._directory.name, capture_output=True
        )

    def tell(self, **faults):
        """Set faults; what was requested since the last time, and what there is."""
        body = json.dumps(faults).encode()
        with urllib.request.urlopen(f"{self.url}/test", body, timeout=PATIENCE) as answer:
            return json.load(answer)

    def objects(self):
        """KIND/NAMESPACE/NAME of all that there is."""
        return self.tell()["objects"]

    def podipc(self, *words, code=0, **more):
        """Run ``podipc``; output and errors."""
        ran = subprocess.run(
            [sys.executable, "-m", "podipc", *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            env={**self.env, **more},
        )
        assert ran.returncode == code, (ran.stdout, ran.stderr)
        return ran.stdout, ran.stderr


def pod(*scripts, name=None, metadata=None, **spec):
    """A Pod with a container for each script: 'a', 'b', ...; a list is its command."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name or unique_name("pod").lower(), **(metadata or {})},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "containers": [container(chr(97 + i), script) for i, script in enumerate(scripts)],
            **spec,
        },
    }


def container(name, script, **more):
    command = script if isinstance(script, list) else ["sh", "-c", script]
    return {"name": name, "image": "podipc:1", "command": command, **more}


def write(directory, *documents):
    """A file of these documents."""
    import yaml

    file = Path(directory, f"{documents[0]['metadata']['name']}.yaml")
    file.write_text(yaml.safe_dump_all(documents))
    return file
