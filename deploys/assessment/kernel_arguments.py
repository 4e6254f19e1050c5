"""The kernel's arguments: those that a host needs, and those that defeat it or its node. Pure.

Each rule is the kernel's source. How a line is read: kernel/params.c (dashes and underscores in names are equal; the
kernel reads no further than `--`).
``iommu``: arch/x86/kernel/pci-dma.c. ``iommu.passthrough``: drivers/iommu/iommu.c. ``intel_iommu``:
drivers/iommu/intel/iommu.c. ``amd_iommu``: drivers/iommu/amd/init.c. ``intremap``, ``nointremap``:
drivers/iommu/irq_remapping.c. ``apic``, ``noapic``, ``nolapic``, ``disableapic``: arch/x86/kernel/apic (without an
IO APIC, ``enable_IR_x2apic`` leaves interrupt remapping off). ``nosmp``, ``maxcpus=0``: kernel/cpu.c, which switches
the IO APIC off. ``acpi``: arch/x86/kernel/acpi/boot.c. ``pci=off``: arch/x86/pci/common.c. ``nomodule``,
``module_blacklist``: kernel/module. ``initcall_blacklist``: init/main.c. ``modprobe.blacklist``: libkmod, and
systemd-modules-load with it. ``rd.driver.blacklist``, ``rd.driver.post``: dracut, which writes to /run/modprobe.d, so
that they outlast the initramfs.

Not in the table, because they do not defeat a node: ``iommu=soft``, ``intremap=nosid`` and ``nopost`` (remapping stays
on), ``pci=nommconf``, ``pci=nomsi``, ``nox2apic``, ``vfio-pci.disable_vga`` and ``disable_idle_d3``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from deploys.manifest import HOST_MODULES, MODULES
from facts.kernel import CommandLines
from pcibind.model.request import OFF

KERNEL_ARGUMENTS = {"DMAR": ("intel_iommu=on", "iommu=pt"), "IVRS": ("iommu=pt",)}
# The argument of gevulot_vfio_ids, whose value is the operator's.
IDS = "vfio-pci.ids"
OURS = tuple(dict.fromkeys(argument for arguments in KERNEL_ARGUMENTS.values() for argument in arguments))

_IOMMU = "it keeps the IOMMU off"
REMAPPING_OFF = (
    "switch it on in the firmware's setup; `journalctl -k -g 'AMD-Vi|DMAR-IR'` on the host says why the kernel left it "
    "off, as for a firmware whose table does not list the I/O APIC"
)
_REMAPPING = "it keeps interrupt remapping off, and without it VFIO refuses every board"
# What the modules are linked to: refused by the kernel, but loaded by modprobe whatever its blacklist says.
_BENEATH = ("vfio_pci_core", "vfio_virqfd", "irqbypass")
_BENEATH_NODE = ("vhost", "vhost_iotlb", "vmw_vsock_virtio_transport_common")
_KVM = {"vmx": "kvm_intel", "svm": "kvm_amd"}
_INITCALLS = (
    *("pci_iommu_init", "iommu_init", "vfio_init", "vfio_pci_init", "vfio_pci_core_init", "vfio_iommu_type1_init"),
    "kvm_x86_init",
)
_NODE_INITCALLS = ("vsock_init", "vhost_vsock_init")
_KVM_INITCALLS = {"vmx": ("vmx_init", "vt_init"), "svm": ("svm_init",)}
# As a number: word 4, bit 5, and word 6, bit 2, of the x86 features.
_FEATURES = {"vmx": ("vmx", "133"), "svm": ("svm", "194")}
_Off = Callable[[str, str, str, bool], None]
_UNIT = "pcibind"
_NODE_UNITS = tuple(f"gevulot-{name}" for name in ("node", "key", "firewall", "migrate", "postgres"))


@dataclass(frozen=True, slots=True)
class Defeat:
    """An argument, as it is spelt, that keeps a host from its work, and how. ``of_boards``: only one with boards."""

    argument: str
    why: str
    of_boards: bool = True

    def __str__(self) -> str:
        return f"{self.argument}: {self.why}"


def defeats(
    arguments: Iterable[str], table: str | None = None, virtualisation: str | None = None, *, node: bool = True
) -> tuple[Defeat, ...]:
    """Which arguments of a line keep a host from handing boards over, or its ``node`` from working, in their order.

    ``table`` is the firmware's IOMMU table (DMAR, IVRS), ``virtualisation`` the processor's flag (vmx, svm). Where they
    are ``None``, arguments that concern one vendor's are not judged.
    """
    defeats_by_subject: dict[str, Defeat] = {}
    processors = [virtualisation] if virtualisation in _KVM else []
    needed, beneath = modules_of(virtualisation, node=node)
    units = (_UNIT, *(_NODE_UNITS if node else ()))

    def off(subject: str, argument: str, why: str, of_boards: bool = True) -> None:
        defeats_by_subject.pop(subject, None)
        defeats_by_subject[subject] = Defeat(argument, why, of_boards)

    for argument, name, value in _parameters(arguments):
        tokens = (value or "").split(",")
        match name:
            case "iommu":
                for token in _iommu(tokens):
                    if token.startswith("off"):
                        off("iommu", argument, f"{_IOMMU}, whatever comes after it")
            case "intel_iommu" if table == "DMAR":
                for token in tokens:
                    if token.startswith("on"):
                        defeats_by_subject.pop("intel_iommu", None)
                    elif token.startswith("off"):
                        off("intel_iommu", argument, _IOMMU)
            case "amd_iommu" if table == "IVRS" and any(token.startswith("off") for token in tokens):
                off("amd_iommu", argument, f"{_IOMMU}, whatever comes after it")
            case "nointremap":
                off("intremap", argument, _REMAPPING)
            case "intremap":
                for token in tokens:
                    if token.startswith("on"):
                        defeats_by_subject.pop("intremap", None)
                    elif token.startswith("off"):
                        off("intremap", argument, _REMAPPING)
            case "noapic" | "nosmp":
                off("ioapic", argument, f"it switches the IO APIC off, and so {_REMAPPING}")
            case "maxcpus" if value is not None and _is_zero(value):
                off("ioapic", argument, f"it switches the IO APIC off, and so {_REMAPPING}")
            case "apic" if value is None:
                defeats_by_subject.pop("ioapic", None)
            case "disableapic" | "nolapic":
                off("lapic", argument, _REMAPPING)
            case "acpi" if value == "off":
                off("acpi", argument, "without ACPI the kernel finds no IOMMU")
            case "acpi" if value == "force":
                defeats_by_subject.pop("acpi", None)
            case "pci" if "off" in tokens:
                off("pci", argument, "it switches PCI off")
            case "nomodule":
                off("nomodule", argument, "the kernel loads no module", False)
                if _bool(value) is False:
                    defeats_by_subject.pop(name)
            case "module_blacklist":
                # The last one replaces those before; names are compared letter by letter.
                defeats_by_subject.pop(name, None)
                _blacklisted(tokens, (*needed, *beneath), argument, name, off)
            case "modprobe.blacklist" | "rd.driver.blacklist" | "rd.driver.post":
                names = [token.replace("-", "_") for token in tokens]
                _blacklisted(names, needed, argument, f"{name} {argument}", off)
            case "initcall_blacklist":
                calls = [*_INITCALLS, *(_NODE_INITCALLS if node else ())]
                calls += [call for each in processors for call in _KVM_INITCALLS[each]]
                _blacklisted(tokens, calls, argument, f"{name} {argument}", off)
            case "clearcpuid" if any(token in _FEATURES[each] for token in tokens for each in processors):
                off("clearcpuid", argument, "it takes hardware virtualisation from the processor", False)
            case "systemd.unified_cgroup_hierarchy" if node:
                defeats_by_subject.pop(name, None)
                if _bool(value) is False:
                    off(name, argument, "the node's firewall needs cgroups version 2", False)
            case "pcibind" if argument == OFF:
                off("pcibind", argument, "pcibind takes no board at such a boot, and what uses the boards is skipped")
            case "systemd.mask" if (value or "").removesuffix(".service") in units:
                off(f"{name} {value}", argument, "systemd does not start that unit", False)
    return tuple(defeats_by_subject.values())


def lacking(arguments: Iterable[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Which of the arguments that a host needs do not hold on a line."""
    given = list(_parameters(arguments))
    return tuple(each for each in wanted if not _holds(given, *each.partition("=")[::2]))


def effective(arguments: Iterable[str], wanted: tuple[str, ...], *, node: bool = True) -> bool:
    """Whether the wanted arguments hold on a line, and none defeats them."""
    line = tuple(arguments)
    return not lacking(line, wanted) and not defeats(line, table_of(wanted), node=node)


def holds(lines: CommandLines, wanted: tuple[str, ...], *, node: bool = True) -> tuple[bool, bool]:
    """Whether the wanted arguments hold: in the running kernel, and in what the boot loader starts next."""
    live = effective(lines.live, wanted, node=node)
    return live, bool(lines.next) and all(effective(line, wanted, node=node) for line in lines.next)


def table_of(wanted: Iterable[str]) -> str | None:
    """The firmware's table that arguments are wanted for."""
    given = set(wanted)
    return next((name for name, needed in KERNEL_ARGUMENTS.items() if set(needed) <= given), None)


def is_ids(argument: str) -> bool:
    """Whether an argument gives models to vfio-pci; the kernel takes both spellings."""
    return argument.replace("_", "-").partition("=")[0] == IDS


def added(line: Iterable[str], before: Iterable[str], recorded: tuple[str, ...] | None = None) -> list[str]:
    """The arguments of a command line that a deploy gave it, and that were not on it before.

    ``recorded`` are those that deploys set by the host's record. Earlier versions kept none (``None``).
    """
    known = set(before)
    return [
        each
        for each in line
        if each not in known and (each in recorded if recorded is not None else each in OURS or is_ids(each))
    ]


def _holds(given: list[tuple[str, str, str | None]], name: str, wanted: str) -> bool:
    state: str | None = None
    key = _spelt(name)
    for _, each, value in given:
        if key == "iommu" and wanted == "pt":
            if each == "iommu":
                for token in _iommu((value or "").split(",")):
                    state = "pt" if token.startswith("pt") else None if token.startswith("nopt") else state
            elif each == "iommu.passthrough" and (passes := _bool(value)) is not None:
                state = "pt" if passes else None
        elif key == each == "intel_iommu":
            for token in (value or "").split(","):
                state = "on" if token.startswith("on") else "off" if token.startswith("off") else state
        elif each == key:
            state = value
    return state == wanted


def _iommu(tokens: Iterable[str]) -> Iterator[str]:
    """The kernel reads no further than ``usedac``."""
    for token in tokens:
        yield token
        if token.startswith("usedac"):
            return


def _blacklisted(names: list[str], needed: Iterable[str], argument: str, subject: str, off: _Off) -> None:
    if hit := [name for name in names if name in set(needed)]:
        of_boards = all("vsock" not in name and "kvm" not in name for name in hit)
        off(subject, argument, f"it keeps {', '.join(dict.fromkeys(hit))} from running, which is needed", of_boards)


def modules_of(virtualisation: str | None, *, node: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules that a host, or a ``node`` on it, needs by name, and those that they are linked to."""
    processors = (_KVM[virtualisation],) if virtualisation in _KVM else ()
    if not node:
        return (*HOST_MODULES, *processors), _BENEATH
    return (*MODULES, *processors), (*_BENEATH, *_BENEATH_NODE)


def _parameters(arguments: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """Each argument as it is spelt, its name with underscores, and its value. Quotes are the kernel's own."""
    for argument in arguments:
        bare = argument[1:].removesuffix('"') if argument.startswith('"') else argument
        if bare == "--":
            return
        name, sign, value = bare.partition("=")
        value = value[1:].removesuffix('"') if value.startswith('"') else value
        yield argument, _spelt(name), value if sign else None


def _spelt(name: str) -> str:
    return name.replace("-", "_")


def _is_zero(value: str) -> bool:
    try:
        return int(value, 0) == 0
    except ValueError:
        return False


def _bool(value: str | None) -> bool | None:
    """As kstrtobool reads it, and systemd."""
    if value is None or value[:1] in ("y", "Y", "1", "t", "T") or value[:2].lower() == "on":
        return True
    if value[:1] in ("n", "N", "0", "f", "F") or value[:2].lower() == "of":
        return False
    return None
