"""Names out of the text of pci.ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from facts import pciids
from facts.pciids import PciNames

TEXT = """\
# Syntax:
# vendor  vendor_name

10de  NVIDIA Corporation
\t2684  AD102 [GeForce RTX 4090]
\t\t10de 16f4  GeForce RTX 4090 Founders Edition
\t22ba  AD102 High Definition Audio Controller
8086  Intel Corporation
\t10d3  82574L Gigabit Network Connection
C 03  Display controller
\t00  VGA compatible controller
\t\t00  VGA controller
"""


def test_vendors_devices_and_subsystems_have_names() -> None:
    names = PciNames(TEXT.splitlines(keepends=True))
    assert names.vendor(0x10DE) == "NVIDIA Corporation"
    assert names.device(0x10DE, 0x2684) == "AD102 [GeForce RTX 4090]"
    assert names.subsystem(0x10DE, 0x2684, 0x10DE, 0x16F4) == "GeForce RTX 4090 Founders Edition"
    assert names.device(0x8086, 0x10D3) == "82574L Gigabit Network Connection"


def test_classes_are_no_devices() -> None:
    names = PciNames(TEXT.splitlines())
    assert names.device(0x8086, 0x0000) is None
    assert names.vendor(0xC03) is None


def test_what_is_not_known_has_no_name() -> None:
    assert (PciNames().vendor(0x10DE), PciNames().device(1, 2), PciNames().subsystem(1, 2, 3, 4)) == (None, None, None)


def test_the_database_is_found_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pci.ids").write_text(TEXT)
    monkeypatch.setenv("PCI_IDS", str(tmp_path / "pci.ids"))
    pciids.installed.cache_clear()
    try:
        assert pciids.installed().vendor(0x8086) == "Intel Corporation"
    finally:
        pciids.installed.cache_clear()
