"""The magics ``%pod``, ``%%container`` and ``%%containers``."""

from __future__ import annotations

import argparse
import difflib
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from podipc import PodipcError
from podipc.lab.notebook import cell as cells
from podipc.lab.notebook.background import Background
from podipc.lab.notebook.show import Raised, Status, show
from podipc.pod import RUNTIMES, up
from podipc.pod.runtime import OVER, Container, Pod

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class _Parser(argparse.ArgumentParser):
    """Says what is wrong instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}\n{self.format_usage().rstrip()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError(message or "")

    def words(self, line: str) -> argparse.Namespace:
        """Parse a line as a shell splits it."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            self.error(str(error))
        if "-h" in words or "--help" in words:
            raise UsageError(self.format_help().rstrip())
        return self.parse_args(words)


def _pod_parser() -> _Parser:
    parser = _Parser(prog="%pod", add_help=False, description=PodMagics.pod.__doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    begin = actions.add_parser("up", add_help=False)
    begin.add_argument("manifest")
    begin.add_argument("--runtime", choices=RUNTIMES, default="auto")
    begin.add_argument("--run", nargs="*", metavar="CONTAINER")
    begin.add_argument("--grace", type=float)
    for name in ("status", "facts", "down"):
        actions.add_parser(name, add_help=False)
    for name in ("logs", "kill", "restart"):
        actions.add_parser(name, add_help=False).add_argument("container")
    return parser


def _cell_parser(name: str, *, several: bool) -> _Parser:
    parser = _Parser(prog=f"%%{name}", add_help=False)
    if several:
        parser.add_argument("containers", nargs="+", metavar="CONTAINER")
    else:
        parser.add_argument("container", metavar="CONTAINER")
        parser.add_argument("-b", "--background", action="store_true")
    parser.add_argument("-i", "--send", metavar="A,B", default="")
    parser.add_argument("-o", "--get", metavar="A,B", default="")
    parser.add_argument("-t", "--timeout", type=float, metavar="S")
    return parser


@magics_class
class PodMagics(Magics):
    """The magics of one notebook, and its Pod."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._notebook = shell.user_ns
        self.running: Pod | None = None
        self._since = 0.0
        self._fresh: set[str] = set()

    # ---- %pod ----

    @line_magic
    def pod(self, line: str) -> Any:
        """Start, show and end the Pod of this notebook.

        ::

            %pod up MANIFEST [--runtime auto|local|podman|kubernetes] [--run [CONTAINER ...]]
            %pod status              containers, memory, cpu, and what they share
            %pod facts               namespace by namespace, as seen from inside
            %pod logs CONTAINER      what its own program has printed
            %pod kill CONTAINER      SIGKILL
            %pod restart CONTAINER
            %pod down

        ``up`` makes the containers of the manifest, with their volumes, users and limits,
        and leaves them to the cells: their own programs are not started, but those of the
        containers after ``--run`` (of all, if none is named). The Pod is the variable
        ``pod`` afterwards. It ends with ``%pod down``, and with the kernel.
        """
        options = _pod_parser().words(line)
        try:
            return getattr(self, f"_{options.action}")(options)
        except (PodipcError, ValueError) as error:
            raise Raised(str(error)) from None

    def _up(self, options: argparse.Namespace) -> None:
        if self.running is not None and self.running.phase not in OVER:
            raise UsageError(
                f"Pod {self.running.name!r} is up already ({self.running.runtime}); "
                "%pod down ends it"
            )
        self.end()
        began = time.monotonic()
        every = options.run == []
        pod = up(
            options.manifest,
            options.runtime,
            grace=options.grace,
            idle=not every,
            running=options.run or (),
        )
        try:
            pod.ready()
        except BaseException:
            pod.close()
            raise
        self.running, self._since = pod, time.monotonic()
        self._fresh.clear()
        self._notebook["pod"] = pod
        show(Status(pod, 0.0, took=self._since - began))

    def _status(self, options: argparse.Namespace) -> None:
        pod = self._pod()
        show(Status(pod, time.monotonic() - self._since, stats=True))

    def _facts(self, options: argparse.Namespace) -> Any:
        return self._pod().facts()

    def _logs(self, options: argparse.Namespace) -> None:
        print(self._container(options.container).logs(), end="")

    def _kill(self, options: argparse.Namespace) -> None:
        self._container(options.container).kill()

    def _restart(self, options: argparse.Namespace) -> None:
        self._container(options.container).restart()

    def _down(self, options: argparse.Namespace) -> None:
        pod = self._pod()
        self.end()
        print(f"Pod {pod.name} is down")

    def end(self) -> None:
        """End the Pod, if there is one."""
        pod, self.running = self.running, None
        if pod is not None:
            pod.close()

    # ---- cells ----

    @cell_magic
    def container(self, line: str, cell: str) -> Any:
        """Run the cell in a container, in a session that keeps its variables.

        ::

            %%container CONTAINER [--background] [--send A,B] [--get A,B] [--timeout S]

        Output, value and exceptions are shown as of any cell; interrupting the cell
        interrupts it there. ``--send`` takes variables of the notebook along (arrays, and
        what JSON has), ``--get`` brings variables back. With ``--background`` the cell goes
        on there while others run, and its output is added under it; it returns a handle with
        ``wait()``, ``interrupt()`` and ``done``.
        """
        options = _cell_parser("container", several=False).words(line)
        container = self._container(options.container)
        variables = self._variables(options.send)
        if options.background:
            try:
                return _Quiet(Background(container, cell, variables))
            except PodipcError as error:
                raise cells.failure(container.name, error) from None
        result = cells.run(container, cell, options.timeout, variables)
        self._say_if_fresh(container, result.fresh)
        self._get(container, options.get)
        return None if cell.rstrip().endswith(";") else cells.value(result)

    @cell_magic
    def containers(self, line: str, cell: str) -> Any:
        """Run the cell in several containers at the same time.

        ::

            %%containers CONTAINER CONTAINER ... [--send A,B] [--get A,B] [--timeout S]

        As ``%%container``; every line that is printed has the container's name before it. The
        values are returned by container, and so is what ``--get`` brings back. In the cell,
        ``CONTAINER`` is the name of the container it runs in.
        """
        options = _cell_parser("containers", several=True).words(line)
        chosen = [self._container(name) for name in dict.fromkeys(options.containers)]
        variables = self._variables(options.send)
        results = cells.run_in_all(chosen, cell, options.timeout, variables)
        for container in chosen:
            self._say_if_fresh(container, results[container.name].fresh)
        for name in _split(options.get):
            self._notebook[name] = {c.name: _fetched(c, name) for c in chosen}
        values = {c.name: cells.value(results[c.name]) for c in chosen}
        if cell.rstrip().endswith(";") or all(value is None for value in values.values()):
            return None
        return values

    def _pod(self) -> Pod:
        if self.running is None:
            raise UsageError("no Pod is up in this notebook: %pod up MANIFEST starts one")
        return self.running

    def _container(self, name: str) -> Container:
        pod = self._pod()
        if name in pod.containers:
            return pod.containers[name]
        near = difflib.get_close_matches(name, pod.containers, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"Pod {pod.name!r} has no container {name!r}; it has {', '.join(pod.containers)}{hint}"
        )

    def _variables(self, names: str) -> dict[str, Any]:
        found = {}
        for name in _split(names):
            if name not in self._notebook:
                raise UsageError(f"--send {name}: the notebook has no variable {name!r}")
            found[name] = self._notebook[name]
        return found

    def _get(self, container: Container, names: str) -> None:
        for name in _split(names):
            self._notebook[name] = _fetched(container, name)

    def _say_if_fresh(self, container: Container, fresh: bool) -> None:
        if fresh and container.name in self._fresh:
            print(
                f"(container {container.name} was started again: the variables of earlier "
                "cells are gone)"
            )
        self._fresh.add(container.name)

    def complete(self, shell: Any, event: Any) -> list[str]:
        """Names of containers after ``%%container``, actions after ``%pod``."""
        words = event.line.split()
        names = list(self.running.containers) if self.running is not None else []
        if words[0] == "%pod":
            if len(words) > (1 if event.symbol == "" else 2):
                return names if words[1] in ("logs", "kill", "restart") else []
            return ["up", "status", "facts", "logs", "kill", "restart", "down"]
        return names


class _Quiet:
    """A handle that is shown already, and not shown once more as the value of its cell."""

    def __init__(self, handle: Background) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def __repr__(self) -> str:
        return repr(self._handle)

    def _ipython_display_(self) -> None:
        """Nothing."""


def _split(names: str) -> Sequence[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _fetched(container: Container, name: str) -> Any:
    if not name.isidentifier():
        raise UsageError(f"--get {name}: is not the name of a variable")
    try:
        return container.run(name).unwrap()
    except PodipcError as error:
        raise cells.failure(container.name, error) from None
