"""What each command does: read, decide, change, report; and what commands share (boot, system)."""
