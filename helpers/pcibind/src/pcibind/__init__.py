"""Hand whole PCI boards to vfio-pci, prove it, and tell other units which devices to use."""

__version__ = "0.2.0"
