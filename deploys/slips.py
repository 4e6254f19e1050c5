"""Names that an operator mistyped: a key that is ignored is worse than one that is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Of 1: near enough that nobody means anything else by it.
_LIKENESS = 0.85


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that this one is, or is most likely a slip of; ``None`` when it is like none."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=_LIKENESS)), None)


def unknown(names: Iterable[str], known: Iterable[str], prefix: str) -> list[str]:
    """What is wrong with each name that has the prefix, or is like a known one, and is not known."""
    expected = list(known)
    told = []
    for name in names:
        slip = meant(name, expected)
        if name not in expected and (slip or name.startswith(prefix)):
            told.append(f"{name}: unknown" + (f"; did you mean {slip}?" if slip else ""))
    return told
