"""A host's PCI seen from afar: what only remote facts use."""
