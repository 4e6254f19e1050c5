"""Programs that listen on TCP ports of the host's own network namespace."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.untrusted import printable

# $1: ports as in /proc/net/tcp, alternatives of a pattern; then units. That file has the sockets of its own network
# namespace only.
_COMMAND = r"""
ports=$1; shift
listed=$(for kind in tcp tcp6; do
  [ -r /proc/net/$kind ] && sed -nE \
    "s/^ *[0-9]+: ([0-9A-F]+):($ports) [0-9A-F:]+ 0A ([^ ]+ +){5}([0-9]+) .*/$kind \1 \2 \4/p" /proc/net/$kind
done)
if [ -n "$listed" ]; then
  printf '%s\n' "$listed" | sed 's/^/listen /'
  systemctl show --property=Id,ControlGroup "$@" 2>/dev/null | sed -n 's/^Id=/unit /p; s/^ControlGroup=/group /p'
  systemctl list-sockets --plain --no-legend --no-pager 2>/dev/null | sed 's/^/activated /'
  command -v ss >/dev/null && ss -Htlne6 2>/dev/null |
    sed -n 's/.* ino:\([0-9]*\) .*v6only:1.*/v6only \1/p'
  set --; for inode in $(printf '%s\n' "$listed" | cut -d' ' -f4); do
    set -- "$@" ${1:+-o} -lname "socket:[[]$inode[]]"; done
  find /proc/[0-9]*/fd -maxdepth 1 \( "$@" \) -printf '%p %l\n' 2>/dev/null |
    sed 's|^/proc/\([0-9]*\)/fd/[0-9]* socket:\[\([0-9]*\)\]$|\1 \2|' | sort -u |
    while read -r pid inode; do
      group=$(sed -n 's/^0:://p; s/^[0-9]*:name=systemd://p' "/proc/$pid/cgroup" 2>/dev/null | head -n1)
      name=$(tr -d '\000-\037' <"/proc/$pid/comm" 2>/dev/null)
      printf 'holder %s %s %s\nin %s\n' "$inode" "$pid" "$name" "$group"; done
fi
echo end
"""
_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|swap)(?=/|$)")
_ACTIVATED = re.compile(r"\S+:(?P<port>[0-9]+)\s+(?P<unit>\S+\.socket)\b")


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. ``unit`` is of the holder's control group; empty where there is none, as is ``program``.

    ``ours`` says whether a process in the control group of one of the units that were asked for holds it. ``both`` says
    whether a socket at ``::`` takes IPv4 connections too.
    """

    address: IPv4Address | IPv6Address
    port: int
    program: str = ""
    pid: int = 0
    unit: str = ""
    ours: bool = False
    both: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"address": str(self.address)}


def _address(digits: str) -> IPv4Address | IPv6Address:
    """An address as the kernel prints it: words of 32 bits, each with its lowest byte first."""
    words = bytes.fromhex(digits)
    address = ip_address(b"".join(words[place : place + 4][::-1] for place in range(0, len(words), 4)))
    return getattr(address, "ipv4_mapped", None) or address


def unit_of(group: str) -> str:
    """The unit of a control group, with whose manager it belongs to where that is a user's; empty when it has none."""
    units = _UNIT.findall(group)
    manager = next((each for each in units if each.startswith("user@")), None)
    if manager is not None and units[-1] != manager:
        return f"{units[-1]} of {manager}"
    return units[-1] if units else ""


@dataclass(slots=True)
class _Holder:
    pid: int
    program: str
    group: str = ""


def parse(output: list[str]) -> list[Listener]:
    """The lines of the command. Raises ``ValueError`` when they end too early or are of another kind."""
    if not output or output[-1] != "end":
        raise ValueError("the answer ended too early")
    sockets: list[tuple[str, str, str]] = []
    groups: list[str] = []
    activated: dict[int, str] = {}
    narrow: set[str] = set()
    holders: dict[str, list[_Holder]] = {}
    holder: _Holder | None = None
    for line in output[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "listen":
            _, address, port, inode = rest.split()
            sockets.append((address, port, inode))
        elif kind == "group" and rest.strip("/"):
            groups.append(rest.rstrip("/"))
        elif kind == "activated" and (match := _ACTIVATED.match(rest)):
            activated[int(match["port"])] = match["unit"]
        elif kind == "v6only":
            narrow.add(rest)
        elif kind == "holder":
            inode, pid, program = (*rest.split(" ", 2), "")[:3]
            holder = _Holder(int(pid), program)
            holders.setdefault(inode, []).append(holder)
        elif kind == "in" and holder is not None:
            holder.group = rest
    return [_listener(*each, groups, activated, narrow, holders) for each in sockets]


def _listener(
    address: str,
    port: str,
    inode: str,
    groups: list[str],
    activated: dict[int, str],
    narrow: set[str],
    holders: dict[str, list[_Holder]],
) -> Listener:
    number = int(port, 16)
    by = holders.get(inode, [])
    ours = any(each.group == group or each.group.startswith(f"{group}/") for each in by for group in groups)
    # A socket that systemd listens at is its own too, beside the program that it started.
    first = min(by, key=lambda each: (each.pid == 1, each.pid), default=None)
    if first is None:
        return Listener(_address(address), number, ours=ours, both=inode not in narrow)
    unit = activated.get(number, "") if first.pid == 1 else unit_of(first.group)
    return Listener(
        _address(address),
        number,
        program=printable(first.program, 40),
        pid=first.pid,
        unit=printable(unit, 100),
        ours=ours,
        both=inode not in narrow,
    )


class Listeners(FactBase[list[Listener]]):
    """The programs that listen on these ports, at any address. ``units`` are those whose programs are ours."""

    @staticmethod
    def default() -> list[Listener]:
        return []

    def command(self, ports: tuple[int, ...], units: tuple[str, ...] = ()) -> str:
        pattern = "|".join(f"{port:04X}" for port in ports)
        return f"sh -c {quote(_COMMAND)} listeners {' '.join(map(quote, (pattern, *units)))}"

    def process(self, output: list[str]) -> list[Listener]:
        try:
            return parse(output)
        except (ValueError, TypeError) as error:
            raise FactProcessError(f"the programs that listen cannot be read: {error}") from error
