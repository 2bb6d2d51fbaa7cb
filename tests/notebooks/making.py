"""What the tests of the notebooks have in common."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from support import ROOT

PLACE = ROOT / "notebooks"
SOURCES = sorted(PLACE.glob("[0-9][0-9]_*.py"))


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("notebooks_make", PLACE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _load()
"""notebooks/make.py, which belongs to no package."""


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Of a notebook: this checkout, and nothing of the one who runs the tests."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "PODIPC_QUICK": "1", **more}
    found.pop("PODIPC_DIR", None)  # of the test; a Pod has its own /dev/shm
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        found[name] = str(tmp_path / name.lower())
    return found
