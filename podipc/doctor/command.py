"""The command `podipc doctor`."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from podipc._core import PodipcError
from podipc.console import Usage
from podipc.doctor.finding import FAIL, OK, WARN, Finding, worst

if TYPE_CHECKING:
    from podipc.address import Address

EXAMPLES = """\
examples:
  podipc doctor                          in a container, or on a host
  podipc doctor file:///shared/frames    also that volume, and who is there
  podipc doctor --meet 60                in both containers at the same time
  podipc doctor --manifest pod.yaml      before it is applied; runs nothing
  kubectl exec POD -c CONTAINER -- podipc doctor --json | jq .worst

--meet finds the doctor of the other container over 127.0.0.1 and through shared
memory, and says what the two share. It ends when all who have come know each
other. With an address shm:///DIR they meet beside DIR instead of where bare
names are.

--manifest looks at every Pod of a file, and at the Pod templates of
Deployments, Jobs and the like. What it does not look at, such as a Secret or an
Ingress, is named in a line that begins with "ok" and "not read".

A line that is not ok is followed by the change that mends it: a field of the
Pod's manifest and its value.

"""
EXIT_CODES = """\
exit codes:
  0    all is ok
  1    there are warnings: it works, with less than one might expect
  2    something does not work; also a wrong option or input file, and then
       nothing is on standard output
  130  interrupted (Ctrl-C); 143: told to end. Nothing is left running
"""
CODES = {OK: 0, WARN: 1, FAIL: 2}
MEET_SECONDS = 30.0


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to the commands of `podipc`."""
    parser = commands.add_parser(
        "doctor",
        help="check a container, a host or a manifest, and say what to change",
        description="Check whether podipc works here, and between here and another container;\n"
        "or what a manifest will be like.",
        epilog=EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_doctor, parser=parser)
    parser.add_argument("address", metavar="ADDRESS", nargs="?", help="look at this one as well")
    parser.add_argument(
        "--meet",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=MEET_SECONDS,
        help=f"wait for the doctor of another container (default: {MEET_SECONDS:g} s)",
    )
    parser.add_argument("--manifest", metavar="FILE", help="check this file, and not this machine")
    parser.add_argument("--json", action="store_true", help="findings and facts as JSON")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _doctor(options: argparse.Namespace) -> int:
    """The exit code; 2 also where nothing could be found out: 1 means that it works."""
    try:
        code = _examine(options)
        sys.stdout.flush()
        return code
    except (Usage, BrokenPipeError):
        raise
    except (OSError, PodipcError) as error:
        print(f"podipc doctor: {error}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    return CODES[FAIL]


def _examine(options: argparse.Namespace) -> int:
    if options.manifest is not None:
        if options.address is not None or options.meet is not None:
            raise Usage("--manifest checks a file: no address and no --meet go with it")
        return _report(options, _of_manifest(options.manifest), {})
    address = _parse(options.address)
    if options.meet is not None and address is not None and address.method != "shm":
        raise Usage(f"doctors meet over shm, not over {address.method}: give shm:///DIR, or none")
    more: dict[str, Any] = {}
    return _report(options, _of_this(options, address, more), more)


def _parse(text: str | None) -> Address | None:
    from podipc._core import AddressError
    from podipc.address import parse

    if text is None:
        return None
    try:
        return parse(text)
    except AddressError as error:
        raise Usage(str(error)) from None


def _of_this(
    options: argparse.Namespace, address: Address | None, more: dict[str, Any]
) -> Iterator[Finding]:
    """Findings as they come; `more` gets what only JSON shows."""
    from podipc.doctor import checks, facts, meet, places

    more["facts"] = facts.collect()
    yield from checks.run()
    if address is not None:
        yield from checks.run((lambda: places.at_address(address),))
    if options.meet is not None:
        directory = address.path if address is not None and not address.named else None
        met = meet.meet(options.meet, directory)
        more["peers"] = [peer.facts for peer in met.peers]
        yield from meet.findings(met, options.meet)


def _of_manifest(file: str) -> list[Finding]:
    from podipc.doctor import manifests
    from podipc.pod.errors import ManifestError

    try:
        return manifests.check(file)
    except ManifestError as error:
        raise Usage(str(error)) from None


def _report(
    options: argparse.Namespace, findings: Iterator[Finding] | list[Finding], more: dict[str, Any]
) -> int:
    from podipc.doctor import show

    kept: list[Finding] = []

    def keep() -> Iterator[Finding]:
        for finding in findings:
            kept.append(finding)
            yield finding

    if options.json:
        for _ in keep():
            pass
        found = {"worst": worst(kept), "findings": [f.as_dict() for f in kept], **more}
        print(json.dumps(found, indent=2))
    else:
        show.show(keep())
    return CODES[worst(kept)]
