"""What runs in a container, sent there as source: any image with a python3 will do.

Its modules use the standard library alone, and NumPy where arrays are involved and it
can be imported. `wire` serves both sides.
"""

from __future__ import annotations

import json
from pathlib import Path

MODULES = ("wire", "probe", "processes", "printing", "session")
"""Those that are sent, in the order in which they import each other."""

_AS = "podipc_inside"
# Under another name than here: the container may have a podipc of its own.
_LOADER = f"""\
import json, os, sys, types
f = os.fdopen(os.dup(0), "rb")
n = f.readline()
p = sys.modules[{_AS!r}] = types.ModuleType({_AS!r})
for k, t in json.loads(f.read(int(n)) if n else b"{{}}").items():
    m = sys.modules[{_AS!r} + "." + k] = types.ModuleType({_AS!r} + "." + k)
    setattr(p, k, m)
    exec(compile(t, "<podipc " + k + ">", "exec"), m.__dict__)
if n: m.serve(f)
"""

COMMAND = ("python3", "-u", "-c", _LOADER)
"""Runs what `sources` gives, which it reads first. Short: a cluster sends it in an address."""


def sources() -> bytes:
    """What has to be written to `COMMAND` before the first frame."""
    folder = Path(__file__).parent
    texts = {
        name: (folder / f"{name}.py").read_text("utf-8").replace(__package__, _AS)
        for name in MODULES
    }
    text = json.dumps(texts).encode()
    return b"%d\n%s" % (len(text), text)
