"""Log lines on standard output, in the shape of the real node's, filtered by RUST_LOG."""

from __future__ import annotations

import os
import sys
import time

LEVELS = ("off", "error", "warn", "info", "debug", "trace")


def threshold(directives: str) -> int:
    """The level that RUST_LOG gives to the target `gevulot`; `info` where it says nothing.

    Loose: `level`, `target=level` and commas. Other targets' directives are not ours.
    """
    default = own = None
    for directive in directives.split(","):
        target, equals, level = directive.strip().lower().rpartition("=")
        if level in LEVELS:
            if target.split("::")[0] in ("gevulot", "gevulot_node"):
                own = LEVELS.index(level)
            elif not equals:
                default = LEVELS.index(level)
    chosen = own if own is not None else default
    return LEVELS.index("info") if chosen is None else chosen


_THRESHOLD = threshold(os.environ.get("RUST_LOG", ""))


def log(level: str, message: str) -> None:
    """One line, flushed, so that a journal has it when the next thing fails."""
    if LEVELS.index(level) <= _THRESHOLD:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(f"{stamp} {level.upper():>5} gevulot: {message}", flush=True)


def notice(message: str) -> None:
    """A line that no filter takes out."""
    print(message, flush=True)


def complain(message: str) -> None:
    """The reason of a failure, on standard error, whatever the filter."""
    print(f"Error: {message}", file=sys.stderr, flush=True)
