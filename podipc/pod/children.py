"""What programs of podipc that this process starts are given."""

from __future__ import annotations

import os

import podipc


def environment() -> dict[str, str]:
    """Our environment, in which Python finds the podipc that runs here."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(podipc.__file__)))
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
