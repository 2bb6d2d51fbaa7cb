"""The extension module; everything else is in pyproject.toml.

Environment variables, for developers:

``PODIPC_SANITIZE=address,undefined`` (or ``thread``) builds with sanitizers,
``PODIPC_DEBUG=1`` without optimisation, ``PODIPC_WERROR=1`` makes warnings errors,
``PODIPC_BUNDLED_HEADERS=1`` builds as where Python has been installed without its headers.
"""

import os
import sysconfig
from pathlib import Path

import numpy
from setuptools import Extension, setup

ROOT = Path(__file__).parent
sources = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/*/*.c"))
headers = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("csrc/*/*.h"))

include_dirs = ["csrc/include", numpy.get_include()]
# Debian's python3 comes without Python.h; that of the stable ABI is the same everywhere.
python_h = Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h")
if os.environ.get("PODIPC_BUNDLED_HEADERS") or not python_h.exists():
    include_dirs.append("third_party/cpython/Include")

compile_args = [
    "-std=gnu11",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
]
# Bound at load time: csrc/platform/infra.c runs on where the dynamic loader's heap is gone.
link_args = ["-pthread", "-Wl,-z,relro,-z,now"]
if os.environ.get("PODIPC_WERROR"):
    compile_args.append("-Werror")
if os.environ.get("PODIPC_DEBUG"):
    compile_args += ["-O0", "-g"]
else:
    compile_args += ["-O3", "-g1"]
if sanitize := os.environ.get("PODIPC_SANITIZE"):
    compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"]
    link_args += [f"-fsanitize={sanitize}"]

setup(
    ext_modules=[
        Extension(
            "podipc._core",
            sources=sources,
            depends=headers,
            include_dirs=include_dirs,
            define_macros=[("Py_LIMITED_API", "0x030B0000"), ("_GNU_SOURCE", None)],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
