"""Detect mistyped keys, and suggest the intended one: a key that is ignored is worse than one that is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Similarity (0 to 1) above which we assume a typo.
_LIKENESS = 0.85


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name that this one equals or is most likely a typo of; ``None`` when none is similar."""
    names = {each.lower().replace("-", "_"): each for each in known}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(names), n=1, cutoff=_LIKENESS)
    return names[close[0]] if close else None


def find_unknown(names: Iterable[str], known: Iterable[str], prefix: str) -> list[str]:
    """A problem for each unknown name that has the prefix or resembles a known one."""
    expected = list(known)
    problems = []
    for name in names:
        typo = suggest(name, expected) if isinstance(name, str) else None
        if name not in expected and (typo or str(name).startswith(prefix)):
            problems.append(f"{name}: unknown" + (f"; did you mean {typo}?" if typo else ""))
    return problems
