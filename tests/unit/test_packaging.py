"""What is in the sdist and in the wheel, and that a user needs no more."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from support import ROOT

import podipc

pytest.importorskip("build", reason="build is not installed")

pytestmark = pytest.mark.slow

NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv", "venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"),
    *("*.so", ".hypothesis"),
)
TRY_IT = """
import threading, numpy, podipc
array = numpy.arange(1000.0).reshape(10, 100)
def send():
    with podipc.sender("packaging") as tx:
        tx.send(array)
thread = threading.Thread(target=send)
thread.start()
with podipc.receiver("packaging") as rx:
    assert (rx.recv(timeout=60) == array).all()
thread.join()
print(podipc.__file__)
"""


def run(*command, cwd):
    ran = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source, an sdist of it, and a wheel made from that sdist."""
    place = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, place / "tree", ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--outdir", place / "dist", place / "tree", cwd=place)
    (sdist,), (wheel,) = place.glob("dist/*.tar.gz"), place.glob("dist/*.whl")
    return place / "tree", sdist, wheel


def files_of(tree, *folders):
    found = {p for folder in folders for p in (tree / folder).rglob("*") if p.is_file()}
    return {str(p.relative_to(tree)) for p in found}


def test_sdist_has_all_that_is_needed_to_build_and_test(built):
    tree, sdist, _ = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files_of(tree, "podipc", "csrc", "third_party", "tests", "k8s", "notebooks", ".ci")
    wanted -= {name for name in wanted if "egg-info" in name}
    wanted |= {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "setup.py"}
    wanted |= {".clang-format", ".pre-commit-config.yaml"}  # of which tests speak
    assert not wanted - names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_wheel_has_the_package_and_nothing_else(built):
    tree, _, wheel = built
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, python, abi) == ("podipc", "cp311", "abi3")
    assert platform.startswith("linux_")
    assert version == podipc.__version__
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == files_of(tree, "podipc") | {"podipc/_core.abi3.so"}
    assert [name for name in info if name.endswith("licenses/LICENSE")]


def test_wheel_works_with_numpy_alone(built, tmp_path):
    _, _, wheel = built
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", wheel, cwd=tmp_path)
    ask = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = set(run(python, "-c", ask, cwd=tmp_path).split())
    assert names - {"pip", "setuptools"} == {"numpy", "podipc"}
    assert str(tmp_path) in run(python, "-c", TRY_IT, cwd=tmp_path)
    said = run(tmp_path / "venv/bin/podipc", "--version", cwd=tmp_path)
    assert said == f"podipc {podipc.__version__}\n"
