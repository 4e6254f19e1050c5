"""What `run` is told: each setting with its flag, its environment variable and its default."""

# `setting` makes a field, as `dataclasses.field` does, not a default that instances would share.
# ruff: noqa: RUF009

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

DEFAULT_DB_URL = "postgres://gevulot:gevulot@localhost/gevulot"
PANGRAM = "Pack my box with five dozen liquor jugs."
Address = tuple[str, int]


def address(text: str) -> Address:
    """`IP:PORT` or `[IPv6]:PORT`. Names are refused, as the real node's type refuses them."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected IP:PORT")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in bare) != (bare is not host):
        raise ValueError("expected IP:PORT")
    return str(ipaddress.ip_address(bare)), int(port)


def number(text: str) -> int:
    """A whole number that is not negative."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("expected a number")
    return int(text)


def port(text: str) -> int:
    """A TCP port."""
    if number(text) > 65535:
        raise ValueError("expected a port")
    return int(text)


def boolean(text: str) -> bool:
    """`true` or `false`."""
    return {"true": True, "false": False}[text]


def comma_list(text: str) -> tuple[str, ...]:
    """Split on `,` and nothing else: no trimming, and an empty text is one empty item."""
    return tuple(text.split(","))


def setting(variable: str, default: str | None, parse: Callable[[str], Any]) -> Any:
    """A field that `read` fills from a flag, else from the variable, else from the default."""
    return field(metadata={"variable": f"GEVULOT_{variable}", "default": default, "parse": parse})


@dataclass(frozen=True)
class Settings:
    """The settings of `run`. Secrets do not show in its representation."""

    data_directory: Path = setting("DATA_DIRECTORY", "/var/lib/gevulot", Path)
    log_directory: Path = setting("LOG_DIRECTORY", "/var/lib/gevulot/log", Path)
    node_key_file: Path = setting("NODE_KEY_FILE", "/var/lib/gevulot/node.key", Path)
    db_url: str = setting("DB_URL", DEFAULT_DB_URL, str)
    json_rpc_listen_addr: Address = setting("JSON_RPC_LISTEN_ADDR", "127.0.0.1:9944", address)
    p2p_listen_addr: Address = setting("P2P_LISTEN_ADDR", "127.0.0.1:9999", address)
    p2p_advertised_listen_addr: Address | None = setting("P2P_ADVERTISED_LISTEN_ADDR", None, address)
    p2p_discovery_addrs: tuple[str, ...] = setting("P2P_DISCOVERY_ADDR", None, comma_list)
    p2p_psk_passphrase: str = setting("PSK_PASSPHRASE", PANGRAM, str)
    http_download_port: int = setting("HTTP_PORT", "9995", port)
    healthcheck_listen_addr: Address = setting("HEALTHCHECK_LISTEN_ADDR", "127.0.0.1:8888", address)
    metrics_listen_addr: Address | None = setting("METRICS_LISTEN_ADDR", None, address)
    acl_whitelist_url: str | None = setting("ACL_WHITELIST_URL", None, str)
    vsock_listen_port: int = setting("VSOCK_LISTEN_PORT", "8080", number)
    provider: str = setting("PROVIDER", "qemu", str)
    qemu_path: str = setting("QEMU_PATH", "qemu-system-x86_64", str)
    num_cpus: int | None = setting("CPUS", None, number)
    mem_gb: int | None = setting("MEM_GB", None, number)
    gpu_devices: tuple[str, ...] | None = setting("GPU_DEVICES", None, comma_list)
    no_execution: bool = setting("NODE_NO_EXECUTION", "false", boolean)

    def __repr__(self) -> str:
        return "Settings(…)"


SECRET = ("db_url", "p2p_psk_passphrase")


class SettingError(Exception):
    """A value that the real node's command line refuses, which ends it with exit code 2."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Gives the parser one flag for each setting, named after its field."""
    for each in fields(Settings):
        parser.add_argument(f"--{each.name.replace('_', '-')}", dest=each.name)


def read(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """The settings from flags (None: not given) and environment. Raises SettingError."""
    values: dict[str, Any] = {}
    for each in fields(Settings):
        variable = each.metadata["variable"]
        text = flags.get(each.name)
        if text is None:
            text = environment.get(variable, each.metadata["default"])
        try:
            values[each.name] = None if text is None else each.metadata["parse"](text)
        except (ValueError, KeyError):
            shown = "…" if each.name in SECRET else repr(text)
            flag = each.name.replace("_", "-")
            raise SettingError(f"invalid value {shown} for '--{flag}' ({variable})") from None
    values["p2p_discovery_addrs"] = values["p2p_discovery_addrs"] or ()
    return Settings(**values)


def from_environment(flags: Mapping[str, str | None]) -> Settings:
    """The settings of this process."""
    return read(flags, os.environ)
