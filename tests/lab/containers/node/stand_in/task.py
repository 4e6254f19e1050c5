"""A program's task, and the line protocol between its machine and the node.

A request is lines up to an empty one, the answer is one line; each call is one vsock connection.

    task                                  → task TRANSACTION INPUT ARGUMENT
    report, and the machine's functions   → ok
    submit TRANSACTION FILE SHA256        → ok

Anything else is answered by `error REASON`. The real node speaks gRPC here.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INPUT = "input"
INPUT_BYTES = 4096

# Of linux/ioport.h: a resource's flags.
_IO, _MEMORY, _UNSET = 0x100, 0x200, 0x20000000
_FUNCTION = re.compile(r"function 0000:(\S+) 0x([0-9a-f]{4}) 0x([0-9a-f]{4}) 0x([0-9a-f]{4})[0-9a-f]{2}")
_BAR = re.compile(r"bar ([0-5]) 0x([0-9a-f]+) 0x([0-9a-f]+) 0x([0-9a-f]+)")


class TaskError(Exception):
    """A call of the machine that does not fit its task; the message is the answer."""


@dataclass(frozen=True)
class Task:
    """What a program has to do: hash the argument and the workspace's input together, and write the digest down."""

    transaction: str
    workspace: Path
    argument: str
    expected: bytes

    @classmethod
    def make(cls, transaction: str, workspace: Path) -> Task:
        """A task that nobody can have done before. Its input is in the workspace; raises OSError."""
        workspace.mkdir(parents=True, exist_ok=True)
        argument, content = secrets.token_hex(16), secrets.token_bytes(INPUT_BYTES)
        (workspace / INPUT).write_bytes(content)
        digest = hashlib.sha256(argument.encode() + content).hexdigest()
        return cls(transaction, workspace, argument, f"{digest}\n".encode())

    def order(self) -> str:
        """The answer to the machine's request for its task."""
        return f"task {self.transaction} {INPUT} {self.argument}"

    def accept(self, words: list[str]) -> dict[str, str]:
        """Check a submission (`TRANSACTION FILE SHA256`) against the file that it names. Raises TaskError."""
        if len(words) != 3:
            raise TaskError("expected a transaction, a file and its SHA-256")
        transaction, name, digest = words
        if transaction != self.transaction:
            raise TaskError(f"submit_result different Tx_hash: {transaction}")
        if "/" in name or name == INPUT:
            raise TaskError(f"{name} is no file that a program may submit")
        try:
            content = (self.workspace / name).read_bytes()
        except OSError as error:
            raise TaskError(f"{name} is not in the workspace: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise TaskError(f"{name} has another SHA-256 than the one submitted")
        if content != self.expected:
            raise TaskError(f"{name} is not the task's result")
        return {"file": name, "sha256": digest}


def functions(lines: list[str]) -> dict[str, dict[str, Any]]:
    """The PCI functions of a report by their address on the machine's bus. Raises TaskError.

    A BAR's address is null when the machine's kernel has not assigned it.
    """
    seen: dict[str, dict[str, Any]] = {}
    bars: list[dict[str, Any]] | None = None
    for line in lines:
        if (function := _FUNCTION.fullmatch(line)) is not None:
            address, vendor, device, kind = function.groups()
            bars = []
            seen[address] = {"address": address, "id": f"{vendor}:{device}", "class": kind, "bars": bars}
        elif (bar := _BAR.fullmatch(line)) is not None and bars is not None:
            number, (start, end, flags) = int(bar[1]), (int(text, 16) for text in bar.groups()[1:])
            if flags & (_IO | _MEMORY):
                bars.append(
                    {
                        "bar": number,
                        "type": "memory" if flags & _MEMORY else "io",
                        "address": None if flags & _UNSET or not start else start,
                        "size": end - start + 1,
                    }
                )
        else:
            raise TaskError(f"not a line of a report: {line!r}")
    return seen
