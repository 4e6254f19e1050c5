"""Writes: drivers, the record's consequences, the hand-over, and what a boot needs."""
