"""What things are: PCI, what is requested, what is on record, what a command reports. Pure."""
