"""An include or import only points down; what must be in one place only is there only."""

import ast
import re
import sys

import pytest
from support import ROOT

CSRC = ROOT / "csrc"
C_LAYERS = ["include", "core", "platform", "channel", "python"]  # lowest first
C_FILES = sorted(p for p in CSRC.glob("*/*.[ch]") if p.parent.name in C_LAYERS)

# Headers that declare no system call. All others belong to platform/.
PURE = {
    *("assert", "errno", "inttypes", "limits", "math", "stdarg", "stdbool", "stddef"),
    *("stdint", "stdio", "string"),
}
ALSO = {
    "core": {"immintrin", "stdatomic", "arm_neon"},
    "channel": {"pthread", "stdlib"},
    "python": {"Python", "numpy/arrayobject", "stdlib"},
}
# Atomics on a flag that is not in shared memory: set in a forked child, where
# nothing but an async-signal-safe store is allowed.
OTHER_ATOMICS = {"platform/fork.c", "platform/fork.h"}

# Lowest first; modules of one row do not import each other.
PYTHON_LAYERS = [
    ["_core", "starting"],
    ["address", "console", "deadline", "interface", "tensors"],
    ["web"],
    ["http"],
    ["channels"],
    ["__init__"],
    ["leftovers", "logs", "pod"],
    ["waiting"],
    ["doctor"],
    ["lab"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, row in enumerate(PYTHON_LAYERS) for name in row}
PY_FILES = sorted((ROOT / "podipc").rglob("*.py"))


def name_of(path):
    return str(path.relative_to(CSRC))


def code_of(path):
    """The text without comments and literals."""
    text = path.read_text()
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)


def includes_of(path):
    return re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def test_there_is_something_to_look_at():
    assert {p.parent.name for p in C_FILES} == set(C_LAYERS)
    assert any(includes_of(p) for p in C_FILES)
    stray = [p for p in CSRC.rglob("*.[ch]") if p.parent.name not in C_LAYERS]
    assert not [p for p in stray if p.parent.parent == CSRC and p.parent.name != "floor"]


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_c_includes_point_down(path):
    layer = path.parent.name
    for kind, header in includes_of(path):
        if kind == '"':
            target = (path.parent / header).resolve()
            if not target.exists():
                target = CSRC / "include" / header
            assert target.exists(), f"{header}: neither here nor in include/"
            below = C_LAYERS.index(target.parent.name)
            assert below <= C_LAYERS.index(layer), f"{header} is above {layer}/"
        elif layer != "platform":
            stem = header.removesuffix(".h")
            assert stem in PURE | ALSO.get(layer, set()), f"<{header}> belongs to platform/"
        else:
            assert not header.startswith(("Python", "numpy/")), f"<{header}> belongs to python/"


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_atomics_are_in_one_header(path):
    if name_of(path) in {"core/atomics.h", *OTHER_ATOMICS}:
        return
    found = re.findall(
        r"\b(?:atomic_\w+|__atomic_\w+|__sync_\w+|_Atomic|memory_order_\w+|volatile)\b",
        code_of(path),
    )
    assert not found, f"{sorted(set(found))} belong to core/atomics.h"


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_core_neither_allocates_nor_calls_the_kernel(path):
    if path.parent.name != "core":
        return
    found = re.findall(
        r"\b(?:malloc|calloc|realloc|free|mmap|syscall|open|close)\s*\(", code_of(path)
    )
    assert not found


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_nothing_of_python_below_the_binding(path):
    if path.parent.name == "python":
        return
    assert not re.search(r"\b(?:Py[A-Z]\w*|PyObject|pd_state|NPY_\w+)\b", code_of(path))


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_no_printing_and_no_unbounded_text(path):
    """A library neither prints nor ends the process, and knows the size of its buffers."""
    found = re.findall(
        r"\b(?:printf|fprintf|perror|puts|abort|exit|sprintf|strcpy|strcat|gets|alloca)\s*\(",
        code_of(path),
    )
    assert not found


def imports_of(path):
    """The modules of podipc that a file imports, anywhere in it: 'address', 'pod', ..."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "podipc":
                module = rest.partition(".")[0]
                found.add(module if module in RANK else "__init__")
    return found


def module_of(path):
    first = path.relative_to(ROOT / "podipc").parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", PY_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_imports_point_down(path):
    module = module_of(path)
    assert module in RANK, "a new module: give it a place in PYTHON_LAYERS"
    for other in imports_of(path) - {module}:
        assert RANK[other] < RANK[module], f"podipc.{module} imports podipc.{other}"


def test_no_pickle():
    """Neither at work in the package nor in the core: what a peer sends is never executed."""
    for path in PY_FILES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {"pickle", "marshal", "shelve", "dill"} & set(names), path
            if path == ROOT / "podipc/pod/inside/session.py":
                continue  # runs, in a container, the code that a user has asked to run there
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path
    for path in C_FILES:
        assert "pickle" not in path.read_text().lower(), path


def test_what_is_sent_into_containers_needs_nothing_there():
    """Its modules import the standard library, each other, and NumPy where arrays are."""
    for path in (ROOT / "podipc/pod/inside").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                allowed = top in sys.stdlib_module_names or name in {"numpy", "podipc.pod.inside"}
                assert allowed, f"{path} imports {name}"
