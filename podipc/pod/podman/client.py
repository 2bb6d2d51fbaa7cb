"""The podman of this machine: where it is, what it says, whether it can run Pods."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from podipc._core import SystemCallError
from podipc.pod.errors import NotHere

INSTALL = "apt-get install podman runc netavark aardvark-dns catatonit (or your system's packages)"
BUILD = "k8s/image/build.sh"
PATIENCE = 120.0
"""Seconds after which a podman that gives no answer is ended."""


@functools.cache
def program() -> str:
    """Where podman is.

    Raises
    ------
    NotHere
        It is not installed.
    """
    found = shutil.which("podman")
    if found is None:
        raise NotHere(f"the runtime podman needs podman, which is not in PATH: {INSTALL}")
    return os.path.realpath(found)


@functools.cache
def version() -> tuple[int, ...]:
    """Of the installed podman.

    Raises
    ------
    NotHere
        It is not installed, cannot run, or is older than 4.0.
    """
    done = call(["--version"])
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
    if done.returncode != 0 or match is None:
        raise NotHere(f"podman cannot run here: {short(done.stderr or done.stdout)}")
    found = tuple(int(part) for part in match.groups("0"))
    if found < (4, 0):
        raise NotHere(f"the runtime podman needs podman 4.0 or later, not {match[0]}")
    return found


def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run podman with these arguments to its end.

    Raises
    ------
    NotHere
        It has not ended after `PATIENCE`.
    """
    return _run(words, capture_output=True, text=True, errors="replace")


def call_into(output: int, words: Sequence[str], directory: str) -> int:
    """As `call`, in a directory and with what it prints written to a descriptor; its exit code."""
    return _run(words, cwd=directory, stdout=output, stderr=output).returncode


def _run(words: Sequence[str], **place: Any) -> subprocess.CompletedProcess[Any]:
    try:
        return subprocess.run(
            [program(), *words],
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=PATIENCE,
            # A Ctrl-C is for whoever runs the Pod, who then ends it in order.
            start_new_session=True,
            **place,
        )
    except subprocess.TimeoutExpired:
        raise NotHere(
            f"podman {words[0]} has given no answer within {PATIENCE:g} s; does podman ps?"
        ) from None


def ask(words: Sequence[str]) -> str:
    """As `call`; what it prints.

    Raises
    ------
    SystemCallError
        It did not work.
    """
    done = call(words)
    if done.returncode != 0:
        raise SystemCallError(f"podman {words[0]} {words[1]}: {short(done.stderr)}")
    return done.stdout


def users(images: Iterable[str]) -> dict[str, str | None]:
    """The user that each image names, "" for none; None if podman does not have the image.

    Raises
    ------
    NotHere
        Podman cannot say: it is not installed or does not work.
    """
    version()
    found: dict[str, str | None] = {}
    for image in dict.fromkeys(images):
        done = call(["image", "inspect", image])
        if done.returncode == 0:
            described: list[dict[str, Any]] = json.loads(done.stdout)
            found[image] = described[0].get("Config", {}).get("User") or ""
        elif "no such image" in done.stderr or "image not known" in done.stderr:
            found[image] = None
        else:
            raise NotHere(f"podman cannot run here: {short(done.stderr)}")
    return found


def how_to_get(image: str) -> str:
    """What to do if podman does not have an image."""
    if image.startswith("localhost/podipc"):
        return f"build it: {BUILD} (without a registry), or podman build -f k8s/image/Containerfile"
    if image.startswith("localhost/"):
        return f"build it: podman build -t {image} DIRECTORY"
    return f"get it: podman pull {image}"


def short(text: str) -> str:
    """What podman wrote, without its decoration."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    found = "; ".join(dict.fromkeys(errors)) or "; ".join(lines[-3:]) or "it gave no reason"
    return found if len(found) <= 500 else found[:497] + "..."


def warnings(text: str) -> list[str]:
    """The warnings in what podman wrote."""
    return re.findall(r'level=warning msg="((?:[^"\\]|\\.)*)"', text)
