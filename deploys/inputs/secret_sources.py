"""Sources of secrets, read when a deploy needs them and not when an inventory is loaded."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any


class SecretError(LookupError):
    """Why a secret cannot be read. The text holds nothing of the secret."""


def from_environment(variable: str) -> Callable[[], str]:
    """A secret in an environment variable. The function raises ``SecretError`` when it is not set."""

    def read_variable() -> str:
        try:
            return os.environ[variable]
        except KeyError:
            raise SecretError(f"the environment variable {variable} is not set; export it first") from None

    return read_variable


def from_file(path: str) -> Callable[[], str]:
    """A secret that is the first line of a file on the operator's machine. The function raises ``SecretError``."""

    def read_file() -> str:
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                return file.readline().rstrip("\n")
        except OSError as error:
            raise SecretError(f"{error.strerror}: {error.filename!r}; expected a file that you can read") from None
        except ValueError:
            raise SecretError(f"{path!r} holds no text; expected UTF-8") from None

    return read_file


def call(value: Any) -> Any:
    """A secret, or what the function returns that stands in its place.

    Raises ``ValueError``. An exception of the operator's function is reported by its type only: its text may quote the
    secret, or a command that holds it.
    """
    if not callable(value):
        return value
    try:
        secret = value()
    except SecretError as error:
        raise ValueError(f"the secret could not be read: {error}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"the secret could not be read: its function raised {_kind(error)}; call it by itself"
        ) from None
    if not isinstance(secret, str):
        raise ValueError(f"the secret could not be read: its function returned {_named(secret)}; expected text")
    return secret


def _named(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _kind(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"CalledProcessError (exit status {error.returncode})"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__} ({os.strerror(error.errno)})"
    return type(error).__name__
