"""Every custom operation: what changes a host."""
