"""A refusal: what must not be done to a board, and the way out."""

from __future__ import annotations

from typing import NamedTuple

from pcibind.model.pci import Address
from pcibind.model.request import OVERRIDABLE_GUARDS


class Refusal(NamedTuple):
    """Why a board is not taken: the guard's name, what was found, and what to do next.

    `address` is the function that the guard speaks of, or None when it speaks of the host.
    """

    board: str
    guard: str
    address: Address | None
    found: str
    remedy: str

    @property
    def is_overridable(self) -> bool:
        """Whether a configuration may allow it."""
        return self.guard in OVERRIDABLE_GUARDS

    @property
    def advice(self) -> str:
        """The remedy, and where there is an override, how the configuration says it."""
        if not self.is_overridable:
            return self.remedy
        return f'{self.remedy}; or, to accept it, add "{self.guard}" to the board\'s allow list'

    @property
    def finding(self) -> str:
        """What was found, without what to do."""
        where = f" ({self.address})" if self.address else ""
        return f"board {self.board}{where}: {self.guard}: {self.found}"

    def __str__(self) -> str:
        return f"{self.finding}. {self.advice}"
