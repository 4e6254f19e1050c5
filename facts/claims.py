"""Other users of PCI devices: the configuration of other tools, and files that bind devices at boot by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.untrusted import printable
from pcibind.change import boot_files
from pcibind.read import claims

_BEGIN, _END = "claims 1", "claims end"
# Characters of a line and lines of a file that are read; characters of a name that are shown.
_LETTERS, _LINES, _SHOWN = 400, 200, 120
# A file that takes devices from their drivers, or gives them to one, by its own means.
_BINDS = (
    r"driver_override|/(new_id|remove_id)\b|drivers/[A-Za-z0-9_-]*(vfio|stub|pciback)[A-Za-z0-9_-]*/bind"
    r"|(vfio[-_]pci|pci[-_]stub|pciback)[^#]*[. ](ids|hide)=|nodedev-detach|driverctl +(-[a-z-]+ +)*set-override"
)
_NAMES = r"[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7]|[0-9A-Fa-f]{4}[: ][0-9A-Fa-f]{4}|\{(vendor|device|subsystem_[a-z]+)\}"
# What acts at a boot, and the scripts that it calls.
_TREES = (
    *(f"{place}/modprobe.d" for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")),
    *(f"{place}/udev/rules.d" for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
    *(f"{place}/systemd/system" for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib")),
    *("/etc/initramfs-tools", "/usr/share/initramfs-tools", "/etc/dracut.conf.d", "/usr/lib/dracut/modules.d"),
    *("/etc/libvirt/hooks", "/etc/cron.d", "/etc/init.d", "/etc/rc.local", "/usr/local/bin", "/usr/local/sbin"),
)
_OURS = frozenset(
    {
        boot_files.RULE_PATH,
        boot_files.SCRIPT_PATH,
        boot_files.INITRAMFS_HOOK_PATH,
        boot_files.DRACUT_PATH,
        *boot_files.UNIT_PATHS,
    }
)


def _command(own: tuple[str, ...], root: str) -> str:
    r = quote(root)
    trees = " ".join(f"{r}{tree}" for tree in _TREES)
    texts = " ".join(f"-e {quote(each)}" for each in own)
    shown = f"head -n {_LINES} | cut -c1-{_LETTERS} | sed 's/^/text /'"
    return "; ".join(
        (
            f"echo '{_BEGIN}'",
            f"r={r}",
            'for f in "$r"/etc/driverctl.d/*; do [ -f "$f" ] || continue; d=; read -r d <"$f"; '
            'echo "driverctl ${f##*/} $d"; done',
            'find -L "$r/etc/libvirt" "$r/run/libvirt" -maxdepth 4 -type f -name "*.xml" 2>/dev/null | '
            'while IFS= read -r f; do grep -qsE "=.hostdev|<hostdev" "$f" || continue; echo "libvirt ${f#"$r"}"; '
            f'grep -E "<source|</source|<address" "$f" | {shown}; done',
            # What is below the first heading belongs to snapshots.
            'for f in "$r"/etc/pve/qemu-server/*.conf; do grep -qs "^hostpci" "$f" || continue; '
            'echo "proxmox ${f#"$r"}"; sed "/^\\[/,\\$d" "$f" | grep -E "^(hostpci[0-9]+|onboot):" | '
            f"{shown}; done",
            f'f="$r/etc/pve/mapping/pci.cfg"; if [ -r "$f" ]; then echo "mapping ${{f#"$r"}}"; cat "$f" | {shown}; fi',
            f"{{ find {trees} -type f -size -256k ! -name '*.pyc' -exec grep -lIsE {quote(_BINDS)} {{}} +; "
            f'find "$r"/usr/bin "$r"/usr/sbin -maxdepth 1 -type f "(" -name "*.sh" -o -name "*vfio*" ")" '
            f"-size -256k -exec grep -lIsE {quote(_BINDS)} {{}} +; "
            f'grep -lsE {quote(_BINDS)} "$r/proc"/cmdline; }} 2>/dev/null | sort -u | while IFS= read -r f; do '
            # A file of ours that an operator asked for by name.
            f'grep -qsF {texts} "$f" && continue; '
            f'echo "file ${{f#"$r"}}"; grep -vE "^[[:space:]]*#" "$f" | grep -E {quote(f"{_BINDS}|{_NAMES}")} | '
            f"{shown}; done",
            f"echo '{_END}'",
        )
    )


class ClaimKind(StrEnum):
    """The tool or kind of file that makes the claim."""

    DRIVERCTL = "driverctl"
    LIBVIRT = "libvirt"
    PROXMOX = "proxmox"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Claim:
    """One file that lays claim to devices.

    ``places`` are addresses with function (``0000:01:00.0``) or slots (``0000:01:00``), ``models`` pairs of vendor and
    device; both empty where the file computes them. ``driver`` is what the devices are to get, if that is plain.
    ``acts_at_boot``: it takes them by itself at boot, or has them now.
    """

    kind: ClaimKind
    source: str
    places: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    driver: str = ""
    acts_at_boot: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value,
            "source": self.source,
            "places": sorted(self.places),
            "models": sorted(self.models),
            "driver": self.driver,
            "acts_at_boot": self.acts_at_boot,
        }


class RivalClaims(FactBase[list[Claim]]):
    """The claims of others on PCI devices, in the order of their files. Reads files only.

    ``own`` are texts, one of which a file of ours has that an operator asked for.
    """

    @staticmethod
    def default() -> list[Claim]:
        return []

    def command(self, own: tuple[str, ...], root: str = "") -> str:
        return f"sh -c {quote(_command(own, root))}"

    def process(self, output: list[str]) -> list[Claim]:
        if output[:1] != [_BEGIN] or output[-1] != _END:
            raise FactProcessError(f"the claims on PCI devices cannot be read: cut short after {output[-1]!r}")
        blocks: list[tuple[str, str, list[str]]] = []
        for line in output[1:-1]:
            kind, _, rest = line.partition(" ")
            if kind == "text" and blocks:
                blocks[-1][2].append(rest)
            else:
                blocks.append((kind, rest, []))
        mapping = _mapping(line for kind, _, text in blocks if kind == "mapping" for line in text)
        rivals = [claim for kind, rest, text in blocks if (claim := _claim(kind, rest, text, mapping))]
        acting = {(each.kind, _guest(each)) for each in rivals if each.acts_at_boot}
        # A machine that starts by itself has a second file, or a link to the first.
        return [each for each in rivals if each.acts_at_boot or (each.kind, _guest(each)) not in acting]


def _guest(claim: Claim) -> str:
    return claim.source.rpartition("/")[2] if claim.kind is ClaimKind.LIBVIRT else claim.source


def _claim(kind: str, rest: str, text: list[str], mapping: dict[str, set[str]]) -> Claim | None:
    source = printable(rest, _SHOWN)
    match kind:
        case "driverctl":
            device, _, driver = rest.partition(" ")
            place = claims.place(device)
            shown = printable(driver.strip(), _SHOWN)
            source = printable(f"/etc/driverctl.d/{device}", _SHOWN)
            return (
                Claim(ClaimKind.DRIVERCTL, source, frozenset({place}), driver=shown, acts_at_boot=True)
                if place
                else None
            )
        case "libvirt":
            places = frozenset(claims.hostdevs("\n".join(text)))
            acts = source.startswith("/run/") or "/autostart/" in source
            return Claim(ClaimKind.LIBVIRT, source, places, acts_at_boot=acts) if places else None
        case "proxmox":
            places = frozenset(_hostpcis(text, mapping))
            acts = any(re.fullmatch(r"onboot:\s*1\s*", line) for line in text)
            return Claim(ClaimKind.PROXMOX, source, places, acts_at_boot=acts) if places else None
        case "file" if rest not in _OURS and any(re.search(_BINDS, line) for line in text):
            whole = _LIBVIRTS.sub(r"\1:\2:\3.\4", "\n".join(text))
            given = _DRIVER.search(whole)
            return Claim(
                ClaimKind.FILE,
                source,
                frozenset(place for each in _ADDRESS.findall(whole) if (place := claims.place(each))),
                frozenset(_models(whole)),
                _driver(given) if given else "",
                acts_at_boot=True,
            )
    return None


def _driver(given: re.Match[str]) -> str:
    """The name by which sysfs knows the driver."""
    name = printable(next(filter(None, given.groups()), ""), _SHOWN)
    return name.replace("_", "-") if name in ("vfio_pci", "pci_stub") else name


_ADDRESS = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7](?!\w)")
# An address as virsh spells it.
_LIBVIRTS = re.compile(r"pci_([0-9a-f]{4})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])")
_DRIVER = re.compile(
    r"""driver_override\}?\s*=\s*["']([\w-]+)["']|echo\s+(?:-n\s+)?["']?([\w-]+)["']?\s*>+[^\n]*driver_override"""
    r"|(?:options\s+|\b)(vfio[-_]pci|pci[-_]stub|xen-pciback)[ .](?:[^\n]*\s)?(?:ids|hide)="
)
_UDEV = re.compile(
    r"""ATTRS?\{vendor\}==["']0x([0-9A-Fa-f]{4})["'][^\n]*ATTRS?\{device\}==["']0x([0-9A-Fa-f]{4})["']"""
)
_IDS = re.compile(r"\bids=([0-9A-Fa-f:,x]+)")
_NEW_ID = re.compile(r"\b([0-9A-Fa-f]{4})[: ]([0-9A-Fa-f]{4})\b")


def _models(text: str) -> Iterator[str]:
    for ids in _IDS.findall(text):
        for each in ids.lower().split(","):
            parts = each.split(":")
            if len(parts) >= 2 and parts[0] and parts[1]:
                yield f"{parts[0]:0>4}:{parts[1]:0>4}"
    for vendor, device in _UDEV.findall(text):
        yield f"{vendor.lower()}:{device.lower()}"
    for line in text.splitlines():
        if "new_id" in line:
            for vendor, device in _NEW_ID.findall(line):
                yield f"{vendor.lower()}:{device.lower()}"


def _mapping(lines: Iterable[str]) -> dict[str, set[str]]:
    """Proxmox's names of devices of the cluster, with their places."""
    places: dict[str, set[str]] = {}
    name = ""
    for line in lines:
        if line and not line[0].isspace():
            name = line.strip()
        for path in re.findall(r"\bpath=([^,\s]+)", line):
            places.setdefault(name, set()).update(place for each in path.split(";") if (place := claims.place(each)))
    return places


def _hostpcis(lines: Iterable[str], mapping: dict[str, set[str]]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("hostpci"):
            continue
        for option in line.partition(":")[2].strip().split(","):
            key, _, value = option.rpartition("=")
            if key.strip() == "mapping":
                yield from mapping.get(value.strip(), ())
            elif key.strip() in ("", "host"):
                yield from (place for each in value.split(";") if (place := claims.place(each)))
