"""Removal of everything from text that could identify a host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

REDACTED = "REDACTED"

_GENERAL = re.compile(
    "|".join(
        (
            # UUIDs, also of FAT and NTFS; MAC addresses with dashes or dots; IPv4
            r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}",
            r"\b[0-9a-f]{4}-[0-9a-f]{4}\b",
            r"(?:[0-9a-f]{2}-){5}[0-9a-f]{2}",
            r"(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}",
            r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}",
            # names of disks and volumes by what identifies them; accounts and addresses of mail
            r"(?:wwn-|naa\.|eui\.|nvme\.|iqn\.|nqn\.|by-[a-z]+/)[^\s,;]*",
            r"[\w.+-]+@[\w.-]+",
            # machine-id, WWN, MAC addresses without separators, digests; and what stands around one without a blank
            r"(?<![a-z0-9])[a-z0-9]*?[0-9a-f]{12,}[a-z0-9]*",
        )
    ),
    re.IGNORECASE,
)
# MAC addresses, GUIDs and IPv6: a PCI address has two colons, these have more, or two in a row.
_COLONS = re.compile(r"[0-9a-f.]*:[0-9a-f:.]*(?:%\w+)?", re.IGNORECASE)
# Serial numbers and tokens have no shape but this: letters and digits in one long run.
_RUN = re.compile(r"[A-Za-z0-9]{8,}")
# Runs that are none: places on a mainboard, the speed of a serial line, a small number in hexadecimal.
_ORDINARY = re.compile(
    r"(?:(?:cpu|slot|pcie?|riser|socket|ocp|bay|port|gpu|node|[jmux])[0-9]{0,3})+|[0-9]{3,7}[neo][78]r?|0x[0-9a-f]{1,8}",
    re.IGNORECASE,
)
# Nobody's own.
_EVERYBODY = frozenset(
    "root admin user operator gevulot localhost localdomain local almalinux centos debian fedora rocky ubuntu".split()  # noqa: SIM905
) | {"", "localhost.localdomain"}

# Kernel arguments whose values tell of hardware and of how it is driven, nothing of whose it is.
_HARMLESS = frozenset(
    """
    acpi acpi_enforce_resources amd_iommu amd_iommu_intr amd_pstate apparmor audit biosdevname cgroup_enable
    cgroup_no_v1 clocksource console consoleblank crashkernel default_hugepagesz earlyprintk efi elevator
    enforcing fbcon gfxpayload hpet hugepages hugepagesz idle init_on_alloc init_on_free intel_idle.max_cstate
    intel_iommu intel_pstate intremap iommu irqaffinity isolcpus l1tf loglevel lsm maxcpus mds mem memmap
    mitigations modprobe.blacklist module_blacklist net.ifnames nmi_watchdog nohz nohz_full nr_cpus numa
    numa_balancing panic pci pci_stub.ids pcie_acs_override pcie_aspm pcie_port_pm pcie_ports preempt
    processor.max_cstate psi random.trust_cpu rcu_nocbs rd.driver.blacklist rd.driver.pre reboot rootdelay
    rootfstype security selinux skew_tick spectre_v2 split_lock_detect swapaccount swiotlb
    systemd.unified_cgroup_hierarchy threadirqs transparent_hugepage tsc tsx usbcore.autosuspend vga video
    watchdog zswap.enabled
    """.split()  # noqa: SIM905
)
_HARMLESS_MODULE = re.compile(
    r"(?:vfio(?:_pci|_iommu_type1)?|kvm(?:_intel|_amd)?|iommu|nouveau|nova_core|nvidia(?:_drm|_modeset|_uvm)?"
    r"|amdgpu|radeon|i915|xe|drm|pcie_aspm|pciehp|nvme(?:_core)?|ahci|xhci_hcd)\.[a-z0-9_]+",
    re.IGNORECASE,
)
_IDS = re.compile(r"(?:^|,)[0-9a-f]{4}:[0-9a-f]{4}(?::[0-9a-f]{1,8}){0,4}(?=,|$)", re.IGNORECASE)
_ATOM = (
    r"(?:[a-z_]{1,24}(?:[0-9]{1,4}[a-z_]{0,8}){0,2}|tty[A-Z]{1,4}[0-9]{0,3}|[0-9]{1,7}[a-zKMGT%]?[0-9]?"
    r"|0x[0-9a-f]{1,8}|[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
)
_PLAIN = re.compile(rf"{_ATOM}(?:[,:;=+@&$-]{_ATOM})*")
_BARE = re.compile(r"(?:(?:rd|systemd|udev)\.)?[a-z][a-z0-9_-]{0,30}")
# The kernel lets quotation marks keep blanks together.
_ARGUMENT = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
_KIND_OF_NAME = re.compile(r"(?:PART)?(?:UUID|LABEL)=|ID=|ZFS=")

_RELEASE = re.compile(r"[0-9]+(?:\.[0-9]+){1,3}(?:-[0-9]{1,4}\b)?")

# The lines of the topology's text that hold the kernel's own words only, and those with a place for somebody else's.
_FUNCTION = r"\./[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_ELEMENT = r"(?:pci[0-9a-f]{4,8}:[0-9a-f]{2}|[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7])"
_KERNELS_OWN = re.compile(
    "|".join(
        (
            r"pcibind-topology (?:[0-9]+|late|end)",
            rf"{_FUNCTION} (?:\.\./)*devices(?:/{_ELEMENT})+",
            rf"{_FUNCTION}/physfn (?:\.\./)+{_ELEMENT}",
            rf"{_FUNCTION}/driver (?:\.\./)*bus/pci/drivers/\w[\w .+-]*",
            rf"{_FUNCTION}/iommu_group (?:\.\./)*kernel/iommu_groups/[0-9]+",
            rf"{_FUNCTION}/\w+:(?:0x[0-9a-f]{{1,8}}|-?[0-9]{{1,5}}|\(null\)|Unknown(?: speed)?)?",
            rf"{_FUNCTION}/\w+:[0-9]+(?:\.[0-9])? GT/s(?: PCIe)?",
            rf"{_FUNCTION}/reset_method:[a-z_ ]*",
            rf"{_FUNCTION}/driver_override:(?:vfio-pci|pci-stub|nvidia|nouveau)",
            r"kernel/iommu_groups/[0-9]+/type:[A-Za-z-]+",
            r"alias \w+:[a-z0-9*]+ [\w-]+|[\w-]+\.alias=\w+:[a-z0-9*]+",
        )
    ),
    re.IGNORECASE,
)
_OTHERS_WORDS = re.compile(
    rf"(?P<before>{_FUNCTION}/\w+:|{_FUNCTION} (?:\.\./)*devices/|{_FUNCTION}/driver (?:\.\./)*bus/pci/drivers/"
    rf"|bus/pci/slots/)(?P<own>.*?)(?P<after>/address:[0-9a-f:]+|(?:/{_ELEMENT})+|)",
    re.IGNORECASE,
)


class Redaction:
    """Removes from text what could identify its host."""

    def __init__(self, hidden: Iterable[str] = ()) -> None:
        """``hidden`` are the names and addresses of this host, its users and its network, as far as they are known."""
        names = {part for name in hidden for part in _parts(name.strip().lower())} - _EVERYBODY
        # A short name is redacted only as a whole word: longer words may contain its letters.
        ordered = sorted(map(re.escape, names), key=len, reverse=True)
        patterns = [name if len(name) > 3 else rf"(?<![a-z0-9]){name}(?![a-z0-9])" for name in ordered]
        self._names = re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)

    def text(self, text: str) -> str:
        """Text of no known form, without names, addresses, serial numbers and the like."""
        text = self._names.sub(REDACTED, text)
        text = _COLONS.sub(lambda m: REDACTED if "::" in m[0] or m[0].count(":") > 3 else m[0], text)
        return _RUN.sub(_run, _GENERAL.sub(REDACTED, text))

    def arguments(self, line: str) -> tuple[str, ...]:
        """A kernel command line, as its arguments. One that is not known to be harmless keeps its name only."""
        words = []
        for word in _ARGUMENT.findall(line):
            if word == "--":
                # The rest is for the first program, and the kernel does not look at it.
                words += [word, REDACTED]
                break
            key, equals, value = word.partition("=")
            if not equals:
                words.append(word if _BARE.fullmatch(word) and self.text(word) == word else REDACTED)
            elif self._is_harmless(key.replace("-", "_"), value):
                words.append(word)
            else:
                kind = _KIND_OF_NAME.match(value)
                words.append(f"{self.text(key)}={kind[0] if kind else ''}{REDACTED}")
        return tuple(words)

    def _is_harmless(self, key: str, value: str) -> bool:
        if key not in _HARMLESS and _HARMLESS_MODULE.fullmatch(key) is None:
            return False
        if key.endswith(".ids"):
            return not _IDS.sub("", value)
        return _PLAIN.fullmatch(value) is not None and self.text(value) == value

    def release(self, text: str) -> str:
        """A kernel's release, whose numbers are not for an address."""
        match = _RELEASE.match(text)
        end = match.end() if match else 0
        return text[:end] + self.text(text[end:])

    def topology(self, line: str) -> str:
        """A line of the topology's text, which can still be read as one."""
        if _KERNELS_OWN.fullmatch(line):
            return line
        match = _OTHERS_WORDS.fullmatch(line)
        return f"{match['before']}{self.text(match['own'])}{match['after']}" if match else self.text(line)


def _parts(name: str) -> Iterator[str]:
    """A name, without the connector of pyinfra's before it, and the host's and the domain's part of one with both."""
    name = name.rpartition("/")[2]
    yield name
    try:
        ip_address(name)
    except ValueError:
        first, dot, rest = name.partition(".")
        yield from (first, rest) if dot else ()


def _run(match: re.Match[str]) -> str:
    run = match[0]
    digits = sum(character.isdigit() for character in run)
    is_one = 2 <= digits < len(run) or (digits == len(run) > 9)
    return REDACTED if is_one and not _ORDINARY.fullmatch(run) else run
