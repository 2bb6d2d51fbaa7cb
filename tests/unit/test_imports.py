"""`import podipc` is light, and everything but numpy is imported only where it is used.

What is measured is which modules come in, not how long it takes.
"""

import pytest

ALLOWED = {"podipc", "dataclasses", "copy", "org"}  # org: a probe of copy for Jython
OF_NUMPY = {"numpy"}


def modules(spawn, code):
    child = spawn(
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        f"{code}\n"
        "say(sorted(set(sys.modules) - before))"
    )
    return child.hear()


def test_import_is_light(spawn):
    # The child of `spawn` has imported podipc already: start from a bare interpreter.
    import json
    import subprocess
    import sys

    from support import ROOT

    code = (
        "import sys, numpy; before = set(sys.modules); import podipc, json;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    new = {name.partition(".")[0] for name in json.loads(ran.stdout)} - {"json", "_json"}
    assert "podipc" in new
    assert new <= ALLOWED, f"more than numpy and {sorted(ALLOWED)}: {sorted(new - ALLOWED)}"
    assert "podipc.http" not in json.loads(ran.stdout)


@pytest.mark.parametrize(
    "code",
    [
        "podipc.address.parse('x')",
        "from podipc.tensors import *; decode_dtype(encode_dtype(numpy.dtype('f8')))",
        "from podipc.tensors import as_array; as_array(b'abc')",
    ],
)
def test_use_is_light(spawn, code):
    new = {name.partition(".")[0] for name in modules(spawn, code)}
    assert new <= {"podipc"}
