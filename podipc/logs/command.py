"""The command `podipc logd`."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from podipc.console import FAILED, INTERRUPTED, OK, Usage, leads_nowhere, seconds

if TYPE_CHECKING:
    from podipc.logs.agent import Agent
    from podipc.logs.stop import Stop

EPILOG = """\
examples:
  podipc logd                             print what the application posts
  podipc logd --directory /var/log/pod   and keep it on a volume
  podipc logd --json | jq -r .message
  curl -H 'Content-Type: text/plain' -d 'My message' http://localhost:8080/log

In the application, `podipc.logs.Handler` sends what Python's logging logs, and
loses nothing when the agent is restarted.

POST /log takes text/plain (a line is a message; a leading level such as ERROR
counts as one), application/json (an object, or an array of them) and
application/x-ndjson (an object a line):
{"message": ..., "level": ..., "time": ..., "logger": ..., and more}

"Log received" (200) promises that the lines are written: with --directory to
the file, where they survive the end of this agent, however it comes, and with
--fsync that of the machine, too; then to standard output. A batch with
Podipc-Client and Podipc-Sequence that is sent again is not written again: with
--directory the files have each line once even if the agent was killed. Without
it a killed agent does not know what it had printed, and what is sent again may
be printed again.

503 with Retry-After: not now, because the output is not read, the volume is
full, or too much waits. Other answers: 400, 403 (a foreign Host, or a page in a
browser), 404, 405, 408, 411, 413, 415; the text says why. A probe of Kubernetes
for /healthz has to give a Host that is allowed:
httpHeaders: [{name: Host, value: "localhost:8080"}]

On SIGTERM, and on POST /quitquitquit if that is allowed, it takes no more,
writes what it has, and ends.

exit codes:
  0    told to end; everything that was taken is written
  1    it did not work: the reason is on standard error
  2    a wrong option
  130  interrupted (Ctrl-C); everything that was taken is written
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``logd`` to the commands of `podipc`."""
    parser = commands.add_parser(
        "logd",
        help="take log lines from the application in the same Pod (a logging sidecar)",
        description="Take the log lines of the application in the same Pod, by POST to\n"
        "http://localhost:8080/log, and print them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_logd, parser=parser)
    where = parser.add_argument_group("where it listens")
    where.add_argument(
        "--host", default="127.0.0.1", help="an address (default: 127.0.0.1, this Pod only)"
    )
    where.add_argument(
        "--port", type=_port, default=8080, help="default: 8080; 0: a free one, which it says"
    )
    where.add_argument(
        "--allow-host",
        metavar="NAME[:PORT]",
        action="append",
        default=[],
        help="what else a request may call this host (default: localhost, 127.0.0.1, [::1])",
    )
    out = parser.add_argument_group("what it writes")
    out.add_argument("--json", action="store_true", help="lines as objects of JSON")
    out.add_argument("--directory", metavar="DIR", help="keep the lines there as well, in pod.log")
    out.add_argument(
        "--max-bytes",
        metavar="N",
        type=_size,
        help="size of a file; then pod.log becomes pod.log.1 (default: 16M)",
    )
    out.add_argument("--keep", metavar="N", type=_count, help="files besides pod.log (default: 4)")
    out.add_argument("--fsync", action="store_true", help="answer when the lines are on the disk")
    limits = parser.add_argument_group("what it takes")
    limits.add_argument(
        "--max-body", metavar="N", type=_size, default=1 << 20, help="of a request (default: 1M)"
    )
    limits.add_argument(
        "--queue",
        metavar="N",
        type=_size,
        default=4 << 20,
        help="bytes that may wait to be written (default: 4M)",
    )
    limits.add_argument(
        "--quit",
        action="store_true",
        help="let POST /quitquitquit end it: for the last container"
        " of a Pod that is to end with its application",
    )
    limits.add_argument(
        "--grace",
        metavar="S",
        type=seconds,
        default=5.0,
        help="seconds to write what it has when it is told to end (default: 5)",
    )


def _port(text: str) -> int:
    """A port."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _size(text: str) -> int:
    """Bytes, as 65536, 64K or 1M."""
    digits, factor = text, 1
    if text[-1:].upper() in {"K", "M", "G"}:
        digits, factor = text[:-1], 1 << {"K": 10, "M": 20, "G": 30}[text[-1].upper()]
    value = (
        int(digits) * factor if digits.isascii() and digits.isdigit() and len(digits) < 13 else 0
    )
    if value < 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size from 1K, like 64K or 16M")
    return value


def _count(text: str) -> int:
    """A number of files."""
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999")
    return int(text)


def _logd(options: argparse.Namespace) -> int:
    from podipc.logs.stop import Stop

    with Stop() as stop:
        agent = _start(options, stop)
        kept = f", keeping lines in {options.directory}" if options.directory else ""
        _say(f"listening on {agent.url}{kept}")
        number = stop.wait()
        written = agent.close(options.grace)
    if agent.broken:
        _say(agent.broken)
        return FAILED
    if not written:
        _say(
            f"after {options.grace:g} s (--grace) not everything could be written; what was not "
            "is not answered"
        )
        return FAILED
    return INTERRUPTED if number == signal.SIGINT else OK


def _start(options: argparse.Namespace, stop: Stop) -> Agent:
    from podipc.logs import agent, lines
    from podipc.logs.files import Files
    from podipc.logs.sink import Sink

    for name, meant in (("host", "every address"), ("directory", "no files")):
        if getattr(options, name) == "":  # of a variable that is not set, perhaps
            raise Usage(f"--{name} is empty, which would mean {meant}: leave it out, or say which")
    if not options.directory:
        for name in ("max_bytes", "keep", "fsync"):
            if getattr(options, name) not in {None, False}:
                raise Usage(f"--{name.replace('_', '-')} is about files: give --directory as well")
    if leads_nowhere(sys.stdout):
        raise Usage("standard output is closed, and lines are printed there")
    if options.queue < options.max_body:
        raise Usage("--queue is smaller than --max-body, of which it has to hold one at least")
    files = None
    if options.directory:
        files = Files(
            options.directory,
            options.max_bytes or 16 << 20,
            4 if options.keep is None else options.keep,
            sync=options.fsync,
        )
        for note in files.notes:
            _say(note)
    sink = Sink(sys.stdout.fileno(), files, lines.as_json if options.json else lines.as_text)
    how = agent.Options(
        options.host,
        options.port,
        tuple(options.allow_host),
        options.max_body,
        options.queue,
        options.quit,
    )
    try:
        return agent.Agent(how, sink, stop.set)
    except OSError as error:
        sink.close(0)
        raise OSError(
            error.errno, f"cannot listen on {options.host}:{options.port}: {_why(error)}"
        ) from None


def _why(error: OSError) -> str:
    import errno

    text = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        text += ": all containers of a Pod share its ports, choose another with --port"
    return text


def _say(text: str) -> None:
    print(f"podipc logd: {text}", file=sys.stderr, flush=True)
