"""Facts: what is on a node, read in one remote command each."""
