"""`podipc.lab.compare`, for scripts and notebooks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from podipc.lab import outside, plan
from podipc.lab.results import Results

Progress = Callable[[int, int, str], None]


def compare(
    methods: Iterable[str] | None = None,
    sizes: Iterable[int | str] | None = None,
    runtime: str | None = None,
    *,
    input: str | os.PathLike[str] | None = None,
    quick: bool = False,
    repeat: int | None = None,
    rounds: int | None = None,
    peers: bool = False,
    floor: bool = False,
    shm_bytes: int = plan.SHM_BYTES,
    manifest: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
) -> Results:
    """Measure methods of moving a tensor between the two containers of a Pod.

    Parameters
    ----------
    methods
        Names, as ``podipc compare --list`` shows; default: all of podipc's own.
    sizes
        Of the tensors, in bytes, or as ``"4K"``, ``"1M"``; default: 64 B to 64 MiB.
    runtime
        ``local``, ``podman``, ``kubernetes`` or ``plain`` (plain processes); default:
        ``local``, or ``plain`` where that is not permitted.
    input
        A .npy, .npz or .safetensors file whose tensors are sent, in place of `sizes`.
    quick
        Fewer sizes and rounds: under 20 s.
    repeat, rounds
        Turns of each method, and round trips a turn at most.
    peers, floor
        Also what a user would pick instead; also what plain C reaches.
    shm_bytes
        Size of the Pod's ``/dev/shm``; that of plain processes is the machine's.
    manifest
        A Pod manifest in place of k8s/pods/compare.yaml.
    progress
        Called with turns done, turns in all, and what is next; True or False: a bar of
        tqdm, or none; None: a bar if tqdm is installed and somebody looks.

    Returns
    -------
    Results
        A method that could not be measured has rows that say why. `Results.about` says what
        it was measured on; its ``notes`` what was not as it should be.

    Raises
    ------
    WrongPlan
        There is no such method, or it is no size.
    InputError
        The file of tensors cannot be used.
    ComparisonFailed
        A container died or fell silent; the text says what it printed last.
    PodipcError
        The Pod could not be started.
    ValueError
        There is no such runtime. The first two are ValueErrors as well.

    One comparison at a time: two would measure each other.
    """
    if runtime is not None and runtime not in plan.RUNTIMES:
        raise ValueError(f"there is no runtime {runtime!r}; there is {', '.join(plan.RUNTIMES)}")
    wanted = plan.make(
        methods,
        sizes,
        input=None if input is None else Path(input),
        quick=quick,
        peers=peers,
        floor=floor,
        repeat=repeat,
        rounds=rounds,
    )
    with _shown(progress) as update:
        return outside.compare(
            wanted, runtime, shm_bytes=shm_bytes, manifest=manifest, progress=update
        )


def load(path: str | os.PathLike[str]) -> Results:
    """What `Results.save` wrote. Raises `ResultsError` or OSError."""
    return Results.load(Path(path))


@contextlib.contextmanager
def _shown(progress: Progress | bool | None) -> Iterator[Progress]:
    if callable(progress):
        yield progress
        return
    if progress is False or (progress is None and not _is_watched()):
        yield lambda done, total, text: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        if progress:
            raise ImportError("a bar needs tqdm: pip install tqdm") from None
        yield lambda done, total, text: None
        return
    with tqdm(unit="turn", leave=False) as bar:

        def update(done: int, total: int, text: str) -> None:
            bar.total = total or None
            bar.n = done
            bar.set_description_str(text, refresh=False)
            bar.refresh()

        yield update


def _is_watched() -> bool:
    """In a terminal or in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None or sys.stderr.isatty()
