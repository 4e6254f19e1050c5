"""How long something takes, in words."""

from __future__ import annotations

_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def in_words(seconds: float) -> str:
    """A time in the largest unit of which it has at least two: ``84 s``, ``12 min``, ``30 h``, ``4 d``."""
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
