"""Log lines to a sidecar: `Handler` in the application, ``podipc logd`` in the other container.

::

    logging.getLogger().addHandler(podipc.logs.Handler())

sends what is logged to http://127.0.0.1:8080/log, where ``podipc logd`` listens.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from podipc.logs.handler import Handler

__all__ = ["Handler"]


def __getattr__(name: str) -> object:
    # On demand: the command line imports this package, and needs no HTTP for its other commands.
    if name == "Handler":
        from podipc.logs.handler import Handler

        return Handler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
