"""Planning of operations that depend on others which have not run yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar, cast

from pyinfra.api import deploy
from pyinfra.api.operation import OperationMeta
from pyinfra.context import ctx_state

P = ParamSpec("P")
R = TypeVar("R")


def step(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """pyinfra's ``deploy`` for one step of a runbook, with the types of the function that it wraps."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return cast(Callable[P, R], deploy(name)(function))

    return decorate


# The command that an operation yields in a plan when only the state at run time decides. It is never run.
DECIDED_AT_RUN_TIME = "true # known only while operations run"


def is_planning() -> bool:
    """Whether pyinfra is collecting a plan, not running operations."""
    return not ctx_state.get().is_executing


def will_follow(inputs: Iterable[OperationMeta]) -> bool:
    """Whether this is a plan in which one of the inputs will change, so that the operation has to run."""
    return is_planning() and any(each.will_change for each in inputs)
