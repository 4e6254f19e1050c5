"""One module a command: read, decide, change, report."""
