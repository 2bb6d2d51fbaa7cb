"""Make the notebooks from their sources: ``python notebooks/make.py [NAME ...]``.

Each ``NN_title.py`` is executed from its first cell to its last in a kernel of its own,
and saved with its outputs as ``NN_title.ipynb``. Needs `pip install 'podipc[notebook]'`.

    python notebooks/make.py                   all of them
    python notebooks/make.py 06                one
    python notebooks/make.py --quick --to DIR  shorter measurements, saved elsewhere
    python notebooks/make.py --check           whether each is made from its source
    python notebooks/make.py --thumbnails      only the small pictures of README.md
    python notebooks/make.py --page DIR        only its times: full, and quick from DIR

One figure of each, small, is kept as ``figures/NN_title.png``: that of the cell with the tag
``thumbnail``, else the first.

exit codes: 0 done; 1 a cell failed, or a notebook is not what it should be; 2 wrong usage
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LARGEST = 1_000_000
"""Bytes of a notebook, its figures included."""
CELL_SECONDS = 240
THUMBNAIL = 480
"""Pixels across; half as many on the page."""


def sources(names: list[str]) -> list[Path]:
    """The sources whose names begin with one of `names`; all without."""
    every = sorted(HERE.glob("[0-9][0-9]_*.py"))
    if not names:
        return every
    chosen = [path for path in every if path.name.startswith(tuple(names))]
    for name in names:
        if not any(path.name.startswith(name) for path in every):
            there = ", ".join(path.stem for path in every)
            print(f"make.py: no notebook begins with {name!r}; there are {there}", file=sys.stderr)
            raise SystemExit(2)
    return chosen


def read(source: Path) -> Any:
    """The notebook of a source, without outputs; the same each time."""
    import jupytext

    notebook = jupytext.read(source, config=jupytext.config.load_jupytext_configuration_file(
        str(HERE / "jupytext.toml")
    ))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.name[:2]}-{number}"
        if cell.cell_type == "code" and "solution" in cell.metadata.get("tags", ()):
            cell.metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("jupytext", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: Any) -> None:
    """Execute it. Raises `nbclient.exceptions.CellExecutionError`."""
    import nbclient
    from jupyter_client.manager import AsyncKernelManager

    # The kernel works in another directory: where they meet has to be a whole path.
    with tempfile.TemporaryDirectory(prefix="podipc-notebook-") as place:
        client = nbclient.NotebookClient(
            notebook,
            km=AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{place}/kernel"),
            timeout=CELL_SECONDS,
            resources={"metadata": {"path": str(HERE)}},
            record_timing=False,
        )
        client.execute(cleanup_kc=True)  # it would live on, for its manager is ours


def problems(source: Path, notebook: Any) -> list[str]:
    """What a finished notebook should not have, or should have and has not."""
    found = []
    if _written(notebook) != _written(read(source)):
        found.append(f"is not made from {source.name}: run notebooks/make.py {source.name[:2]}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        if cell.execution_count != number:
            found.append(f"code cell {number} was not executed in order")
            break
    outputs = [output for cell in code for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        found.append("has an error among its outputs")
    if not any("image/png" in output.get("data", {}) for output in outputs):
        found.append("has no figure")
        return found
    for number, cell in enumerate(code, 1):
        if DRAWS.search(cell.source) and not _has_drawn(cell):
            found.append(f"code cell {number} draws a figure and has none")
    return found


DRAWS = re.compile(r"\b(?:chart|plots)\.\w+\(")
"""In the source of a cell."""


def _has_drawn(cell: Any) -> bool:
    """Whether it has a figure, or says why not."""
    return any(
        "image/png" in output.get("data", {}) or output.get("text", "").startswith("Skipped: ")
        for output in cell.outputs
    )


def _written(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """Of each cell what comes from the source."""
    return [
        (cell.cell_type, cell.source, list(cell.metadata.get("tags", ())))
        for cell in notebook.cells
    ]


def save(notebook: Any, path: Path) -> int:
    """Write it whole; the bytes."""
    import nbformat

    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    # Where Python happens to be on this machine is of no use to a reader.
    text = nbformat.writes(notebook).replace(sys.prefix, ".venv") + "\n"
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)
    return len(text.encode())


def _is_bar(output: Any) -> bool:
    """A progress bar, which says nothing when it is over, and is not shown without its kernel."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def figures(notebook: Any, tag: str | None = None) -> list[bytes]:
    """Its figures as PNG, in order; with a tag, those of the cells that have it."""
    return [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook.cells
        if cell.cell_type == "code" and (tag is None or tag in cell.metadata.get("tags", ()))
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def thumbnail(notebook: Any) -> bytes:
    """One of its figures as a small PNG, in which is written of what it was made."""
    from PIL import Image, PngImagePlugin

    figure = _pictured(notebook)
    image = Image.open(io.BytesIO(figure)).convert("RGBA")
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    about = PngImagePlugin.PngInfo()
    about.add_text("Source", _digest(figure))
    out = io.BytesIO()
    image.quantize(128, Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=True, pnginfo=about)
    return out.getvalue()


def _pictured(notebook: Any) -> bytes:
    return [*figures(notebook, "thumbnail"), *figures(notebook)][0]


def _digest(figure: bytes) -> str:
    return hashlib.sha256(figure).hexdigest()


def _thumbnail_of(path: Path) -> Path:
    return path.parent / "figures" / f"{path.stem}.png"


def draw(path: Path) -> list[str]:
    """Save the thumbnail of a notebook that was made."""
    import nbformat

    if not path.exists():
        return [f"is not there: run notebooks/make.py {path.name[:2]}"]
    target = _thumbnail_of(path)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(thumbnail(nbformat.read(path, as_version=4)))
    return []


def _drawn(notebook: Any, path: Path) -> list[str]:
    """What is wrong with the thumbnail."""
    from PIL import Image

    target = _thumbnail_of(path)
    try:
        with Image.open(target) as image:
            if image.info.get("Source") == _digest(_pictured(notebook)):
                return []
    except OSError:  # it is not there, or no picture
        pass
    return [f"figures/{target.name} is not of its figure: run notebooks/make.py --thumbnails"]


ROW = re.compile(r"^(\| .*\((\d\d_\w+)\.ipynb\).* \| )([^|]*)( \|)$", re.MULTILINE)
"""Of README.md: a notebook, and in the last field how long it runs."""


def seconds(path: Path, *, quick: bool) -> int:
    """How long a notebook ran when it was made. Raises ValueError."""
    import nbformat

    told = nbformat.read(path, as_version=4).metadata.get("podipc", {})
    if told.get("quick") is not quick:
        mode = "with" if quick else "without"
        raise ValueError(f"{path}: was not made {mode} --quick: run notebooks/make.py")
    return int(told["seconds"])


def write_times(quick: Path) -> int:
    """Say in README.md how long each of its notebooks runs; 1 where that is not known."""
    page, missing = HERE / "README.md", []

    def told(row: re.Match[str]) -> str:
        name = f"{row[2]}.ipynb"
        try:
            full, short = seconds(HERE / name, quick=False), seconds(quick / name, quick=True)
        except (OSError, ValueError) as error:
            missing.append(str(error))
            return row[0]
        return f"{row[1]}{full} s, quick {short} s{row[4]}"

    text = ROW.sub(told, page.read_text())
    page.write_text(text)
    print(*missing, sep="\n", end="\n" * bool(missing), file=sys.stderr)
    return int(bool(missing))


def main() -> int:
    """Make, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="as 06; default: all")
    parser.add_argument("--quick", action="store_true", help="as PODIPC_QUICK=1")
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: beside")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="make nothing")
    only.add_argument("--thumbnails", action="store_true", help="execute nothing")
    only.add_argument("--page", type=Path, metavar="DIR", help="made before with --quick --to DIR")
    options = parser.parse_args()
    if options.quick:
        if options.to is None:
            parser.error("--quick needs --to DIR: what is beside the sources is measured in full")
        os.environ["PODIPC_QUICK"] = "1"
    if options.page is not None:
        return write_times(options.page)
    options.to = options.to or HERE
    options.to.mkdir(parents=True, exist_ok=True)
    failed = False
    for source in sources(options.names):
        path = options.to / f"{source.stem}.ipynb"
        began = time.monotonic()
        does = check if options.check else make
        wrong = draw(path) if options.thumbnails else does(source, path)
        took = "" if options.check or options.thumbnails else f"  {time.monotonic() - began:.1f} s"
        for problem in wrong:
            print(f"{path.name}: {problem}", file=sys.stderr)
        if not wrong:
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB{took}", flush=True)
        failed |= bool(wrong)
    return int(failed)


def check(source: Path, path: Path) -> list[str]:
    """What is wrong with a notebook that was made."""
    import nbformat

    if not path.exists():
        return [f"is not there: run notebooks/make.py {source.name[:2]}"]
    size = path.stat().st_size
    notebook = nbformat.read(path, as_version=4)
    found = problems(source, notebook)
    if figures(notebook) and path.parent == HERE:
        found += _drawn(notebook, path)
    return [*found, *([f"has {size} bytes, more than {LARGEST}"] if size > LARGEST else [])]


def make(source: Path, path: Path) -> list[str]:
    """Execute and save it; what is wrong with it, or with a cell, by which nothing is saved."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = read(source)
    began = time.monotonic()
    try:
        run(notebook)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return [f"{error}"]
    quick = os.environ.get("PODIPC_QUICK", "") not in ("", "0")
    notebook.metadata["podipc"] = {"seconds": round(time.monotonic() - began), "quick": quick}
    size = save(notebook, path)
    found = problems(source, notebook)
    if figures(notebook) and path.parent == HERE:
        found += draw(path)
    return [*found, *([f"has {size} bytes, more than {LARGEST}"] if size > LARGEST else [])]


if __name__ == "__main__":
    raise SystemExit(main())
