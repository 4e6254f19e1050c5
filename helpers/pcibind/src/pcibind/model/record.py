"""The record of chosen boards and their original drivers: written before anything is changed."""

from __future__ import annotations

import json
import re
from enum import StrEnum

from pcibind.model.errors import RecordError
from pcibind.model.pci import Address, Board, Function, Identity, Topology
from pcibind.model.request import SELECTOR_KINDS, Selector
from pcibind.model.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pcibind.model.request import RequireBoards

VERSION = 1

REBUILD = "update-initramfs -u -k all` or `dracut --regenerate-all --force"
"""The commands that rebuild an initramfs, for text that quotes them."""


class RecordedFunction(NamedTuple):
    """A function's number and identity, and its driver and override from before pcibind."""

    number: int
    identity: Identity
    driver: str | None
    driver_override: str | None


class RecordedBoard(NamedTuple):
    """A chosen board. `address` is where it was when chosen, for people only: it may change.

    `twins` are the paths of boards of the same functions that were there too: none of those is
    this one, moved.
    """

    name: str | None
    selector: Selector
    path: str
    address: Address
    functions: tuple[RecordedFunction, ...]
    twins: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        board: Board,
        selector: Selector,
        name: str | None,
        topology: Topology | None = None,
    ) -> RecordedBoard:
        """Record a board as it is now, on a host of this topology."""
        there = [b for b in topology.boards() if not b.is_virtual] if topology else ()
        twins = (each.path for each in there if each.identities == board.identities)
        return cls(
            name,
            selector,
            board.path,
            board.address,
            tuple(
                RecordedFunction(f.number, f.identity, f.driver, f.driver_override)
                for f in board.functions
            ),
            tuple(path for path in twins if path != board.path),
        )

    @property
    def label(self) -> str:
        """Its name, or else its path."""
        return self.name or self.path

    @property
    def identities(self) -> dict[int, Identity]:
        """What each function is, by function number."""
        return {function.number: function.identity for function in self.functions}

    def pair(self, board: Board) -> list[tuple[Function, RecordedFunction]]:
        """Those functions of a board that are what was recorded, each with its record."""
        return [
            (function, old)
            for function in board.functions
            if (old := self.function(function.number)) and old.identity == function.identity
        ]

    def function(self, number: int) -> RecordedFunction | None:
        """The function of that number, or None."""
        return next((f for f in self.functions if f.number == number), None)


class Record(NamedTuple):
    """All chosen boards, and whether each of them must be there.

    `leaving` are boards that are no longer chosen, but not yet back on their drivers: the next boot
    gives them back.
    """

    boards: tuple[RecordedBoard, ...] = ()
    require_boards: RequireBoards = "all"
    leaving: tuple[RecordedBoard, ...] = ()

    def board(self, path: str) -> RecordedBoard | None:
        """The board recorded at a path, or None."""
        return next((board for board in self.boards if board.path == path), None)


class Verdict(StrEnum):
    """How a board that is wanted compares with what is plugged in."""

    PRESENT = "present"
    MOVED = "moved"
    REPLACED = "replaced"
    ABSENT = "absent"
    EXTRA_FUNCTION = "extra-function"


class Resolution(NamedTuple):
    """One wanted board: what it was asked for by, how it is recorded, and where it is.

    `board` is the board to bind, and None unless the verdict is PRESENT. `recorded` is None for a
    board that was not chosen before. `detail` says what was found, what was expected, what to do.
    """

    selector: Selector
    name: str | None
    allow: frozenset[str]
    verdict: Verdict
    board: Board | None
    recorded: RecordedBoard | None
    detail: str = ""

    @property
    def label(self) -> str:
        """Its name, or else its path, or else its selector."""
        if self.name:
            return self.name
        if self.board:
            return self.board.path
        return self.recorded.label if self.recorded else str(self.selector)


def compare(board: Board | None, recorded: RecordedBoard) -> Verdict:
    """Compare the board at a recorded board's place with it."""
    if board is None:
        return Verdict.ABSENT
    if board.identities == recorded.identities:
        return Verdict.PRESENT
    known = {n: i for n, i in board.identities.items() if n in recorded.identities}
    return Verdict.EXTRA_FUNCTION if known == recorded.identities else Verdict.REPLACED


def dump(record: Record) -> str:
    """The record as JSON text."""
    document = {
        "version": VERSION,
        "require_boards": record.require_boards,
        "boards": [_board_json(board) for board in record.boards],
        "leaving": [_board_json(board) for board in record.leaving],
    }
    return json.dumps(document, indent=2) + "\n"


def parse(text: str) -> Record:
    """Read what `dump` wrote; raise RecordError for anything else."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"version is {document['version']!r}, expected {VERSION}")
        require = document["require_boards"]
        if require not in ("all", "any"):
            raise ValueError(f"require_boards is {require!r}")
        boards, leaving = (
            tuple(_board(item) for item in items)
            for items in (document["boards"], document.get("leaving", []))
        )
        return Record(boards, require, leaving)
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordError(str(error)) from error
    except KeyError as error:
        raise RecordError(f"{error.args[0]} is missing") from error


def early_list(record: Record) -> str:
    """The list for the early script: a line for each function.

    `PATH VENDOR DEVICE SUBVENDOR SUBDEVICE CLASS`, the numbers as sysfs prints them, so that a
    shell compares text only.
    """
    return "".join(
        f"{board.path}.{function.number:x} {identity.vendor:#06x} {identity.device:#06x} "
        f"{identity.subsystem_vendor:#06x} {identity.subsystem_device:#06x} "
        f"{identity.class_code:#08x}\n"
        for board in record.boards
        for function in board.functions
        for identity in (function.identity,)
    )


def _board_json(board: RecordedBoard) -> dict[str, object]:
    return {
        "name": board.name,
        "selector": board.selector._asdict(),
        "path": board.path,
        "address": str(board.address),
        "functions": [
            {
                "number": function.number,
                **function.identity.to_json(),
                "original_driver": function.driver,
                "original_driver_override": function.driver_override,
            }
            for function in board.functions
        ],
        "twins": list(board.twins),
    }


# A driver's name becomes part of a path in sysfs, where it has no slash; an override is a line.
_DRIVER = re.compile(r"(?!\.{1,2}$)[^/\n\0]+")
_OVERRIDE = re.compile(r"[^\n\0]+")


def _board(item: dict[str, object]) -> RecordedBoard:
    selector = item["selector"]
    functions = item["functions"]
    name = item["name"]
    if not isinstance(selector, dict) or selector["kind"] not in SELECTOR_KINDS:
        raise ValueError(f"selector is {selector!r}")
    if not isinstance(functions, list) or not functions:
        raise ValueError(f"functions is {functions!r}")
    if name is not None and not isinstance(name, str):
        raise ValueError(f"name is {name!r}")
    return RecordedBoard(
        name,
        Selector.of(selector["kind"], str(selector["value"])),
        Selector.of("path", str(item["path"])).value,
        Address.parse(str(item["address"])),
        tuple(_function(function) for function in functions),
        # What is no board's path, as that of a virtual function, is no place of a board either.
        tuple(str(path) for path in _list(item.get("twins", []))),
    )


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return value


def _function(item: dict[str, object]) -> RecordedFunction:
    number = item["number"]
    if not isinstance(number, int) or not 0 <= number <= 7:
        raise ValueError(f"function number is {number!r}")
    keys = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
    return RecordedFunction(
        number,
        Identity(*(int(str(item[key]), 16) for key in keys)),
        _driver(item["original_driver"]),
        _override(item["original_driver_override"]),
    )


def _driver(value: object) -> str | None:
    return _line(value, _DRIVER, "driver name")


def _override(value: object) -> str | None:
    return _line(value, _OVERRIDE, "driver override")


def _line(value: object, form: re.Pattern[str], what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{what} is {value!r}")
    return value
