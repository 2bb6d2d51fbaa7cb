"""What ``%pod`` shows: as a table of HTML, and as text where there is no HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from podipc import PodipcError
from podipc.console import size
from podipc.pod.errors import PodError
from podipc.pod.facts import Stats
from podipc.pod.runtime import Pod


class Raised(PodError):
    """An error of a magic, shown without the lines of Python that lead to it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints of it."""
        return str(self).splitlines()


@dataclass(frozen=True)
class Status:
    """The containers of a Pod at one moment.

    Attributes
    ----------
    uptime
        Seconds.
    took
        Seconds that it took to start; None: that is not of interest.
    stats
        Whether to ask each container for its memory and cpu time.
    """

    pod: Pod
    uptime: float
    took: float | None = None
    stats: bool = False

    def _head(self) -> str:
        pod = self.pod
        if self.took is not None:
            return f"Pod {pod.name} is up, runtime {pod.runtime}, after {self.took * 1000:.0f} ms"
        return f"Pod {pod.name}, runtime {pod.runtime}, {pod.phase}, for {self.uptime:.0f} s"

    def _columns(self) -> Sequence[str]:
        columns = ["container", "state", "restarts"]
        return [*columns, "memory", "limit", "cpu time", "processes"] if self.stats else columns

    def _rows(self) -> list[list[str]]:
        rows = []
        for container in self.pod.containers.values():
            state = container.state
            if container.returncode is not None and state != "running":
                state += f" ({container.reason or 'ended'}, exit code {container.returncode})"
            row = [container.name, state, str(container.restarts)]
            if self.stats:
                row += _usage(_asked(self.pod, container.name))
            rows.append(row)
        return rows

    def __repr__(self) -> str:
        rows = [list(self._columns()), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
        shared = self._shared() if self.stats else []
        return "\n".join([self._head(), *(line.rstrip() for line in lines), *shared])

    def _repr_html_(self) -> str:
        rows = _row("th", self._columns()) + "".join(_row("td", row) for row in self._rows())
        text = f"<b>{html.escape(self._head())}</b><table>{rows}</table>"
        for line in self._shared() if self.stats else []:
            text += f"<div>{html.escape(line)}</div>"
        if self.pod.notes and not self.stats:
            notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.pod.notes)
            text += (
                "<details><summary>what the manifest asks for and this runtime does not have"
                f"</summary><ul>{notes}</ul></details>"
            )
        return text

    def _shared(self) -> list[str]:
        try:
            shared = self.pod.facts().shared()
        except PodipcError as error:
            return [f"what is shared cannot be seen: {error}"]
        lines = []
        for word, wanted in (("shared", True), ("private", False)):
            names = [name for name, common in shared.namespaces.items() if common is wanted]
            if word == "shared" and shared.shm:
                names.append("/dev/shm")
            lines.append(f"{word}: {', '.join(names) or 'nothing'}")
        for places in shared.volumes:
            lines.append("volume: " + " = ".join(f"{name}:{path}" for name, path in places))
        return lines


def _row(tag: str, cells: Sequence[str]) -> str:
    inner = "".join(f'<{tag} style="text-align:left">{html.escape(c)}</{tag}>' for c in cells)
    return f"<tr>{inner}</tr>"


def show(thing: object) -> Any:
    """Display something that can be displayed anew, with the ``update`` of what is returned."""
    from IPython.display import DisplayHandle

    handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
    handle.display(thing)
    return handle


def _asked(pod: Pod, name: str) -> Stats | None:
    try:
        return pod[name].stats()
    except PodipcError:
        return None


def _usage(stats: Stats | None) -> list[str]:
    if stats is None:
        return ["", "", "", ""]
    limit = "none" if stats.memory_limit is None else size(stats.memory_limit)
    cpu = "?" if stats.cpu is None else f"{stats.cpu:.2f} s"
    return [size(stats.memory), limit, cpu, str(stats.processes)]
