"""Whether a host needs a reboot, from its live state alone."""

from __future__ import annotations

import pytest

from deploys.assessment.pending_reboot import pending
from facts.kernel import CommandLines
from pcibind.remote import topology_text
from tests.unit.deploys.recorded import BOUND, gpu, topology

ON = CommandLines(("ro", "intel_iommu=on", "iommu=pt"), ())
OFF = CommandLines(("ro", "intel_iommu=off"), ())
ARGUMENTS = ("intel_iommu=on", "iommu=pt")
BOARD = "0000:00/01.0/00"


def reasons(lines: CommandLines, *drivers: str | None, group: int | None = 12, boards: tuple[str, ...] = (BOARD,)) -> \
        list[str]:  # fmt: skip
    return pending(lines, ARGUMENTS, topology_text.parse(topology(*gpu(1, 1, drivers=drivers, group=group))), boards)


def test_nothing_is_pending_when_the_board_is_bound() -> None:
    assert reasons(ON, *BOUND) == []


@pytest.mark.parametrize("driver", [None, "snd_hda_intel", "xhci_hcd", "serial"])
def test_a_driver_that_lets_go_needs_no_reboot(driver: str | None) -> None:
    assert reasons(ON, None, driver) == []


def test_a_kernel_without_the_arguments_is_a_reason() -> None:
    assert reasons(OFF, *BOUND) == ["the kernel does not run with intel_iommu=on iommu=pt"]


def test_an_argument_that_a_following_one_overrules_is_a_reason() -> None:
    lines = CommandLines((*ON.live, "intel_iommu=off"), ())
    assert reasons(lines, *BOUND) == ["the kernel does not run with intel_iommu=on iommu=pt"]


def test_a_board_without_an_iommu_group_is_a_reason() -> None:
    assert reasons(ON, "vfio-pci", "vfio-pci", group=None) == ["board 0000:01:00.0 has no IOMMU group"]


@pytest.mark.parametrize("driver", ["nvidia", "nouveau", "nova_core"])
def test_a_driver_that_holds_on_is_a_reason(driver: str) -> None:
    assert reasons(ON, driver, "snd_hda_intel") == [f"0000:01:00.0 is held by {driver}"]


def test_all_reasons_are_listed() -> None:
    assert len(reasons(OFF, "nouveau", None, group=None)) == 3


def test_a_node_without_boards_needs_no_reboot() -> None:
    assert reasons(OFF, "nouveau", None, group=None, boards=()) == []


def test_a_board_that_is_not_there_is_no_reason() -> None:
    assert reasons(ON, *BOUND, boards=("0000:00/09.0/00",)) == []
