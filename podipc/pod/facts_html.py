"""`Facts` as HTML for a notebook: what is shared as a table, each container by itself below."""

from __future__ import annotations

import html as escaping
from collections.abc import Sequence

from podipc.pod.facts import Facts, Shared
from podipc.pod.facts_table import EXPLAINED, each, letters, word

# Neither a colour of text nor a solid background: those of the notebook are right, light or dark.
_TINTS = ("13,125,206", "239,106,15", "2,124,130", "228,29,163", "172,138,114", "128,43,255")
_EDGES = ("solid", "dashed", "dotted", "double")
_CELL = "text-align:left;padding:.25em .8em;border-bottom:1px solid rgba(128,128,128,.35)"


def html(facts: Facts) -> str:
    """A row a namespace; the same letter, colour and edge in it are the same namespace."""
    if not facts.containers:
        return f"<p>Pod {escaping.escape(facts.pod)}: no container runs</p>"
    shared = facts.shared()
    names = list(facts.containers)
    head = "".join(f'<th scope="col" style="{_CELL}">{_text(n)}</th>' for n in ["", "", *names, ""])
    rows = [
        _row(name, EXPLAINED[name], word(all_of_them), _ids(facts, name))
        for name, all_of_them in shared.namespaces.items()
    ]
    shms = [f"{f.shm.device}:{f.shm.root}" if f.shm else "" for f in facts.containers.values()]
    rows.append(_row("/dev/shm", "shared memory", word(shared.shm), shms))
    rows += _volumes(names, shared)
    return (
        f"<b>Pod {_text(facts.pod)}, seen from inside its containers</b>"
        f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
        "<div>In a row, the same letter is the same thing.</div>"
        "<details><summary>each container by itself</summary>"
        f"<pre>{_text(chr(10).join(each(facts)).strip())}</pre></details>"
    )


def _ids(facts: Facts, name: str) -> list[str]:
    return [str(one.namespaces[name] or "") for one in facts.containers.values()]


def _volumes(names: Sequence[str], shared: Shared) -> list[str]:
    """A row a volume that several mount; in its fields where."""
    rows = []
    for places in shared.volumes:
        mounted = dict(places)
        none = f'<td style="{_CELL}">not mounted</td>'
        fields = "".join(
            _field(0, mounted[name], "") if name in mounted else none for name in names
        )
        rows.append(_line("volume", "files", fields, ""))
    return rows


def _row(name: str, explained: str, said: str, ids: Sequence[str]) -> str:
    fields = "".join(
        f'<td style="{_CELL}">?</td>' if letter == "?" else _field(ord(letter) - 65, letter, value)
        for letter, value in zip(letters(ids), ids, strict=True)
    )
    return _line(name, explained, fields, said)


def _line(name: str, explained: str, fields: str, said: str) -> str:
    return (
        f'<tr><th scope="row" style="{_CELL}">{name}</th>'
        f'<td style="{_CELL};opacity:.75">{explained}</td>{fields}'
        f'<td style="{_CELL}">{said}</td></tr>'
    )


def _field(number: int, text: str, title: str) -> str:
    """Tinted, so that the text on it is the notebook's own."""
    tint, edge = _TINTS[number % len(_TINTS)], _EDGES[number % len(_EDGES)]
    style = f"background:rgba({tint},.2);border-left:4px {edge} rgb({tint})"
    hint = f' title="{_text(title)}"' if title else ""
    return f'<td style="{_CELL};{style}"{hint}>{_text(text)}</td>'


def _text(text: str) -> str:
    return escaping.escape(text)
