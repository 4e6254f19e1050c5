"""Every key of host data: its type, default, meaning and check.

Host data is what an operator writes in ``inventories/``. The keys that belong to this project start with
``gevulot_``; everything else (``ssh_user``, ``_sudo`` and so on) belongs to pyinfra. ``HostSettings`` are those that
the boards and the boot of any host need, ``Settings`` adds those of a node. Either reads its keys once, checks all of
them, and refuses what it does not know, before any host is touched.
``python -m deploys.settings`` prints the tables of docs/settings.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deploys.inputs import host_keys
from deploys.inputs.addresses import Endpoint
from deploys.inputs.secret_sources import from_environment
from deploys.inputs.spelling import suggest
from deploys.inputs.values import (
    Boards,
    Contacts,
    Count,
    DatabaseUrl,
    Guards,
    Image,
    Line,
    Link,
    Listen,
    LoopbackListen,
    Networks,
    OwnDirectory,
    Passphrase,
    Path,
    Port,
    PublicKeys,
    Reachable,
    SeccompProfile,
    Secret,
    is_pinned,
    release_of_image,
    tag_of,
)

PREFIX = "gevulot_"

_Kind = TypeVar("_Kind", bound="HostSettings")


class SettingsError(ValueError):
    """Host data that cannot be used. The text has one line for each wrong key of each host."""


class HostSettings(BaseModel):
    """The checked settings of a host that hands boards over, whatever takes them. Frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    # --- boards
    boards: Boards = Field(
        "supported",
        description="Which boards are handed over: `'supported'` takes every supported NVIDIA board (RTX 3090, 4090); "
        "or a list of addresses, paths or models ([how](operate.md#the-inventory)); `[]` for none.",
    )
    board_guards_allowed: Guards = Field(
        (),
        description="Guards to override for the chosen boards, by name (`boot-display`, `framebuffer`, …: "
        "[pcibind's table](../helpers/pcibind/README.md#guards)).",
    )
    vfio_ids: bool = Field(
        False,
        description="Also write `options vfio-pci ids=` for the chosen models. Takes **every** card of the model, "
        "also one that is added later; only for hosts that pass all of them.",
    )
    # --- reboots
    reboot: Literal["when-needed", "never"] = Field(
        "when-needed",
        description="`'never'` changes no running state while a reboot is pending, and reports it.",
    )
    reboot_timeout: Annotated[int, Field(ge=60, le=7200)] = Field(
        900, description="Seconds a host may take to come back from its reboot."
    )
    reboot_batch: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="Hosts that may reboot at once, after a first one alone. One that fails stops all later ones."
    )

    @model_validator(mode="after")
    def _agree(self) -> HostSettings:
        problems = list(self._disagreements())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _disagreements(self) -> Iterator[str]:
        """Which settings do not fit one another, one sentence for each."""
        if self.vfio_ids and not self.boards:
            yield "gevulot_vfio_ids is set, but gevulot_boards chooses no board"


class Settings(HostSettings):
    """The checked settings of a node: those of its host, and its own. Secrets print as stars."""

    # --- what the node does with its host
    gpu_functions: Literal["display", "all"] = Field(
        "display", description="What GEVULOT_GPU_DEVICES lists: the boards' display functions, or all functions."
    )
    enforce_minimum: bool = Field(
        False, description="Refuse a host below the guide's minimum (64 cores, 512 GB, 1 TB) instead of warning."
    )
    storage_directory: OwnDirectory = Field(
        "/var/lib/gevulot",
        description="Directory of programs, outputs, the database and the key. The units require its mount.",
    )
    # --- images
    node_image: Image = Field("quay.io/gevulot/node:latest", description="The node's container image.")
    auto_update: bool = Field(
        False, description="`AutoUpdate=registry` for the node, with podman-auto-update.timer enabled."
    )
    start_timeout: Annotated[int, Field(ge=60, le=86400)] = Field(
        1800, description="Seconds a unit may take to start, a first pull of its image included."
    )
    seccomp_profile: SeccompProfile = Field(
        "",
        description="Path on the node of a seccomp profile for the node's container. Unset: Podman's own, with its "
        "refusal of AF_VSOCK lifted where it has one.",
    )
    # --- database
    postgres_url: DatabaseUrl | None = Field(
        None,
        description="`postgres://user:password@host:port/name` of an external server; the URL is in "
        "the node's environment. Unset: the node's own server.",
    )
    postgres_image: Image = Field(
        "docker.io/library/postgres:16-alpine", description="Image of the node's own Postgres."
    )
    postgres_release: Literal[15, 16] = Field(
        16, description="Major version of Postgres, 15 or 16, in that image and of existing data."
    )
    postgres_password: Secret | None = Field(
        None,
        description="Password of the node's own Postgres. Unset: generated on the node, once, and never leaves it.",
    )
    postgres_port: Port = Field(5432, description="Loopback port of the node's own Postgres.")
    # --- the node's environment
    psk_passphrase: Passphrase = Field(
        # A function in place of the secret, like any that an operator writes there.
        default=from_environment("GEVULOT_PSK_PASSPHRASE"),
        validate_default=True,
        description="The network's coordinated pre-shared key (GEVULOT_PSK_PASSPHRASE). Unset: read from the "
        "environment variable of that name, where you run pyinfra. At least 8 characters, and not one that is public "
        "or easily guessed.",
    )
    rust_log: Line = Field("warn,gevulot=debug,sqlx=error", description="RUST_LOG: what the node logs")
    p2p_listen: Listen = Field(
        Endpoint.parse("127.0.0.1:9999"),
        description="GEVULOT_P2P_LISTEN_ADDR, as IP:PORT; anything but loopback, such as `'0.0.0.0:9999'`, needs "
        "`gevulot_peers`",
    )
    p2p_advertised: Reachable | None = Field(
        None, description="GEVULOT_P2P_ADVERTISED_LISTEN_ADDR; needs a listen address outside of loopback"
    )
    peers: Networks = Field(
        (),
        description="Networks that may reach the ports of `gevulot_p2p_listen` and `gevulot_http_port`, such as "
        "`('203.0.113.0/24', '2001:db8::/32')`; `('any',)` for everybody: see [security](explanation/security.md).",
    )
    p2p_discovery: Contacts = Field(
        (), description="GEVULOT_P2P_DISCOVERY_ADDR: peers to contact first, such as `('192.0.2.1:9999',)`"
    )
    json_rpc_listen: Listen = Field(
        Endpoint.parse("127.0.0.1:9944"),
        description="GEVULOT_JSON_RPC_LISTEN_ADDR; anything but loopback exposes port 9944.",
    )
    healthcheck_listen: LoopbackListen = Field(
        Endpoint.parse("127.0.0.1:8888"), description="GEVULOT_HEALTHCHECK_LISTEN_ADDR; loopback only"
    )
    metrics_listen: Listen | None = Field(None, description="GEVULOT_METRICS_LISTEN_ADDR; unset: no metrics")
    http_port: Port = Field(9995, description="GEVULOT_HTTP_PORT, on the P2P address")
    vsock_listen_port: Port = Field(8080, description="GEVULOT_VSOCK_LISTEN_PORT (AF_VSOCK)")
    acl_whitelist: PublicKeys = Field(
        (),
        description="Public keys (130 hexadecimal digits) whose transactions the node accepts, beside its own key. "
        "A key that a deploy added is denied when you remove it.",
    )
    acl_whitelist_url: Link | None = Field(
        None,
        description="GEVULOT_ACL_WHITELIST_URL: the node takes its whole list from there; it must contain the node's "
        "own key. After you unset it, these keys stay on the list.",
    )
    cpus: Count | None = Field(None, description="GEVULOT_CPUS; unset: the node decides")
    mem_gb: Count | None = Field(None, description="GEVULOT_MEM_GB; unset: the node decides")
    provider: Line | None = Field(None, description="GEVULOT_PROVIDER; unset: qemu")
    qemu_path: Path | None = Field(None, description="GEVULOT_QEMU_PATH; unset: the image's own")
    no_execution: bool = Field(
        False, description="GEVULOT_NODE_NO_EXECUTION: the node runs no programs, and has no health check."
    )
    # --- verification
    verify_virtual_machine: bool = Field(
        True,
        description="Start a small virtual machine from the node's image, without boards, at the end of a deploy. "
        "A node with `gevulot_no_execution` starts none.",
    )
    probe_ports: dict[Port, Port] = Field(
        {},
        description="For a node behind a port forward: the node's port → the port to try at the SSH address "
        "when looking from outside.",
    )

    def _disagreements(self) -> Iterator[str]:
        if self.acl_whitelist and self.acl_whitelist_url is not None:
            yield (
                "gevulot_acl_whitelist and gevulot_acl_whitelist_url are both set, and the node removes every key that "
                "is not in the list at the URL: set one of them"
            )
        if self.postgres_url is not None and self.postgres_password is not None:
            yield (
                "gevulot_postgres_password is for the node's own Postgres, and gevulot_postgres_url names another: set "
                "one of them"
            )
        if self.auto_update and is_pinned(self.node_image):
            yield (
                f"gevulot_auto_update is True, but gevulot_node_image is {self.node_image!r}, which its digest pins, "
                "so that no update would ever come; expected a tag alone: remove the digest, or gevulot_auto_update"
            )
        if self.own_postgres:
            yield from self._release_disagreement()
        ports: dict[int, str] = {}
        for key, listen in self.endpoints().items():
            other = ports.setdefault(listen.port, key)
            if other != key:
                yield f"gevulot_{key} and gevulot_{other} are both port {listen.port}; expected two ports"
        yield from super()._disagreements()
        problem = self._peers_problem()
        if problem is not None:
            yield problem

    def _release_disagreement(self) -> Iterator[str]:
        """Where the tag of the database's image says that it is another release, or that it may become one."""
        release = release_of_image(self.postgres_image)
        moves = tag_of(self.postgres_image) == "latest" and not is_pinned(self.postgres_image)
        if moves or release not in (None, self.postgres_release):
            yield (
                f"gevulot_postgres_image is {self.postgres_image!r}, but gevulot_postgres_release is "
                f"{self.postgres_release}; expected a tag of that release, such as '{self.postgres_release}-alpine': "
                "change the image, or the release for a node whose data are of another"
            )

    def _peers_problem(self) -> str | None:
        """Why the networks of peers do not fit the listen address, in one sentence."""
        ports = " and ".join(map(str, self.p2p_ports))
        if self.p2p_listen.address.is_loopback:
            listen = f"gevulot_p2p_listen is the loopback address '{self.p2p_listen}', which no peer can reach"
            way_out = "set gevulot_p2p_listen, for example to '0.0.0.0:9999'"
            if self.p2p_advertised is not None:
                return (
                    f"gevulot_p2p_advertised is '{self.p2p_advertised}', but {listen}; expected an address outside of "
                    f"loopback: {way_out}, and gevulot_peers to the networks that may reach ports {ports}"
                )
            # Refused, not ignored: naming networks means expecting connections from them.
            if self.peers:
                return (
                    f"gevulot_peers is set, but {listen}; expected both or neither: {way_out}, or unset gevulot_peers"
                )
            return None
        if not self.peers:
            return (
                f"gevulot_peers is not set, but gevulot_p2p_listen is '{self.p2p_listen}'; expected the networks that "
                f"may reach ports {ports}: set gevulot_peers, for example to ('203.0.113.0/24', '2001:db8::/32')"
            )
        if self.open_to_any and len(self.peers) > 1:
            return "gevulot_peers has 'any' beside networks; expected ('any',) alone, or networks only: remove one"
        if any(network.prefixlen == 0 for network in self.peer_networks):
            return "gevulot_peers names networks that together are everybody; expected fewer, or ('any',): change it"
        return None

    @property
    def p2p_ports(self) -> tuple[int, int]:
        """The ports of the peer-to-peer protocol and of its files, which the node opens at the same address."""
        return self.p2p_listen.port, self.http_port

    @property
    def service_ports(self) -> tuple[int, ...]:
        """The TCP ports on which the node itself serves, in order."""
        return tuple(sorted(each.port for key, each in self.endpoints().items() if key != "postgres_port"))

    @property
    def open_to_any(self) -> bool:
        """Whether everybody may reach the peer-to-peer ports."""
        return "any" in self.peers

    @property
    def peer_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks that alone may reach the peer-to-peer ports, IPv4 first, none inside of another.

        Empty when there is nothing to restrict: on loopback, and with ``any``.
        """
        return (
            *collapse_addresses(each for each in self.peers if isinstance(each, IPv4Network)),
            *collapse_addresses(each for each in self.peers if isinstance(each, IPv6Network)),
        )

    def endpoints(self) -> dict[str, Endpoint]:
        """Where the node and its own database listen on TCP, by key."""
        listens = {
            "p2p_listen": self.p2p_listen,
            "json_rpc_listen": self.json_rpc_listen,
            "healthcheck_listen": self.healthcheck_listen,
            "metrics_listen": self.metrics_listen,
            "http_port": replace(self.p2p_listen, port=self.http_port),
            "postgres_port": Endpoint.parse(f"127.0.0.1:{self.postgres_port}") if self.own_postgres else None,
        }
        return {key: listen for key, listen in listens.items() if listen is not None}

    @property
    def own_postgres(self) -> bool:
        """Whether the node runs its own Postgres, as against an external one."""
        return self.postgres_url is None

    @property
    def external_database(self) -> SplitResult | None:
        """The parts of an external database's URL, which hold its password."""
        return urlsplit(self.postgres_url.get_secret_value()) if self.postgres_url else None

    @property
    def directories(self) -> tuple[str, ...]:
        """The node's own directories, the outermost first."""
        return (self.storage_directory, self.data_directory, self.key_directory, self.postgres_directory)

    @property
    def data_directory(self) -> str:
        """What the container sees as /var/lib/gevulot. The node may serve any file of it to its peers."""
        return f"{self.storage_directory}/data"

    @property
    def key_directory(self) -> str:
        """Where the node's key lives: on the storage volume, outside of what the node serves."""
        return f"{self.storage_directory}/key"

    @property
    def postgres_directory(self) -> str:
        """PGDATA of the node's own Postgres, on the host."""
        return f"{self.storage_directory}/postgres"

    def environment(self) -> dict[str, str]:
        """The node's environment without secrets and without GPU devices (those are known at boot only)."""
        optional = {
            "GEVULOT_P2P_ADVERTISED_LISTEN_ADDR": self.p2p_advertised,
            "GEVULOT_P2P_DISCOVERY_ADDR": ",".join(self.p2p_discovery) or None,
            "GEVULOT_METRICS_LISTEN_ADDR": self.metrics_listen,
            "GEVULOT_ACL_WHITELIST_URL": self.acl_whitelist_url,
            "GEVULOT_CPUS": self.cpus,
            "GEVULOT_MEM_GB": self.mem_gb,
            "GEVULOT_PROVIDER": self.provider,
            "GEVULOT_QEMU_PATH": self.qemu_path,
            "GEVULOT_NODE_NO_EXECUTION": "true" if self.no_execution else None,
        }
        return {
            "RUST_LOG": self.rust_log,
            "GEVULOT_P2P_LISTEN_ADDR": str(self.p2p_listen),
            "GEVULOT_JSON_RPC_LISTEN_ADDR": str(self.json_rpc_listen),
            "GEVULOT_HEALTHCHECK_LISTEN_ADDR": str(self.healthcheck_listen),
            "GEVULOT_HTTP_PORT": str(self.http_port),
            "GEVULOT_VSOCK_LISTEN_PORT": str(self.vsock_listen_port),
        } | {key: str(value) for key, value in optional.items() if value is not None}

    def ports_closed_outside(self) -> tuple[int, ...]:
        """Ports that nobody outside the node may reach: the database, the health check, and JSON-RPC unless asked."""
        closed = [each.port for each in (self.json_rpc_listen, self.healthcheck_listen) if each.address.is_loopback]
        own = [self.postgres_port] if self.own_postgres else []
        return (*own, *sorted(closed))


# The checker's own words, where they do not say what was expected.
_EXPECTED = {
    "dict_type": "expected a mapping, such as {5432: 40001}",
    "string_type": "expected text",
    "string_sub_type": "expected text",
    "string_unicode": "expected text of whole characters",
    "int_type": "expected a whole number",
    "bool_type": "expected True or False",
    "missing": "missing",
}
_SHOWN = 200


def _is_secret(key: str) -> bool:
    field = Settings.model_fields.get(key)
    return field is not None and "SecretStr" in str(field.annotation)


def _shown(key: str, value: object) -> str:
    """A value as an error may show it: secrets, and functions that return them, stay hidden."""
    if callable(value) or _is_secret(key):
        return "(hidden)"
    try:
        # The part of a URL that may hold a password.
        text = re.sub(r"//.*@", "//(hidden)@", repr(value))
    except Exception:
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _expected(kind: str, message: str) -> str:
    number = message.replace("Input should be", "expected", 1)
    return _EXPECTED.get(kind, number.removeprefix("Value error, "))


def _unknown_key(key: object) -> str | None:
    """What is wrong with a key of host data, if anything is."""
    if not isinstance(key, str):
        return f"{_shown('', key)}: expected text as the key of host data"
    known = [PREFIX + name for name in Settings.model_fields]
    if key in known:
        return None
    # A key may be anything, and has to stay one line.
    shown = key if key.isidentifier() else _shown("", key)
    if PREFIX + key in known:
        return f"{shown}: unknown key; keys of this project start with {PREFIX}: {PREFIX}{key}"
    if typo := suggest(key, known):
        return f"{shown}: unknown key; did you mean {typo}?"
    if key.lower().startswith(PREFIX):
        return f"{shown}: unknown key; docs/settings.md lists the known ones"
    return None


def _wrong_values(ours: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """One line for each wrong value, without the host's name."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    for item in details:
        message = item["msg"].removeprefix("Value error, ")
        if not item["loc"]:
            yield from message.splitlines()
            continue
        key = str(item["loc"][0])
        if item["type"] == "literal_error" and sum(other["loc"][:1] == item["loc"][:1] for other in details) > 1:
            # One half of a union: "not the word 'supported'" says nothing that the other half does not.
            continue
        value, where = ours.get(key), ""
        for part in item["loc"][1:]:
            if isinstance(part, int) and isinstance(value, list | tuple):
                value, where = value[part], f"{where}[{part}]"
        expected = _expected(item["type"], message)
        yield f"{PREFIX}{key}{where} is {_shown(key, value) if key in ours else 'not set'}: {expected}"


def read(host: str, data: Mapping[str, Any]) -> Settings:
    """Check one node's data.

    ``data`` is the host's whole data as pyinfra merged it: keys without the prefix are left alone, unless they look
    like a typo of one of ours or of pyinfra's own. Raises ``SettingsError`` naming the host, and for each key its value
    and what was expected.
    """
    return _read(Settings, host, data)


def read_host(host: str, data: Mapping[str, Any]) -> HostSettings:
    """As ``read``, for what concerns the host alone: the keys of a node are known, and their values are not looked at.

    One inventory may then be of both, and no secret has to be at hand.
    """
    return _read(HostSettings, host, data)


def _read(kind: type[_Kind], host: str, data: Mapping[str, Any]) -> _Kind:
    ours = {
        key.removeprefix(PREFIX): value
        for key, value in data.items()
        if isinstance(key, str) and key.startswith(PREFIX) and key.removeprefix(PREFIX) in kind.model_fields
    }
    problems = [problem for key in data if (problem := _unknown_key(key))]
    problems += host_keys.find_problems(data)
    try:
        settings = kind(**ours)
    except ValidationError as error:
        problems += _wrong_values(ours, error)
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(f"{host}: {problem}" for problem in problems)))
    return settings


# In place of secrets that nobody needs: of the shape that is asked for.
_STAND_INS = {
    "gevulot_psk_passphrase": "not needed for looking",
    "gevulot_postgres_url": "postgres://user:password@host:5432/name",
    "gevulot_postgres_password": "not-needed-for-looking",
}


def read_without_secrets(host: str, data: Mapping[str, Any]) -> Settings:
    """As ``read``, for a look alone: secrets need not be at hand, and are not read. Raises ``SettingsError``."""
    needed = {key: value for key, value in _STAND_INS.items() if data.get(key) is not None}
    return read(host, {**data, **needed, "gevulot_psk_passphrase": _STAND_INS["gevulot_psk_passphrase"]})


def read_all(
    hosts: Iterable[tuple[str, Mapping[str, Any]]], reader: Callable[[str, Mapping[str, Any]], _Kind]
) -> dict[str, _Kind]:
    """Check every host's data with a reader, and raise one ``SettingsError`` with the problems of all."""
    checked: dict[str, _Kind] = {}
    problems: list[str] = []
    for name, data in hosts:
        try:
            checked[name] = reader(name, data)
        except SettingsError as error:
            problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return checked


def table(kind: type[HostSettings]) -> str:
    """Return a table of docs/settings.md, in Markdown: the keys of a host, or those that a node has beside them."""
    inherited = HostSettings.model_fields if kind is not HostSettings else {}
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in kind.model_fields.items():
        if name in inherited:
            continue
        shown = str(field.default) if isinstance(field.default, Endpoint) else field.default
        default = "**required**" if callable(field.default) else f"`{shown!r}`"
        rows.append(f"| `{PREFIX}{name}` | {default} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(f"{table(HostSettings)}\n\n{table(Settings)}")
