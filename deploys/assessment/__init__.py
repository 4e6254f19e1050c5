"""What a host's state means. Pure: each rule once, for preflight, table, undo and fleet."""
