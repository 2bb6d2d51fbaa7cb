"""The command `podipc plot`: figures of saved results, and two runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from podipc.console import EXIT_CODES, OK, Usage
from podipc.lab.results import Results, ResultsError

EXAMPLES = """\
examples:
  podipc plot results.json                      a report in podipc-report/
  podipc plot before.json after.json --output changed/
  podipc plot results.json --figure latency --output latency.svg
  podipc plot results.json --figure cpu --methods shm,tcp --output cpu.png

figures:
  latency, throughput, crossover, distribution, cold, cpu; changes (of two runs)

Results are those of podipc compare (--json, or --output), or saved from Python:
.json, .csv or .parquet. Figures need matplotlib: pip install 'podipc[plot]'.

"""
DIRECTORY = Path("podipc-report")
WIDTHS = {"wide": None, "narrow": (3.9, None)}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``plot`` to the commands of `podipc`."""
    parser = commands.add_parser(
        "plot",
        help="draw saved results, one run or two side by side",
        description="Draw saved results again: a directory with a page and every figure, or one\n"
        "figure. Of two runs it shows what changed from the first to the second, and\n"
        "whether that is more than noise.",
        epilog=EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_plot, parser=parser)
    parser.add_argument("results", nargs="+", metavar="RESULTS", type=Path, help="one file or two")
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help=f"directory of the report (default: {DIRECTORY}); with --figure the file, "
        "ending in .svg, .png or .pdf (default: NAME.svg)",
    )
    one = parser.add_argument_group("one figure")
    one.add_argument("--figure", metavar="NAME", help="this one only (see below)")
    one.add_argument("--methods", metavar="A,B", help="show these only")
    one.add_argument(
        "--theme",
        choices=["light", "dark", "auto"],
        default="auto",
        help="auto (default): without a background, and as .svg light or dark as its reader "
        "prefers, else legible on both",
    )
    one.add_argument("--width", choices=list(WIDTHS), default="wide", help="narrow: for a phone")


def _plot(options: argparse.Namespace) -> int:
    if len(options.results) > 2:
        raise Usage(f"one or two files of results, not {len(options.results)}")
    *before, results = [_load(path) for path in options.results]
    against = before[0] if before else None
    try:
        if options.figure is not None:
            _one(options, results, against)
        else:
            _all(options, results, against)
    except ImportError as error:
        raise Usage(str(error)) from error
    return OK


def _load(path: Path) -> Results:
    try:
        return Results.load(path)
    except (ResultsError, ImportError) as error:
        raise Usage(str(error)) from error
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from error


def _all(options: argparse.Namespace, results: Results, against: Results | None) -> None:
    from podipc.lab import report

    if options.methods is not None:
        raise Usage("--methods goes with --figure: a report has all of them")
    for name, default in (("theme", "auto"), ("width", "wide")):
        if getattr(options, name) != default:
            raise Usage(f"--{name} goes with --figure: a report follows its reader")
    try:
        print(report.write(results, options.output or DIRECTORY, against))
    except report.ReportError as error:
        raise Usage(f"--output: {error}") from error


def _one(options: argparse.Namespace, results: Results, against: Results | None) -> None:
    from podipc.lab.plots import gallery

    path = options.output or Path(f"{options.figure}.svg")
    follow = options.theme == "auto" and path.suffix == ".svg"
    try:
        figure = gallery.draw(
            options.figure,
            results,
            against=against,
            methods=None if options.methods is None else options.methods.split(","),
            theme="light" if follow else options.theme,
            size=WIDTHS[options.width],
        )
        gallery.save(figure, path, follow=follow)
    except ValueError as error:
        raise Usage(str(error)) from error
    print(path)
