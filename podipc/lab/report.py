"""A report in a directory: the results, every figure, and one page that shows all of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from podipc.lab import files, page
from podipc.lab.plots import gallery, style, svg
from podipc.lab.results import COLUMNS, Results

PAGE = "index.html"
RESULTS, TABLE, OTHER = "results.json", "results.csv", "against.json"
MARKS = (b"podipc", b",".join(name.encode() for name in COLUMNS[:3]))
"""One of these is at the beginning of every file that podipc writes into a report."""
NARROW: style.Size = (3.9, None)
"""Of figures on a phone: 375 pixels of the page, with text of the same size as on a desktop."""


class ReportError(ValueError):
    """The directory is not one that a report can be written to."""


def check(directory: Path) -> None:
    """Find out before anything is measured whether a report can be written.

    Raises
    ------
    ReportError
        It is no directory, it may not be written to, or it has files of the same names
        that podipc did not write.
    ImportError
        matplotlib is missing.
    """
    style.require()
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ReportError(f"{there} is not a directory")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ReportError(f"{there} cannot be written to: {error.strerror}") from error
    strange = [path.name for path in _taken(directory) if not _ours(path)]
    if strange:
        raise ReportError(
            f"{directory} has {', '.join(strange)}, not written by podipc: "
            "name another directory, or move what is there"
        )


def write(results: Results, directory: Path, against: Results | None = None) -> Path:
    """Write the report, each file whole or not at all; the page, which is written last.

    The directory is made where it is missing. Files of an earlier report are replaced,
    and those that this one does not have are removed.

    Parameters
    ----------
    results
        What was measured.
    directory
        Where to.
    against
        Another run, which is laid beside it.

    Raises
    ------
    ReportError, ImportError
        As `check` says.
    OSError
        A file cannot be written.
    """
    check(directory)
    directory.mkdir(parents=True, exist_ok=True)
    before = set(_taken(directory))
    written = {directory / name for name in (PAGE, RESULTS)}
    results.save(directory / RESULTS)
    if results.rows:
        results.save(directory / TABLE)
        written.add(directory / TABLE)
    if against is not None:
        against.save(directory / OTHER)
        written.add(directory / OTHER)
    shown = []
    for kind, figure in gallery.drawable(results, against):
        for suffix in (".svg", ".png"):
            path = directory / f"{kind.name}{suffix}"
            gallery.save(figure, path, follow=True)
            written.add(path)
        narrow = gallery.draw(kind.name, results, against=against, theme="light", size=NARROW)
        both = [
            svg.drawing(drawn, f"{kind.name}-{name}", f"{kind.question} {gallery.title_of(drawn)}.")
            for name, drawn in (("wide", figure), ("narrow", narrow))
        ]
        shown.append(page.Shown(kind.name, kind.question, *both))
    files.write(directory / PAGE, page.html(results, shown, against).encode())
    for path in before - written:
        path.unlink()
    return directory / PAGE


def _taken(directory: Path) -> Iterator[Path]:
    """Files of a report that are there."""
    names = [PAGE, RESULTS, TABLE, OTHER]
    names += [f"{kind}{suffix}" for kind in gallery.KINDS for suffix in (".svg", ".png")]
    return (path for name in names if os.path.lexists(path := directory / name))


def _ours(path: Path) -> bool:
    """Whether podipc wrote it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(2048)
    return any(mark in start for mark in MARKS)
