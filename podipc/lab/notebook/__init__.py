"""Notebook cells that run in the containers of a Pod: ``%load_ext podipc.lab``.

``%pod`` starts, shows and ends the Pod, ``%%container`` runs a cell in one of its
containers, ``%%containers`` in several at the same time. Whatever a magic does is a call
of `podipc.pod`; the Pod is the variable ``pod`` of the notebook.
"""

from __future__ import annotations

import atexit
from typing import Any

_MAGICS = ("pod", "container", "containers")


def load(shell: Any) -> None:
    """Add the magics to a shell of IPython."""
    from podipc.lab.notebook.magics import PodMagics

    magics = PodMagics(shell)
    shell.register_magics(magics)
    for name in ("%pod", "%%container", "%%containers"):
        shell.set_hook("complete_command", magics.complete, str_key=name)
    atexit.register(magics.end)


def unload(shell: Any) -> None:
    """End the Pod of the shell, and take the magics away."""
    magics = shell.magics_manager.registry.pop("PodMagics", None)
    if magics is not None:
        magics.end()
        atexit.unregister(magics.end)
        for name in _MAGICS:
            for kind in shell.magics_manager.magics.values():
                kind.pop(name, None)
