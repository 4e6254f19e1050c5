"""A refusal: what must not be done to a board, and the way out."""

from __future__ import annotations

from typing import NamedTuple

from pcibind.model import Address


class Refusal(NamedTuple):
    """Why a board is not taken: the guard's name, what was found, and what to do next.

    `address` is the function that the guard speaks of, or None when it speaks of the host.
    """

    board: str
    guard: str
    address: Address | None
    found: str
    remedy: str

    def __str__(self) -> str:
        where = f" ({self.address})" if self.address else ""
        return f"board {self.board}{where}: {self.guard}: {self.found}. {self.remedy}"
