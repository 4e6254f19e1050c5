"""The kernel's arguments that a host with boards needs."""

from __future__ import annotations

KERNEL_ARGUMENTS = {"DMAR": ("intel_iommu=on", "iommu=pt"), "IVRS": ("iommu=pt",)}
"""By the firmware's table of the IOMMU."""
