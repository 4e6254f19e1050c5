"""What a plan can say of operations that depend on others which have not run yet."""

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


# What an operation yields into a plan when only a later state decides. It is never run.
DECIDED_AT_RUN_TIME = "true # known only while operations run"


def is_planning() -> bool:
    """Whether pyinfra collects a plan now, as against running operations."""
    return not ctx_state.get().is_executing


def will_follow(inputs: Iterable[OperationMeta]) -> bool:
    """Whether this is a plan in which an operation has to follow, since one of its inputs is going to change."""
    return is_planning() and any(each.will_change for each in inputs)
