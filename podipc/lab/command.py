"""The command `podipc compare`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from podipc._core import PodipcError
from podipc.console import EXIT_CODES, FAILED, OK, USAGE, Usage, printable

if TYPE_CHECKING:
    from podipc.lab.plan import Plan
    from podipc.lab.results import Results

COMPARE_EXAMPLES = """\
examples:
  podipc compare --quick               all of podipc, in under 20 s
  podipc compare --peers --floor       with what else there is, and the floor
  podipc compare --methods shm,tcp --sizes 64,4K,1M
  podipc compare --input photographs.npz
  podipc compare --runtime podman --json podman.json
  podipc compare --against podman.json
  podipc compare --quick --output report/
  podipc compare --quick --json - | jq '.rows[].method'

A round trip is a tensor there and eight bytes back; throughput is that of many
tensors one way. Every tensor is checked at the other side.

A method that cannot be measured, or whose process dies, has a line that says
so, and the others are measured. With a tensor that arrived wrong, or a method
of podipc whose process died, the exit code is 1.

"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``compare`` to the commands of `podipc`."""
    from podipc.lab import plan

    parser = commands.add_parser(
        "compare",
        help="measure every method between two containers",
        description="Start a Pod of two containers, and measure every method of moving a tensor\n"
        "from one to the other.",
        epilog=COMPARE_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_compare, parser=parser)
    plan.add_options(parser)
    where = parser.add_argument_group("where")
    where.add_argument(
        "--runtime",
        choices=plan.RUNTIMES,
        help="what runs the two containers; plain: plain processes, nothing isolated "
        "(default: local, or plain where that is not permitted)",
    )
    where.add_argument(
        "--shm-size",
        metavar="N",
        type=plan.one_size,
        default=plan.SHM_BYTES,
        help="size of the Pod's /dev/shm (default: 1G, so that everything fits; Kubernetes "
        "gives 64M; podipc's own shm does not need it)",
    )
    where.add_argument(
        "--manifest",
        metavar="FILE",
        help="another Pod than that of k8s/pods/compare.yaml, with containers of the same names: "
        "for another image, other limits, a certain node",
    )
    seen = parser.add_argument_group("results of another run")
    seen.add_argument("--against", metavar="FILE", type=Path, help="lay a saved run beside this")
    seen.add_argument(
        "--from", dest="saved", metavar="FILE", type=Path, help="a saved run; measure nothing"
    )
    out = parser.add_argument_group("output")
    out.add_argument(
        "--json", metavar="FILE", help="save the results as JSON; - for standard output only"
    )
    out.add_argument("--csv", metavar="FILE", help="save a flat table; - for standard output only")
    out.add_argument(
        "--output", metavar="DIR", type=Path, help="write a report: results, figures and a page"
    )
    out.add_argument("--no-progress", action="store_true", help="no display while it runs")
    _add_role(parser)


def _add_role(parser: argparse.ArgumentParser) -> None:
    """What the containers of the manifest are started with."""
    parser.add_argument(
        "--as", dest="role", choices=["producer", "consumer"], help=argparse.SUPPRESS
    )
    for name in ("--memory", "--disk"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--wait", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--events", action="store_true", help=argparse.SUPPRESS)


def _compare(options: argparse.Namespace) -> int:
    from podipc.lab import plan

    if options.list:
        return _list()
    try:
        wanted = plan.of(options)
    except plan.WrongPlan as error:
        raise Usage(str(error)) from error
    if options.role is not None:
        return _role(options, wanted)
    if options.saved is not None:
        _check_nothing_measured(options)
    _check_output(options)
    other = None if options.against is None else _load(options.against)
    results = _measure(options, wanted) if options.saved is None else _load(options.saved)
    if isinstance(results, int):
        return results
    try:
        for path, text in ((options.json, results.to_json), (options.csv, results.to_csv)):
            _write(path, text)
    finally:  # a disk that is full by then is not to cost the run
        if "-" not in (options.json, options.csv):
            _show(options, results, other)
    _report(options, results)
    return _verdict(results)


def _check_nothing_measured(options: argparse.Namespace) -> None:
    measured = ("methods", "sizes", "input", "peers", "floor", "quick", "rounds", "repeat")
    for name in (*measured, "runtime", "manifest"):
        if getattr(options, name):
            raise Usage(f"--from measures nothing: --{name} has no effect")


def _check_output(options: argparse.Namespace) -> None:
    if options.json == "-" and options.csv == "-":
        raise Usage("--json - and --csv - cannot both have standard output")
    if options.against is not None and "-" in (options.json, options.csv):
        raise Usage("--against prints tables, but standard output is for --json or --csv")
    for name in ("json", "csv"):
        path = getattr(options, name)
        _check_suffix(name, path)
        _check_writable(path)
    _check_report(options.output)


def _measure(options: argparse.Namespace, wanted: Plan) -> Results | int:
    """The results, or the exit code if there are none."""
    from podipc.lab import outside, progress
    from podipc.lab.inputs import InputError
    from podipc.pod.errors import ManifestError

    try:
        with progress.display(not options.no_progress) as update:
            return outside.compare(
                wanted,
                options.runtime,
                shm_bytes=options.shm_size,
                manifest=options.manifest,
                progress=update,
            )
    except InputError as error:
        raise Usage(f"--input: {error}") from error
    except (outside.ComparisonFailed, PodipcError) as error:
        print(f"podipc: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ManifestError) else FAILED


def _verdict(results: Results) -> int:
    from podipc.lab import roles

    for row in results.rows:
        if row.wrong or (row.died and row.kind == "podipc"):
            text = printable(f"{row.method}, {row.size} bytes: {row.error}")
            print(f"podipc: {text}", file=sys.stderr)
    return roles.verdict(results)


def _role(options: argparse.Namespace, wanted: Plan) -> int:
    """In a container of the Pod."""
    from podipc.lab import pair, roles

    memory = options.memory or roles.MEMORY
    wait = pair.WAIT if options.wait is None else options.wait
    if options.role == "consumer":
        return roles.consumer(memory, wait, events=options.events)
    if options.disk is not None:
        options.disk.mkdir(mode=0o700, exist_ok=True)
    disk = options.disk or roles.DISK
    return roles.producer(wanted, memory, disk, wait, events=options.events)


def _load(path: Path) -> Results:
    from podipc.lab.results import Results, ResultsError

    try:
        return Results.load(path)
    except (ResultsError, ImportError) as error:
        raise Usage(str(error)) from error
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from error


def _show(options: argparse.Namespace, results: Results, other: Results | None) -> None:
    from podipc.lab import against, table

    name = "this run" if options.saved is None else options.saved.name
    try:
        if other is None:
            table.show(results, sys.stdout)
        else:
            for line in against.lines(results, other, name, options.against.name):
                print(printable(line))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if options.saved is None and other is None:
            raise
        # Results load if they have the form; what stands in them may be anything.
        files = " or ".join(str(p) for p in (options.saved, options.against) if p)
        raise Usage(f"{files}: not as podipc saves results: {error!r}") from error


def _list() -> int:
    """Which methods there are, and why some cannot be measured here."""
    from podipc.lab import methods

    when = {"podipc": "", "peer": "with --peers", "floor": "with --floor"}
    for method in methods.every().values():
        asked = "only by name" if method.extra else when[method.kind]
        print(f"{method.name:14} {method.about:42} {asked}".rstrip())
        if method.missing:
            print(f"{'':14} {method.missing}")
    return OK


def _check_suffix(name: str, path: str | None) -> None:
    """What is in a file is taken from its name when it is loaded again."""
    from podipc.lab.saved import FORMATS

    ending = "" if path is None else Path(path).suffix.lower()
    if ending in FORMATS and ending != f".{name}":
        raise Usage(
            f"--{name} does not write what the name {path} says: it is to end in .{name}. "
            f"From Python, Results.save writes {', '.join(FORMATS)}"
        )


def _check_writable(path: str | None) -> None:
    """Find out before an hour of measuring that the results cannot be saved."""
    if path is not None and path != "-":
        was_there = os.path.lexists(path)
        try:
            with open(path, "a"):
                pass
            if not was_there:
                os.unlink(path)
        except OSError as error:
            raise Usage(f"cannot write {path}: {error.strerror}") from error


def _write(path: str | None, text: Callable[[], str]) -> None:
    if path == "-":
        sys.stdout.write(text())
    elif path is not None:
        Path(path).write_bytes(text().encode())


def _check_report(directory: Path | None) -> None:
    """Find out before anything is measured that a report cannot be written."""
    if directory is None:
        return
    from podipc.lab import report

    try:
        report.check(directory)
    except (report.ReportError, ImportError) as error:
        raise Usage(f"--output: {error}") from error


def _report(options: argparse.Namespace, results: Results) -> None:
    if options.output is None:
        return
    from podipc.lab import report

    page = report.write(results, options.output)
    only = "-" in (options.json, options.csv)
    print(f"\nReport: {page}", file=sys.stderr if only else sys.stdout)
