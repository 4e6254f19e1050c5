"""Whether a container of a node can open a vsock socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError


@dataclass(frozen=True, slots=True)
class Trial:
    """A socket that a container tried to open under options of ``--security-opt``; ``reason`` says why it could not."""

    opens: bool
    reason: str
    options: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class VsockTrial(FactBase[Trial | None]):
    """The result of a program that tries it and prints it as JSON; ``None`` without Podman."""

    def requires_command(self, program: str) -> str:
        return "podman"

    def command(self, program: str) -> str:
        return program

    def process(self, output: list[str]) -> Trial:
        try:
            found = json.loads(output[-1])
            return Trial(found["opens"], found["reason"], tuple(found["options"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FactProcessError(f"the trial of a vsock socket printed {output[-1]!r}: {error!r}") from error
