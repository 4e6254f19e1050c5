"""What changes a host: every custom operation, with the programs that it runs there."""
