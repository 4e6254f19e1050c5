"""Which arguments of a kernel's line a node needs, and which defeat it, as the kernel's source reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys.assessment.kernel_arguments import defeats, effective, lacking

INTEL = ("intel_iommu=on", "iommu=pt")


def against(line: str, table: str = "DMAR", virtualisation: str = "vmx") -> list[str]:
    return [each.argument for each in defeats(line.split(), table, virtualisation)]


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("intel_iommu=on iommu=pt", True),
        ("iommu=pt quiet intel_iommu=off intel_iommu=on", True),
        ("intel_iommu=on iommu=pt intel_iommu=off", False),
        ("intel_iommu=on,sm_on iommu=pt", True),
        ("intel_iommu=sm_on,off,on iommu=merge,pt", True),
        ("intel_iommu=on,off iommu=pt", False),
        ("intel_iommu=on", False),
        ("iommu=off intel_iommu=on iommu=pt", False),
        ("intel_iommu=on iommu=pt iommu=off", False),
        ("intel_iommu=on iommu=pt,off", False),
        ("intel_iommu=on iommu=soft iommu=pt", True),
        ("intel_iommu=on iommu=pt iommu=soft", True),
        ("intel_iommu=on iommu=pt iommu=nopt", False),
        ("intel_iommu=on iommu=pt iommu.passthrough=0", False),
        ("intel_iommu=on iommu.passthrough=0 iommu=pt", True),
        ("intel-iommu=on iommu=pt", True),
        ('intel_iommu="on" "iommu=pt"', True),
        ("-- intel_iommu=on iommu=pt", False),
        ("intel_iommu=on iommu=pt -- intel_iommu=off iommu=off", True),
        ("intel_iommu=on iommu=pt amd_iommu=off", True),
        ("intel_iommu=on iommu=pt intremap=off", False),
        ("", False),
    ],
)
def test_the_arguments_hold_as_the_kernel_reads_the_line(line: str, holds: bool) -> None:
    assert effective(line.split(), INTEL) is holds


@pytest.mark.parametrize(
    "line",
    [
        "iommu=off",
        "iommu=off iommu=pt",
        "iommu=soft,off",
        "intel_iommu=off",
        "intel-iommu=off",
        "intel_iommu=on intel_iommu=sm_on,off",
        "intremap=off",
        "intremap=on,off",
        "intremap=nosid,off",
        "nointremap",
        "intremap=on nointremap",
        "noapic",
        "apic=debug noapic",
        "nolapic",
        "disableapic",
        "nosmp",
        "maxcpus=0",
        "acpi=off",
        "pci=off",
        "nomodule",
        "nomodule=1",
        "module_blacklist=vfio_pci",
        "module_blacklist=nouveau,vfio_pci_core",
        "module-blacklist=kvm_intel",
        "modprobe.blacklist=vfio-pci",
        "modprobe.blacklist=kvm",
        "modprobe.blacklist=nouveau,vhost_vsock",
        "rd.driver.blacklist=nouveau,vfio_iommu_type1",
        "rd.driver.post=vfio_pci",
        "initcall_blacklist=vfio_pci_init",
        "initcall_blacklist=sysfb_init,pci_iommu_init",
        "initcall_blacklist=vmx_init",
        "clearcpuid=vmx",
        "clearcpuid=514,133",
        "systemd.unified_cgroup_hierarchy=0",
        "systemd.unified_cgroup_hierarchy=no",
        "pcibind=off",
        "pcibind=off pcibind=off",
        "systemd.mask=pcibind.service",
        "systemd.mask=gevulot-node",
        "systemd.mask=gevulot-migrate.service",
    ],
)
def test_what_defeats_a_node_is_found_and_named_as_it_is_spelt(line: str) -> None:
    assert against(line) == [line.split()[-1] if line != "iommu=off iommu=pt" else "iommu=off"]


@pytest.mark.parametrize(
    "line",
    [
        "iommu=soft",
        "iommu=usedac,off",
        "intel_iommu=off intel_iommu=on",
        "intel_iommu=igfx_off,sm_off",
        "intel_iommu=tboot_noforce",
        "amd_iommu=off",
        "intremap=off intremap=on",
        "nointremap intremap=on",
        "intremap=nosid",
        "intremap=no_x2apic_optout,nopost",
        "noapic apic",
        "nox2apic",
        "maxcpus=1",
        "acpi=off acpi=force",
        "acpi=strict",
        "pci=nommconf",
        "pci=nomsi,noats",
        "nomodule=0",
        "nomodule nomodule=0",
        "module_blacklist=vfio_pci module_blacklist=nouveau",
        # The kernel compares letter by letter, and its names have underscores.
        "module_blacklist=vfio-pci",
        "module_blacklist=vfio_pci_x,nvidia",
        "module_blacklist=kvm_amd",
        "modprobe.blacklist=kvm_amd,nouveau",
        # modprobe loads what a module is linked to whatever its blacklist says.
        "modprobe.blacklist=vfio_pci_core",
        "rd.driver.blacklist=nouveau,nova_core",
        "initcall_blacklist=sysfb_init",
        "clearcpuid=514",
        "vfio-pci.disable_vga=1 vfio_pci.disable_idle_d3=1",
        "vfio-pci.ids=1000:0072",
        "systemd.unified_cgroup_hierarchy=1",
        "systemd.mask=other.service",
        "pcibind=on pcibind=offline",
        "quiet root=/dev/mapper/iommu=off",
        'dyndbg="file iommu.c +p"',
        "-- iommu=off intremap=off",
        "xiommu=off iommux=off",
    ],
)
def test_what_does_not_defeat_a_node_is_left_alone(line: str) -> None:
    assert against(line) == []


@pytest.mark.parametrize("line", ["amd_iommu=off", "amd_iommu=fullflush,off", "amd-iommu=off"])
def test_the_switch_of_amds_iommu_counts_where_the_firmware_has_that_one(line: str) -> None:
    assert against(line, "IVRS", "svm") == [line]
    assert against(line, "DMAR", "vmx") == []


def test_the_switch_of_intels_iommu_does_not_count_on_an_amd_host() -> None:
    assert against("intel_iommu=off", "IVRS", "svm") == []


def test_a_later_amd_iommu_does_not_undo_an_earlier_one() -> None:
    assert against("amd_iommu=off amd_iommu=on amd_iommu=fullflush", "IVRS", "svm") == ["amd_iommu=off"]


def test_several_defeats_are_all_named() -> None:
    assert against("iommu=off quiet intremap=off modprobe.blacklist=kvm modprobe.blacklist=vfio") == [
        "iommu=off", "intremap=off", "modprobe.blacklist=kvm", "modprobe.blacklist=vfio",
    ]  # fmt: skip


def test_models_for_vfio_hold_whatever_the_spelling_of_the_module() -> None:
    assert lacking(["vfio_pci.ids=10de:2684"], ["vfio-pci.ids=10de:2684"]) == ()
    assert lacking(["vfio-pci.ids=10de:2684", "vfio-pci.ids=1:2"], ["vfio-pci.ids=10de:2684"]) != ()


@given(st.lists(st.text(max_size=20), max_size=8))
def test_no_line_breaks_the_reading(line: list[str]) -> None:
    defeats(line, "DMAR", "vmx")
    lacking(line, INTEL)
