"""Bind whole PCI boards to vfio-pci, check the result, and publish the devices to use."""

__version__ = "0.2.0"
