"""The node's nftables table as the kernel has it, and who could connect without it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# State 0A is LISTEN. A host without nft has no such table.
_COMMAND = r"""
table=$1
PATH=$PATH:/usr/sbin:/sbin
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep ' 0A ' | sed 's/^/listen /'
grep -lrsE "^[[:space:]]*table inet $table([[:space:]{]|\$)" /etc/nftables.conf \
  /etc/sysconfig/nftables.conf /etc/nftables /etc/nftables.d | sed 's/^/saved /'
command -v nft >/dev/null || { echo end; exit 0; }
tables=$(nft list tables inet) || exit 1
if printf '%s\n' "$tables" | grep -qx "table inet $table"; then
  # Part by part: nft 1.0.9 prints no valid JSON for a table that has flags.
  text=$(nft list table inet "$table") || exit 1
  printf '%s\n' "$text" | sed -n 's/^[[:space:]]*\(set\|chain\) \([^ ]*\) {$/\1 \2/p' | while read -r kind name; do
    part=$(nft -j list "$kind" inet "$table" "$name") || exit 1
    printf 'table %s\n' "$part"
  done || exit 1
fi
echo end
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the family inet: its sets as sorted networks, and its chains' rules as nft prints them, in order."""

    networks: tuple[str, ...]
    rules: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Firewall:
    """The table, if there is one, and the TCP ports on which a program listens outside of loopback.

    ``saved`` are the files for nftables.service that hold a copy of the table.
    """

    table: Table | None
    outside: frozenset[int]
    saved: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        table = self.table.to_json() if self.table else None
        return {"table": table, "outside": sorted(self.outside), "saved": list(self.saved)}


class NodeFirewall(FactBase[Firewall | None]):
    """What keeps strangers from the node's ports: its table by name. Needs root to read the table."""

    def command(self, table: str) -> str:
        return f"sh -c {quote(_COMMAND)} firewall {quote(table)}"

    def process(self, output: list[str]) -> Firewall:
        try:
            return parse(output)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise FactProcessError(f"the firewall cannot be read: {type(error).__name__}: {error}") from error


def parse(output: list[str]) -> Firewall:
    """The lines of the command. Raises ``ValueError`` and its like for what nft does not print."""
    if not output or output[-1] != "end":
        raise ValueError("the answer ended too early")
    outside = set()
    saved: list[str] = []
    objects: list[dict[str, Any]] = []
    for line in output[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "listen":
            address, _, port = rest.split()[1].partition(":")
            if not _is_loopback(address):
                outside.add(int(port, 16))
        elif kind == "saved":
            saved.append(rest)
        elif kind == "table":
            objects += json.loads(rest)["nftables"]
    return Firewall(_table(objects) if objects else None, frozenset(outside), tuple(sorted(saved)))


def _is_loopback(words: str) -> bool:
    """Of an address as /proc/net/tcp has it: 32-bit words in the processor's order, which is little-endian."""
    packed = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    address = ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _table(objects: list[dict[str, Any]]) -> Table:
    four: list[IPv4Network] = []
    six: list[IPv6Network] = []
    rules: list[str] = []
    for each in objects:
        if "set" in each:
            for network in (one for element in each["set"].get("elem", []) for one in _networks(element)):
                if isinstance(network, IPv4Network):
                    four.append(network)
                else:
                    six.append(network)
        elif "chain" in each:
            chain = each["chain"]
            hook = [str(chain.get(key)) for key in ("type", "hook", "prio", "policy")]
            rules.append(f"chain {chain['name']} {' '.join(hook)}")
        elif "rule" in each:
            rules.append(f"{each['rule']['chain']}: {' '.join(map(_words, each['rule']['expr']))}")
    return Table(tuple(map(str, (*collapse_addresses(four), *collapse_addresses(six)))), tuple(rules))


def _networks(element: Any) -> list[IPv4Network | IPv6Network]:
    if isinstance(element, str):
        return [ip_network(element)]
    if "elem" in element:
        return _networks(element["elem"]["val"])
    if "prefix" in element:
        return [ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}")]
    first, last = (ip_address(each) for each in element["range"])
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address):
        return list(summarize_address_range(first, last))
    if isinstance(first, IPv6Address) and isinstance(last, IPv6Address):
        return list(summarize_address_range(first, last))
    raise ValueError(f"a range of {first} to {last}")


def _words(expression: dict[str, Any]) -> str:
    """One expression of a rule, as nft writes it where the node's own rules have it; anything else as JSON."""
    match expression:
        case {"match": {"op": "==" | "in", "left": {"meta": {"key": key}}, "right": str(right)}}:
            return f"{key} {right}"
        case {
            "match": {"op": "==" | "in", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}
        }:
            return f"{protocol} {field} {_right(right)}"
        case {"match": {"op": "==" | "in", "left": {"socket": {"key": key}}, "right": str() | int() as right}}:
            return f"socket {key} {right}"
        case {"accept": None}:
            return "accept"
        case {"drop": None}:
            return "drop"
    return json.dumps(expression, sort_keys=True)


def _right(right: Any) -> str:
    match right:
        case {"set": [*items]} if all(isinstance(item, int) for item in items):
            return f"{{ {', '.join(map(str, sorted(items)))} }}"
        case int() | str():
            return str(right)
    return json.dumps(right, sort_keys=True)
