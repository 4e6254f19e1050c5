"""The fleet: what is known of all nodes, in one document."""
