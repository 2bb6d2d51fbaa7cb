"""What tests of the local runtime have in common."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from podmaker import Maker

from podipc.pod.local import namespaces


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Maker]:
    """Writes and starts manifests; what still runs is closed at the end."""
    maker = Maker(tmp_path)
    yield maker
    maker.close()


@pytest.fixture
def isolation() -> None:
    """Skips where there are no namespaces."""
    with namespaces.Pod() as pod:
        if not pod.isolation["mount"] or not pod.isolation["pid"]:
            pytest.skip("not possible here: " + "; ".join(pod.notes))
