"""The command `podipc compare`."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from podipc.console import EXIT_CODES, FAILED, OK, Usage

if TYPE_CHECKING:
    from podipc.lab.compare import Plan
    from podipc.lab.methods import Method
    from podipc.lab.results import Results

COMPARE_EXAMPLES = """\
examples:
  podipc compare --quick               all of podipc, in under 20 s
  podipc compare --peers --floor       with what else there is, and the floor
  podipc compare --methods shm,tcp --sizes 64,4K,1M
  podipc compare --input photographs.npz
  podipc compare --quick --output report/
  podipc compare --quick --json - | jq '.rows[].method'

A round trip is a tensor there and eight bytes back; throughput is that of many
tensors one way. Every tensor is checked at the other side.

"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``compare`` to the commands of `podipc`."""
    parser = commands.add_parser(
        "compare",
        help="measure every method between two containers",
        description="Start two containers on this machine, and measure every method of moving\n"
        "a tensor from one to the other.",
        epilog=COMPARE_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_compare, parser=parser)
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--methods", metavar="A,B", type=_names, help="these only (default: all of podipc's own)"
    )
    what.add_argument(
        "--sizes", metavar="N,N", type=_sizes, help="bytes, as 64,4K,1M (default: 64 to 64M)"
    )
    what.add_argument(
        "--input", metavar="FILE", type=Path, help="tensors of a .npy, .npz or .safetensors file"
    )
    what.add_argument("--peers", action="store_true", help="also what a user would pick instead")
    what.add_argument(
        "--floor", action="store_true", help="also what the machine can do at best, in plain C"
    )
    what.add_argument("--list", action="store_true", help="only say which methods there are")
    how = parser.add_argument_group("how long, and where")
    how.add_argument("--quick", action="store_true", help="fewer sizes and rounds; under 20 s")
    how.add_argument("--rounds", metavar="N", type=_positive, help="at most N round trips a turn")
    how.add_argument("--repeat", metavar="N", type=_positive, help="N turns for each method")
    how.add_argument(
        "--runtime",
        choices=["local", "plain"],
        help="local: containers made of namespaces; plain: plain processes "
        "(default: local, or plain where that is not permitted)",
    )
    how.add_argument(
        "--shm-size",
        metavar="N",
        type=_shm_size,
        default=1 << 30,
        help="size of the Pod's /dev/shm (default: 1G, so that everything fits; Kubernetes "
        "gives 64M; podipc's own shm does not need it)",
    )
    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="FILE", help="save the results; - for standard output only")
    out.add_argument("--csv", metavar="FILE", help="save a flat table; - for standard output only")
    out.add_argument(
        "--output", metavar="DIR", type=Path, help="write a report: results, figures and a page"
    )
    out.add_argument("--no-progress", action="store_true", help="no display while it runs")
    parser.add_argument("--corrupt", type=int, help=argparse.SUPPRESS)


def _names(text: str) -> list[str]:
    """Names of methods."""
    from podipc.lab import methods

    known = list(methods.every())
    for name in (names := text.split(",")):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise argparse.ArgumentTypeError(
                f"no method {name!r}{hint}; there are {', '.join(known)}"
            )
    return list(dict.fromkeys(names))


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMG])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
BIGGEST = 4 << 30


def _sizes(text: str) -> list[int]:
    """Sizes in bytes."""
    sizes = []
    for word in text.split(","):
        match = _SIZE.fullmatch(word.strip())
        if not match:
            raise argparse.ArgumentTypeError(
                f"{word!r} is not a size; write bytes, or 4K, 1M, 2G (powers of 1024)"
            )
        size = float(match[1]) * _UNITS[(match[2] or "").upper()]
        if size % 8 or not 8 <= size <= BIGGEST:
            raise argparse.ArgumentTypeError(
                f"{word!r}: a size is a multiple of 8 bytes, from 8 bytes to 4 GiB"
            )
        sizes.append(int(size))
    return sorted(set(sizes))


def _shm_size(text: str) -> int:
    """One size."""
    (size,) = _sizes(text)
    return size


def _positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _compare(options: argparse.Namespace) -> int:
    from podipc.lab import compare, progress, table
    from podipc.lab.inputs import InputError

    if options.list:
        return _list()
    plan = _plan(options)
    if options.json == "-" and options.csv == "-":
        raise Usage("--json - and --csv - cannot both have standard output")
    for path in (options.json, options.csv):
        _check_writable(path)
    _check_report(options.output)
    try:
        with progress.display(not options.no_progress) as update:
            results = compare.compare(plan, update)
    except InputError as error:
        raise Usage(f"--input: {error}") from error
    except compare.WorkerDied as error:
        print(f"podipc: {error}", file=sys.stderr)
        return FAILED
    for path, text in ((options.json, results.to_json), (options.csv, results.to_csv)):
        _write(path, text)
    if "-" not in (options.json, options.csv):
        table.show(results, sys.stdout)
    _report(options, results)
    wrong = [row for row in results.rows if row.wrong]
    for row in wrong:
        print(f"podipc: {row.method}, {row.size} bytes: {row.error}", file=sys.stderr)
    if wrong or all(row.error is not None for row in results.rows):
        return FAILED
    return OK


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


def _plan(options: argparse.Namespace) -> Plan:
    """What the options ask for."""
    from podipc.lab import compare, methods

    known = methods.every()
    if options.methods is not None:
        chosen: list[Method] = [known[name] for name in options.methods]
    else:
        chosen = [m for m in methods.ours().values() if not m.extra]
    if options.peers:
        chosen += [m for m in methods.peers().values() if m not in chosen and not m.extra]
    if options.floor:
        chosen += [m for m in methods.floor().values() if m not in chosen]
    if options.input is not None and options.sizes is not None:
        raise Usage("--sizes is for synthetic tensors; with --input the file says what is sent")
    quick = options.quick
    return compare.Plan(
        methods=chosen,
        sizes=options.sizes or (compare.QUICK_SIZES if quick else compare.SIZES),
        input=options.input,
        repeat=options.repeat or (3 if quick else 5),
        rounds=options.rounds or 2000,
        seconds=0.015 if quick else 0.1,
        limit=13.0 if quick else 240.0,
        runtime=options.runtime or "local",
        shm_bytes=options.shm_size,
        corrupt=options.corrupt,
    )


def _check_writable(path: str | None) -> None:
    """Find out before an hour of measuring that the results cannot be saved."""
    if path is not None and path != "-":
        try:
            with open(path, "a"):
                pass
        except OSError as error:
            raise Usage(f"cannot write {path}: {error.strerror}") from error


def _write(path: str | None, text: Callable[[], str]) -> None:
    if path == "-":
        sys.stdout.write(text())
    elif path is not None:
        Path(path).write_text(text())


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
