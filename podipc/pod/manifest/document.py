"""Read a YAML or JSON file, and look into it so that whatever is wrong has an address."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from podipc.pod.errors import ManifestError


@dataclass(frozen=True)
class Node:
    """A value of a document and where it is.

    Attributes
    ----------
    source
        The file, and which document of it if there are several.
    path
        Where in the document: ``spec.containers[0].name``; "" is all of it.
    value
        What PyYAML or json made of it.
    """

    source: str
    path: str
    value: Any

    def wrong(self, expected: str, found: str | None = None) -> NoReturn:
        """Raise `ManifestError`: what was expected here, and what there is."""
        there = _shown(self.value) if found is None else found
        raise ManifestError(
            f"{self.source}: {self.path or 'the document'}: expected {expected}, not {there}",
            self.source,
            self.path,
        )

    def missing(self, name: str, expected: str) -> NoReturn:
        """Raise `ManifestError`: a field is not there."""
        path = f"{self.path}.{name}" if self.path else name
        raise ManifestError(
            f"{self.source}: {path}: is missing; expected {expected}", self.source, path
        )

    def fields(self, known: Collection[str]) -> dict[str, Node]:
        """The fields of an object that are set; all of them have to be `known`."""
        if not isinstance(self.value, dict):
            self.wrong("an object (a mapping of fields)")
        found = {}
        for name, value in self.value.items():
            at = Node(self.source, f"{self.path}.{name}" if self.path else str(name), value)
            if name not in known:
                raise ManifestError(
                    f"{self.source}: {at.path}: there is no such field{hint(name, known)}",
                    self.source,
                    at.path,
                )
            if value is not None:
                found[name] = at
        return found

    def items(self) -> list[Node]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            self.wrong("a list")
        return [Node(self.source, f"{self.path}[{i}]", value) for i, value in enumerate(self.value)]

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            number = isinstance(self.value, int | float)
            self.wrong("a string" + (" (put it in quotation marks)" if number else ""))
        if "\0" in self.value:
            self.wrong("a string without NUL characters")
        if _HALF.search(self.value):
            self.wrong("a string of Unicode characters, without halves of a pair")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(item.text() for item in self.items())

    def map(self) -> dict[str, str]:
        """An object whose values are all strings."""
        if not isinstance(self.value, dict):
            self.wrong("an object (a mapping of strings)")
        result = {}
        for key, value in self.value.items():
            at = Node(self.source, f"{self.path}.{key}", value)
            if not isinstance(key, str):
                at.wrong("a string as its name (put it in quotation marks)", _shown(key))
            result[key] = at.text()
        return result

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.wrong("true or false")
        return self.value

    def whole(self, low: int = 0, high: int = 2**63 - 1) -> int:
        """A whole number within bounds."""
        fits = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not fits or not low <= self.value <= high:
            bounds = f" from {low}" + (f" to {high}" if high < 2**63 - 1 else "")
            self.wrong("a whole number" + bounds)
        return int(self.value)

    def label(self) -> str:
        """A DNS label."""
        if not _LABEL.fullmatch(self.text()):
            self.wrong("at most 63 lower-case letters, digits and '-', not at the ends")
        return self.text()

    def subdomain(self) -> str:
        """DNS labels with dots between them."""
        name = self.text()
        if len(name) > 253 or not all(_LABEL.fullmatch(part) for part in name.split(".")):
            self.wrong("lower-case letters, digits, '-' and '.', at most 253")
        return name

    def one_of(self, *choices: str) -> str:
        """One of a few words."""
        value = self.text()
        if value not in choices:
            found = repr(value) + hint(value, choices)
            self.wrong(" or ".join(repr(choice) for choice in choices), found)
        return value

    def quantity(self) -> Decimal:
        """An amount as Kubernetes writes them: 64Mi, 500m, 0.5, 1e3."""
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        match = _QUANTITY.fullmatch(str(self.value)) if number or self._is_text() else None
        if match is None:
            self.wrong("a quantity such as 64Mi, 1G, 500m or 2")
        return Decimal(match[1]) * _SUFFIXES[match[2] or ""]

    def bytes(self) -> int:
        """A quantity in whole bytes, at least one."""
        amount = self.quantity()
        if amount != int(amount) or not 1 <= amount < 2**63:
            self.wrong("a whole number of bytes, at least 1 (64Mi, 1G; m is a thousandth)")
        return int(amount)

    def _is_text(self) -> bool:
        return isinstance(self.value, str)


_HALF = re.compile("[\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(
    r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)([KMGTPE]i|[numkMGTPE])?", re.ASCII
)
_SUFFIXES = {
    "": Decimal(1),
    **{letter: Decimal(1000) ** power for letter, power in zip("num", (-3, -2, -1), strict=True)},
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def hint(name: object, known: Collection[str]) -> str:
    """A question to append to a message: did you mean ...? "" if nothing is near."""
    by_case = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), list(by_case), 1, 0.7)
    return f"; did you mean {by_case[near[0]]!r}?" if near else ""


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def documents(file: Path) -> Iterator[Node]:
    """The documents of a file that are not empty.

    JSON is read without PyYAML.

    Raises
    ------
    ManifestError
        It cannot be read, or is neither YAML nor JSON, or needs PyYAML.
    """
    source = str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{source}: is not a text file: byte {error.start} is no UTF-8", source
        ) from error
    except OSError as error:
        raise ManifestError(f"{source}: cannot be read: {error.strerror}", source) from error
    except ValueError as error:
        raise ManifestError(f"{source!r}: is not the path of a file: {error}", source) from error
    read = _json if text.lstrip().startswith("{") else _yaml
    try:
        found = [document for document in read(text, source) if document is not None]
    except RecursionError as error:
        raise ManifestError(f"{source}: is nested too deep for a manifest", source) from error
    if not found:
        raise ManifestError(f"{source}: is empty; expected a Pod manifest", source)
    problem = _no_json(found)
    if problem:
        raise ManifestError(f"{source}: {problem}", source)
    for number, document in enumerate(found, 1):
        yield Node(f"{source}, document {number}" if len(found) > 1 else source, "", document)


_MOST = 1_000_000
"""Values of a file, with what an alias of YAML stands for counted each time."""


def _no_json(found: list[Any]) -> str:
    """Why documents cannot be written out as JSON, or "": YAML has more, and aliases."""
    left, todo = _MOST, list(found)
    while todo:
        value = todo.pop()
        left -= 1
        if left < len(todo):
            return f"has more than {_MOST:,} values, or one that contains itself"
        if isinstance(value, dict):
            todo += value.values()
            for key in value:
                if not isinstance(key, str | int | float | None):
                    return f"has a field whose name JSON has not, {_shown(key)}"
        elif isinstance(value, list):
            todo += value
        elif not isinstance(value, str | int | float | None):
            return f"has a value that JSON has not, {_shown(value)}"
    return ""


def _json(text: str, source: str) -> list[Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ManifestError(f"{source}: the field {key!r} is there twice", source)
            found[key] = value
        return found

    try:
        return [json.loads(text, object_pairs_hook=unique)]
    except json.JSONDecodeError as error:
        # What begins with a brace may be YAML in its flow style.
        try:
            return _yaml(text, source)
        except ManifestError as other:
            if other.needs_yaml:
                raise ManifestError(f"{source}: is not JSON: {error}", source) from error
            raise
    except ManifestError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise ManifestError(f"{source}: cannot be read: {error}", source) from error


_TEXTS = re.compile(r"\d{4}-\d\d?-\d\d?|[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?$", re.ASCII)
"""What PyYAML, other than Kubernetes, would take for a date or a number in base 60."""


def _yaml(text: str, source: str) -> list[Any]:
    try:
        import yaml
    except ImportError as error:
        problem = ManifestError(
            f"{source}: to read YAML, PyYAML is needed: pip install 'podipc[pod]' "
            "(a manifest in JSON needs nothing)",
            source,
        )
        problem.needs_yaml = True
        raise problem from error

    class Loader(yaml.SafeLoader):
        """Refuses what is there twice, of which PyYAML would take the last.

        As in Kubernetes, 2020-01-01 and 12:30 are strings.
        """

        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [("tag:yaml.org,2002:str", _TEXTS), *found]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key_node, _ in node.value:
                key = key_node.value
                if isinstance(key, str) and key != "<<" and key in seen:
                    line = key_node.start_mark.line + 1
                    raise ManifestError(
                        f"{source}: line {line}: the field {key!r} is there twice", source
                    )
                if isinstance(key, str):
                    seen.add(key)
            made: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return made

    try:
        return list(yaml.load_all(text, Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ManifestError(f"{source}: {where}is not YAML: {what}", source) from error
    except ManifestError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        # PyYAML passes on what goes wrong where a tag or a number does not fit its text.
        what = f"{type(error).__name__}: {error}"
        raise ManifestError(f"{source}: has a value that cannot be read: {what}", source) from error


def pick(fields: Mapping[str, Node], name: str, read: Callable[[Node], Any], default: Any) -> Any:
    """A field as `read` reads it, or a default if it is not set."""
    return read(fields[name]) if name in fields else default


def words(text: str) -> tuple[str, ...]:
    """The names in a text, for `Node.fields`."""
    return tuple(text.split())


def named(node: Node, fields: Mapping[str, Node], what: str, names: Collection[str]) -> str:
    """The name of a volume or container, which no other may have."""
    if "name" not in fields:
        node.missing("name", f"the name of the {what}")
    name = fields["name"].label()
    if name in names:
        fields["name"].wrong(f"a name that no other {what} of the Pod has")
    return name
