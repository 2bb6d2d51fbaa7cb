"""The command line of Pods: ``podipc pod run|up|exec|logs|down|list|render``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from podipc._core import PodipcError
from podipc.console import FAILED, OK, USAGE, Usage, seconds
from podipc.pod import RUNTIMES, manifest, notes_of
from podipc.pod.children import environment
from podipc.pod.errors import ManifestError, PodError, UnknownPod

if TYPE_CHECKING:
    from podipc.pod.group import Group

EXAMPLES = """\
examples:
  podipc pod run pod.yaml        until it ends; what it prints, and its result
  podipc pod up pod.yaml         in the background
  podipc pod logs pod.yaml -f    a Pod is named by its file or by its name
  podipc pod exec my-pod -c consumer -- ls -l /dev/shm
  podipc pod list --json | jq '.[].phase'
  podipc pod down my-pod

A Pod is a Kubernetes manifest, in YAML (needs PyYAML: pip install
'podipc[pod]') or JSON. The runtime `local` needs no container engine and uses
no images: each container is a program of this machine in namespaces of its own.
`podman` runs real containers. `kubernetes` runs it in the cluster of the
kubeconfig (pip install 'podipc[k8s]'). `auto` is podman if it is here and has
every image of the manifest, else local. What else the manifest asks for and
there is not is said, one line each, on standard error.

Of a Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob the template
is run, as one Pod of that name (NAME-0 for a StatefulSet).

Several Pods in one file are in one network of podman, or in a cluster, each
reached by its name and by that of a Service that selects it. `run` ends when
all but those with restartPolicy Always have ended, and succeeds if these have.

"""

EXIT_CODES = """\
exit codes:
  0    done; `run`: the Pod has succeeded
  1    it did not work, or the Pod has failed: the reason is on standard error
  2    a wrong option, argument or manifest
  130  interrupted (Ctrl-C); 143: told to end. Nothing of a Pod of `run` is left
  `exec`: that of the program, 128 and the signal if one ended it
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pod`` to the commands of `podipc`."""
    parser = commands.add_parser(
        "pod",
        help="run a Kubernetes Pod manifest on this machine",
        description="Run a Kubernetes Pod manifest.",
        epilog=EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    run = _action(actions, "run", _run, "start it, show what it prints, wait for its end")
    up = _action(actions, "up", _up, "start it and leave it in the background")
    for action in (run, up):
        action.add_argument("manifest", metavar="MANIFEST", help="a file of one or more Pods")
        _runtime(action)
        action.add_argument(
            "--grace",
            type=seconds,
            metavar="S",
            help="seconds between SIGTERM and SIGKILL, instead of terminationGracePeriodSeconds",
        )
        action.add_argument("-q", "--quiet", action="store_true", help="say no notes")
        for option, text in (("namespace", "in a cluster"), ("context", "of the kubeconfig")):
            action.add_argument(f"--{option}", metavar="NAME", help=f"{text}: the {option}")
    up.add_argument("--json", action="store_true", help="name, phase and notes as JSON")

    execute = _action(actions, "exec", _exec, "run one more program in a container")
    execute.usage = "%(prog)s [-h] [-c CONTAINER] POD -- COMMAND [ARGUMENT ...]"
    execute.add_argument("pod", metavar="POD", help="its name, or its manifest")
    execute.add_argument("-c", "--container", help="default: the first one")
    execute.add_argument(
        "command", nargs="+", metavar="COMMAND", help="and its arguments, after --"
    )

    logs = _action(actions, "logs", _logs, "what it has printed")
    logs.add_argument("pod", metavar="POD", help="its name, or its manifest")
    logs.add_argument("-c", "--container", help="default: all, with their names before each line")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")

    down = _action(actions, "down", _down, "end it; nothing of it is left")
    down.add_argument("pod", metavar="POD", help="its name, or its manifest")
    down.add_argument("--grace", type=seconds, metavar="S", help="as for up")

    every = _action(actions, "list", _list, "the Pods in the background")
    every.add_argument("--json", action="store_true", help="with all that is known of them")

    render = _action(
        actions, "render", _render, "check a manifest and print its Pods as JSON; starts nothing"
    )
    render.add_argument("manifest", metavar="MANIFEST", help="a file")
    _runtime(render)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_guarded(run), parser=parser)
    return parser


def _runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="auto", help="what runs it (default: auto)"
    )


def _place(options: argparse.Namespace) -> dict[str, Any]:
    """Where in a cluster, as far as that was said."""
    place = {name: getattr(options, name) for name in ("namespace", "context")}
    found = {name: value for name, value in place.items() if value is not None}
    if found and options.runtime != "kubernetes":
        raise Usage(f"--{next(iter(found))} is for --runtime kubernetes")
    return found


def _guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def guarded(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except ManifestError as error:
            _say(str(error))
            return USAGE
        except PodipcError as error:
            _say(str(error))
            return FAILED

    return guarded


def _say(text: str) -> None:
    print(f"podipc: {text}", file=sys.stderr)


def _say_notes(found: Iterable[str]) -> None:
    for note in found:
        _say(f"note: {note}")


def _unused(read: manifest.Manifest, options: argparse.Namespace) -> Iterator[str]:
    """One line for everything in the file that no Pod uses, Services apart."""
    for kind, name in read.others:
        if options.runtime != "kubernetes":
            if kind != "Service":
                yield f"{kind} {name}: not used"
        elif kind not in ("Service", "ConfigMap"):
            yield f"{kind} {name}: not created; kubectl apply does it"


# run


class _Lines:
    """Pieces of output by container, made into whole lines with the container's name before."""

    def __init__(self, names: Mapping[str, object] | list[str]) -> None:
        self._width = max(map(len, names))
        self._partial: dict[str, bytes] = {}

    def write(self, name: str, piece: bytes) -> None:
        *lines, rest = (self._partial.get(name, b"") + piece).split(b"\n")
        self._partial[name] = rest
        for line in lines:
            self._print(name, line)
        sys.stdout.buffer.flush()

    def end(self) -> None:
        for name, rest in self._partial.items():
            if rest:
                self._print(name, rest)
        self._partial.clear()
        sys.stdout.buffer.flush()

    def _print(self, name: str, line: bytes) -> None:
        sys.stdout.buffer.write(f"{name:{self._width}} | ".encode() + line + b"\n")


class _Output:
    """What several containers print, as it comes; each by a thread of its own."""

    def __init__(self, sources: Mapping[str, Callable[[], Iterable[bytes]]]) -> None:
        # Few: where nobody reads what is printed, it is the log that drops the oldest.
        self._pieces: queue.Queue[tuple[str, bytes] | None] = queue.Queue(8)
        self._lines = _Lines(list(sources))
        self._left = len(sources)
        for name, source in sources.items():
            threading.Thread(target=self._follow, args=(name, source), daemon=True).start()

    def show(self) -> None:
        """Print until all of them have ended. To be called again if it was interrupted."""
        while self._left:
            piece = self._pieces.get()
            if piece is None:
                self._left -= 1
            else:
                self._lines.write(*piece)
        self._lines.end()

    def _follow(self, name: str, source: Callable[[], Iterable[bytes]]) -> None:
        try:
            for piece in source():
                self._pieces.put((name, piece))
        except (PodipcError, OSError):
            pass  # the Pod has ended meanwhile
        finally:
            self._pieces.put(None)


class _Ender:
    """Ends all Pods of a file once those that count have ended, or one could not start."""

    def __init__(self, pods: Group) -> None:
        self._pods = pods
        self.phase, self.message = "", ""
        self.error: PodipcError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._pods.ready()
            self._pods.wait()
            self.phase, self.message = self._pods.phase, self._pods.message
        except PodipcError as error:
            self.error = error
        with contextlib.suppress(PodipcError):  # who closes them last raises it
            self._pods.close()


def _run(options: argparse.Namespace) -> int:
    from podipc.pod.group import Group

    place = _place(options)
    read = manifest.read(options.manifest)
    pods = Group(read, options.runtime, grace=options.grace, **place)
    output = _Output(
        {
            f"{pod.name}/{name}" if len(pods) > 1 else name: container.follow
            for pod in pods.values()
            for name, container in pod.containers.items()
        }
    )
    ender: _Ender | None = None
    try:
        if not options.quiet:
            _say_notes([*_unused(read, options), *pods.notes])
        ender = _Ender(pods) if len(pods) > 1 else None
        output.show()
        if ender is None:
            pods.ready()
    finally:
        pods.close()
        output.show()
        if ender is not None:
            ender.join()
    if ender is not None and ender.error is not None:
        raise ender.error
    how: _Ender | Group = ender or pods
    if how.phase == "Succeeded":
        return OK
    _say(how.message)
    return FAILED


# Pods in the background


def _up(options: argparse.Namespace) -> int:
    read = manifest.read(options.manifest)
    names = ", ".join(pod.name for pod in read.pods)
    command = [sys.executable, "-m", "podipc.pod.background.keeper"]
    command += ["--runtime", options.runtime, os.path.abspath(options.manifest)]
    for name, value in _place(options).items():
        command += [f"--{name}", value]
    if options.grace is not None:
        command += ["--grace", str(options.grace)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment(),
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        try:
            line = keeper.stdout.readline()
            complaint = keeper.stderr.read().decode(errors="replace")
        except BaseException:
            keeper.terminate()
            raise
        if not line:
            keeper.wait()
            raise PodError(f"the keeper of Pod {names} died at its start: {complaint}")
        answer = json.loads(line)
        if "error" in answer:
            keeper.wait()
            _say(answer["error"])
            return USAGE if answer["kind"] == "ManifestError" else FAILED
        # It goes on without us.
        keeper.returncode = 0
    if options.json:
        print(json.dumps(answer))
    else:
        if not options.quiet:
            _say_notes([*_unused(read, options), *answer["notes"]])
        for pod in read.pods:
            print(f"Pod {pod.name} is up")
    return OK


def _names(word: str) -> list[str]:
    """The names of the Pods that are given by one, or by their manifest."""
    return [pod.name for pod in manifest.read(word).pods] if os.path.isfile(word) else [word]


def _name(word: str) -> str:
    """As `_names`, for one Pod."""
    return manifest.read(word).pod().name if os.path.isfile(word) else word


def _status(name: str) -> dict[str, Any]:
    from podipc.pod.background import state

    with state.Call(name, {"do": "status"}) as call:
        return call.answer


def _exec(options: argparse.Namespace) -> int:
    from podipc.pod.background import state

    name = _name(options.pod)
    container = options.container or _first(name)
    request = {"do": "exec", "container": container, "command": options.command}
    try:
        call = state.Call(name, request, [0, 1, 2])
    except PodError as error:
        word, *rest = options.command
        if options.container or not any(c["name"] == word for c in _status(name)["containers"]):
            raise
        meant = shlex.join(["-c", word, "--", *(rest or ["COMMAND"])])
        raise PodError(
            f"{error}; {word!r} is a container: podipc pod exec {options.pod} {meant}"
        ) from None
    with call:
        code = int(call.read()["code"])
    return code if code >= 0 else 128 - code


def _first(name: str) -> str:
    """The first container that is no init container."""
    containers = _status(name)["containers"]
    return str(next(c["name"] for c in containers if not c["init"]))


def _logs(options: argparse.Namespace) -> int:
    pods = _names(options.pod)
    if options.container and len(pods) == 1:
        for piece in _said(pods[0], options.container, options.follow):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return OK
    sources = {
        f"{pod}/{container['name']}" if len(pods) > 1 else container["name"]: functools.partial(
            _said, pod, container["name"], options.follow
        )
        for pod in pods
        for container in _status(pod)["containers"]
        if options.container in (None, container["name"])
    }
    if not sources:
        raise UnknownPod(f"no Pod of {options.pod} has a container {options.container!r}")
    if options.follow:
        _Output(sources).show()
        return OK
    lines = _Lines(list(sources))
    for name, said in sources.items():
        for piece in said():
            lines.write(name, piece)
    lines.end()
    return OK


def _said(pod: str, container: str, follow: bool) -> Iterator[bytes]:
    from podipc.pod.background import state

    with state.Call(pod, {"do": "logs", "container": container, "follow": follow}) as call:
        yield from call.pieces()


def _down(options: argparse.Namespace) -> int:
    from podipc.pod.background import state

    code = OK
    for name in _names(options.pod):
        try:
            with state.Call(name, {"do": "down", "grace": options.grace}):
                pass
        except PodipcError as error:  # the others of the file are to end all the same
            _say(str(error))
            code = FAILED
        else:
            print(f"Pod {name} is down", flush=True)
    return code


def _list(options: argparse.Namespace) -> int:
    from podipc.pod.background import state

    found = []
    for name in state.names():
        try:
            found.append(_status(name))
        except UnknownPod:
            pass  # it has ended meanwhile
        except PodError as error:
            _say(str(error))
    if options.json:
        print(json.dumps(found, indent=2))
        return OK
    if found:
        print(f"{'POD':20} {'PHASE':10} {'CONTAINER':20} {'STATE':11} {'RESTARTS':>8} {'EXIT':>5}")
    for pod in found:
        for container in pod["containers"]:
            code = "" if container["exit_code"] is None else container["exit_code"]
            print(
                f"{pod['name']:20} {pod['phase']:10} {container['name']:20} "
                f"{container['state']:11} {container['restarts']:8} {code:>5}"
            )
    return OK


def _render(options: argparse.Namespace) -> int:
    read = manifest.read(options.manifest)
    for pod in read.pods:
        _say_notes(notes_of(pod, options.runtime))
    _say_notes(_unused(read, options))
    documents = [pod.document for pod in read.pods]
    print(json.dumps(documents if len(documents) > 1 else documents[0], indent=2, default=str))
    return OK
