"""Measure how tensors move between the containers of a Pod.

``%load_ext podipc.lab`` in a notebook runs cells in them.

::

    results = podipc.lab.compare(["shm", "tcp"], ["64", "1M"])
    results.save("results.json")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podipc.lab.api import compare, load
    from podipc.lab.results import Results

__all__ = ["Results", "compare", "load"]

_WHERE = {"Results": "results", "compare": "api", "load": "api"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def load_ipython_extension(shell: Any) -> None:
    """Add ``%pod``, ``%%container`` and ``%%containers`` to a notebook."""
    from podipc.lab.notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """End the Pod of the notebook, and take the magics away."""
    from podipc.lab.notebook import unload

    unload(shell)


def quick() -> bool:
    """Whether a notebook is to measure for seconds, not minutes: ``PODIPC_QUICK=1``."""
    import os

    return os.environ.get("PODIPC_QUICK", "") not in ("", "0")
