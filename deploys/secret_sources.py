"""Where an operator's secrets come from, read when a deploy needs them and not when an inventory is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable


def from_environment(variable: str) -> Callable[[], str]:
    """A secret in an environment variable. The function raises ``LookupError`` when it is not set."""

    def read_variable() -> str:
        try:
            return os.environ[variable]
        except KeyError:
            raise LookupError(f"the environment variable {variable} is not set; export it first") from None

    return read_variable


def from_file(path: str) -> Callable[[], str]:
    """A secret that is the first line of a file on the operator's machine. The function raises ``OSError``."""

    def read_file() -> str:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\n")

    return read_file
