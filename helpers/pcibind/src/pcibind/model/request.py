"""Requests and refusals.

Boards by selector, overridden guards, how many must be present; and why a board is refused.
"""

from __future__ import annotations

from pcibind.model.pci import Address, parse_board_path, parse_model
from pcibind.model.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    SelectorKind = Literal["address", "path", "model"]
    RequireBoards = Literal["all", "any"]

SELECTOR_KINDS: tuple[SelectorKind, ...] = ("address", "path", "model")

OVERRIDABLE_GUARDS = (
    "default-route",
    "ssh",
    "network",
    "disk",
    "boot-display",
    "framebuffer",
    "virtual-functions",
    "nvidia-open",
    "device-open",
    "class",
    "no-response",
    "reserved-memory",
    "unassigned-memory",
)
"""The guards that `allow` may name. An open VFIO group is not among them."""


VFIO_OPEN = "vfio-open"
"""The guard of a board that is in use through VFIO, which has no override."""

OFF = "pcibind=off"
"""On the kernel command line: take no board at this boot."""


class Selector(NamedTuple):
    """How a board is named: by a function's address, by its path, or by its display's model."""

    kind: SelectorKind
    value: str

    @classmethod
    def of(cls, kind: SelectorKind, value: str) -> Selector:
        """Check and normalise; raise ValueError for a value that is not of that kind."""
        match kind:
            case "address":
                return cls(kind, str(Address.parse(value)))
            case "path":
                return cls(kind, parse_board_path(value))
            case "model":
                return cls(kind, parse_model(value))

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Recognise the kind by the form of the text; raise ValueError when it is of none."""
        for kind in SELECTOR_KINDS:
            try:
                return cls.of(kind, text)
            except ValueError:
                continue
        raise ValueError(
            f"{text!r} names no board: expected an address (01:00.0), a path "
            "(0000:00/01.0/00) or a model (10de:2684)"
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class BoardRequest(NamedTuple):
    """One `[[board]]`: a selector, the guards it overrides, and where it was written."""

    selector: Selector
    name: str | None = None
    allow: frozenset[str] = frozenset()
    source: str = "request"


class Configuration(NamedTuple):
    """All requests. `require_boards` says whether every board must be bound, or one is enough."""

    boards: tuple[BoardRequest, ...]
    require_boards: RequireBoards = "all"


class Refusal(NamedTuple):
    """Why a board is refused: the guard's name, what was found, and the next step.

    `address` is the function that the guard refers to, or None when it refers to the host.
    """

    board: str
    guard: str
    address: Address | None
    found: str
    remedy: str

    @classmethod
    def of_use(cls, board: str, address: Address | None, found: str) -> Refusal:
        """Refuse a board that is in use through VFIO."""
        remedy = "Stop what uses it, then try again; this guard has no override"
        return cls(board, VFIO_OPEN, address, found, remedy)

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
