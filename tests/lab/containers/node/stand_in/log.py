"""Log lines on standard output, in the shape of the real node's, filtered by RUST_LOG."""

from __future__ import annotations

import os
import sys
import time

LEVELS = ("off", "error", "warn", "info", "debug", "trace")
# The real one colours its lines whether or not a terminal reads them.
COLOURS = {"error": 31, "warn": 33, "info": 32, "debug": 34, "trace": 35}


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
        word = f"\x1b[{COLOURS[level]}m{level.upper():>5}\x1b[0m"
        print(f"\x1b[2m{stamp}\x1b[0m {word} \x1b[2mgevulot\x1b[0m\x1b[2m:\x1b[0m {message}", flush=True)


def notice(message: str) -> None:
    """A line that no filter takes out."""
    print(message, flush=True)


def panic(where: str, message: str) -> None:
    """What a Rust program writes on standard error when it panics."""
    hint = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace"
    print(f"\nthread 'main' panicked at {where}:\n{message}\n{hint}", file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """The reason of a failure, on standard error, whatever the filter."""
    print(f"Error: {message}", file=sys.stderr, flush=True)
