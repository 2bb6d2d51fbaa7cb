"""What a manifest is read into: frozen dataclasses with the paths of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from podipc.pod.errors import ManifestError

__all__ = [
    "ConfigMap",
    "Container",
    "Key",
    "Keys",
    "Manifest",
    "Mount",
    "Pod",
    "Probe",
    "Resource",
    "Security",
    "Service",
    "Variable",
    "Volume",
]


@dataclass(frozen=True)
class Key:
    """A value of a ConfigMap."""

    config_map: str
    key: str
    optional: bool = False


@dataclass(frozen=True)
class Resource:
    """A limit or request of a container (of one's own: ""), in units of `divisor`."""

    container: str
    name: str
    divisor: Decimal = Decimal(1)


@dataclass(frozen=True)
class Variable:
    """A variable of a container's environment: a value, or where it comes from.

    `field` is what a fieldRef refers to, or the kind of any other reference.
    """

    path: str
    name: str
    value: str | None
    field: str | None = None
    key: Key | None = None
    resource: Resource | None = None


@dataclass(frozen=True)
class Keys:
    """All of a ConfigMap as variables; `config_map` is "" if it is no ConfigMap."""

    path: str
    config_map: str
    prefix: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Probe:
    """How to find out whether a container has started; all times in seconds.

    `kind` is exec (of `command`), httpGet, tcpSocket or grpc.
    """

    path: str
    kind: str
    command: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    url: str = "/"
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()
    delay: int = 0
    period: int = 10
    timeout: int = 1
    failures: int = 3
    grace: int | None = None


@dataclass(frozen=True)
class Mount:
    """Where a container wants a volume."""

    path: str
    volume: str
    target: str
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True)
class Security:
    """Whom a container runs as; None where the manifest says nothing."""

    user: int | None = None
    group: int | None = None
    non_root: bool | None = None


@dataclass(frozen=True)
class Container:
    """One container. `memory` is in bytes, `cpu` in processors; both are limits.

    `sidecar` is an init container with ``restartPolicy: Always``. `amounts` are all
    limits and requests, by ``limits.cpu`` and the like.
    """

    path: str
    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    env_from: tuple[Keys, ...] = ()
    directory: str | None = None
    mounts: tuple[Mount, ...] = ()
    security: Security = Security()
    memory: int | None = None
    cpu: float | None = None
    amounts: Mapping[str, Decimal] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    sidecar: bool = False
    startup: Probe | None = None


@dataclass(frozen=True)
class Volume:
    """A volume. `kind` is the name of its field: emptyDir, hostPath, configMap, ...

    `items` are key, path and mode of what is in it of a ConfigMap; None: all of it.
    """

    path: str
    name: str
    kind: str
    memory: bool = False
    size: int | None = None
    host_path: str = ""
    host_type: str = ""
    config_map: str = ""
    items: tuple[tuple[str, str, int | None], ...] | None = None
    mode: int = 0o644
    optional: bool = False


@dataclass(frozen=True)
class ConfigMap:
    """Values by key: texts, and what is no text."""

    source: str
    name: str
    data: Mapping[str, str]
    binary: Mapping[str, bytes]


@dataclass(frozen=True)
class Pod:
    """One Pod. `others` are the paths of known fields that are in none of these classes.

    `config_maps` are those of the same file, by name. `beside` are its Services and
    ConfigMaps as they stand there: a Service is with the first Pod that it selects, all
    else with the first Pod.

    `document` is the Pod alone. If it is of a template, `owner` is kind and name of what
    has it, `template` where it is there (``spec.template``), `unused` the paths of what
    says nothing of a single Pod.
    """

    source: str
    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    containers: tuple[Container, ...]
    init: tuple[Container, ...]
    volumes: tuple[Volume, ...]
    restart: str
    grace: int
    security: Security
    fs_group: int | None
    groups: tuple[int, ...]
    others: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict, repr=False)
    beside: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    owner: str = ""
    template: str = ""
    unused: tuple[str, ...] = ()

    def at(self, path: str) -> str:
        """Where in the file a field of the Pod is, as ``spec.volumes``: perhaps in a template."""
        if not self.template or path in ("metadata.name", "metadata.namespace"):
            return path
        return f"{self.template}.{path}"

    def within(self, path: str) -> str:
        """The field of the Pod that is at a path of the file; reverses `at`."""
        return path.removeprefix(f"{self.template}.") if self.template else path

    def everyone(self) -> tuple[Container, ...]:
        """Init containers and containers, in the order of the manifest."""
        return self.init + self.containers


@dataclass(frozen=True)
class Service:
    """A name under which the Pods with certain labels are reached from other Pods."""

    source: str
    name: str
    selector: Mapping[str, str]
    document: Mapping[str, Any] = field(repr=False)

    def selects(self, pod: Pod) -> bool:
        """Whether the Pod is one of those."""
        return bool(self.selector) and self.selector.items() <= pod.labels.items()


@dataclass(frozen=True)
class Manifest:
    """A file: its Pods and Services; kind and name of all that is no Pod and that none uses.

    `unread` are kind and name of what `read` was let pass over.
    """

    source: str
    pods: tuple[Pod, ...]
    services: tuple[Service, ...]
    others: tuple[tuple[str, str], ...]
    unread: tuple[tuple[str, str], ...] = ()

    def pod(self) -> Pod:
        """The Pod, if there is one only.

        Raises
        ------
        ManifestError
            There are several.
        """
        if len(self.pods) > 1:
            names = ", ".join(pod.name for pod in self.pods)
            raise ManifestError(
                f"{self.source}: expected one Pod, not {len(self.pods)} ({names})", self.source
            )
        return self.pods[0]
