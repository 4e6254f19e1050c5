"""What the node does: its health check, the virtual machines in its container, and starts that failed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.untrusted import printable

_READER = Path(__file__).with_name("activity_reader.py")
# Characters of a line that are kept.
_LINE = 200


@dataclass(frozen=True, slots=True)
class Machine:
    """A program's virtual machine, and for how long it has run. ``check``: it is one of our own verification."""

    seconds: float
    guest_cid: int | None
    boards: int
    check: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A transaction whose program failed to start, read from the stderr.log of its QEMU.

    ``line`` is the last error, ``tries`` counts it and those that differ in numbers only, and ``more`` says that
    the log is longer than what was read. ``first`` and ``last`` are seconds since the first start and since the last
    write. ``machine`` is the age in seconds of a QEMU that writes to this log now, ``None`` without one.
    """

    transaction: str
    tries: int
    first: float
    last: float
    line: str
    more: bool = False
    machine: float | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """One reading, or the second of two that were ``waited`` seconds apart.

    ``health`` is the HTTP status of the health check, ``None`` without an answer; ``age`` is the container's, in
    seconds; ``machines`` is ``None`` where the container's processes could not be listed.
    """

    health: int | None
    waited: int = 0
    age: float | None = None
    machines: tuple[Machine, ...] | None = ()
    failures: tuple[Failure, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class NodeActivity(FactBase[Activity | None]):
    """What the node does. Without root only the health check is known. Takes five seconds more while it says 503.

    ``listen`` is the address of the health check, ``logs`` the directory with a directory for each transaction, and
    ``verification`` what the names of our own verification's machines begin with.
    """

    def requires_command(self, *_: str, **__: str) -> str:
        return "python3"

    def command(
        self,
        listen: str,
        logs: str,
        container: str,
        verification: str,
    ) -> str:
        program = _READER.read_text(encoding="utf-8")
        return f"python3 -I -c {quote(program)} {' '.join(map(quote, (listen, container, logs, verification)))}"

    def process(self, output: list[str]) -> Activity:
        try:
            return parse(output)
        except (ValueError, KeyError, TypeError) as error:
            raise FactProcessError(f"what the node does cannot be read: {type(error).__name__}: {error}") from error


def parse(output: list[str]) -> Activity:
    """The reader's answer. Raises ``ValueError`` and its like for anything else."""
    answer = json.loads("\n".join(output))
    machines = answer["machines"]
    return Activity(
        _integer(answer["health"]),
        int(answer["waited"]),
        _number(answer["age"]),
        None if machines is None else tuple(_machine(each) for each in machines),
        tuple(_failure(each) for each in answer["failures"]),
    )


def _machine(fields: dict[str, Any]) -> Machine:
    return Machine(
        float(fields["seconds"]), _integer(fields["guest_cid"]), int(fields["boards"]), bool(fields["check"])
    )


def _failure(fields: dict[str, Any]) -> Failure:
    return Failure(
        printable(str(fields["transaction"]), _LINE),
        int(fields["tries"]),
        float(fields["first"]),
        float(fields["last"]),
        printable(str(fields["line"]), _LINE),
        bool(fields["more"]),
        _number(fields["machine"]),
    )


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
