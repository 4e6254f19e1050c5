"""Whether a container with the node's security policy can open a vsock socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError


@dataclass(frozen=True, slots=True)
class VsockTrialResult:
    """Whether a socket opens with these ``--security-opt``; ``reason`` is the error, or why the trial did not run."""

    opens: bool
    reason: str
    options: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class VsockTrial(FactBase[VsockTrialResult | None]):
    """Run ``program``, a shell command that tries a socket and prints the result as JSON. ``None`` without Podman."""

    def requires_command(self, program: str) -> str:
        return "podman"

    def command(self, program: str) -> str:
        return program

    def process(self, output: list[str]) -> VsockTrialResult:
        try:
            answer = json.loads(output[-1])
            return VsockTrialResult(answer["opens"], answer["reason"], tuple(answer["options"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FactProcessError(f"the trial of a vsock socket printed {output[-1]!r}: {error!r}") from error
