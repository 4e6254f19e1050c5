"""Which hosts are nodes."""
