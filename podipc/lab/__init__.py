"""Measure in the containers of a Pod; ``%load_ext podipc.lab`` in a notebook."""

from __future__ import annotations

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Add ``%pod``, ``%%container`` and ``%%containers`` to a notebook."""
    from podipc.lab.notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """End the Pod of the notebook, and take the magics away."""
    from podipc.lab.notebook import unload

    unload(shell)
