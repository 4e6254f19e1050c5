"""Short programs that run on a host, sent along with the command that runs them."""

from __future__ import annotations

from pathlib import Path
from shlex import quote


def python(script: str, *arguments: str) -> str:
    """The command that runs ``script`` (a file of this folder) with the node's Python and these arguments."""
    words = ["python3", "-I", "-c", _text(script), *arguments]
    return " ".join(quote(word) for word in words)


def shell(script: str, *arguments: str) -> str:
    """The command that runs ``script`` (a file of this folder) with the node's POSIX shell and these arguments."""
    words = ["sh", "-c", _text(script), script, *arguments]
    return " ".join(quote(word) for word in words)


def _text(script: str) -> str:
    return (Path(__file__).parent / script).read_text(encoding="utf-8")
