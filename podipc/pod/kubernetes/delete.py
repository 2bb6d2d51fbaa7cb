"""Delete a Pod of ours: ``python -m podipc.pod.kubernetes.delete NAMESPACE NAME INSTANCE``.

That is what is left to do when the process that made the Pod has died. A Pod of the same
name that somebody else made is not touched.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from podipc._core import PodipcError
from podipc.pod.errors import PodError
from podipc.pod.kubernetes.cluster import Cluster, Unreachable
from podipc.pod.kubernetes.objects import delete, find

_PATIENCE = 50.0
"""Seconds in which an unreachable server is asked again."""
_ON_ITS_WAY = 2.0
"""Seconds after which a Pod that is not there will not come any more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Delete one Pod."""
    parser = argparse.ArgumentParser(prog="podipc.pod.kubernetes.delete")
    parser.add_argument("namespace")
    parser.add_argument("name")
    parser.add_argument("instance")
    parser.add_argument("--context")
    parser.add_argument("--grace", type=int, default=1)
    options = parser.parse_args(argv)
    began = time.monotonic()
    problem: PodipcError = PodError("")
    while time.monotonic() < began + _PATIENCE:
        try:
            cluster = Cluster(options.context)
            found = find(cluster, options.namespace, options.name, options.instance)
            if found is not None:
                uid = found["metadata"]["uid"]
                delete(cluster, options.namespace, options.name, uid, options.grace)
                return 0
            if time.monotonic() > began + _ON_ITS_WAY:
                return 0
        except Unreachable as error:
            problem = error
        except PodipcError as error:
            problem = error
            break
        time.sleep(0.5)
    print(f"Pod {options.name} in namespace {options.namespace}: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
