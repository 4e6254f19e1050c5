"""What each command does, and what commands share (boot, restoration, system)."""
