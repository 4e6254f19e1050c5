"""The node's container as Podman runs it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# Only what can be shown: the environment also holds secrets, so a single variable of it is picked on the node.
_FORMAT = (
    '{"running": {{json .State.Running}}, "image": {{json .ImageDigest}}, "name": {{json .ImageName}}, '
    '"pid": {{json .State.Pid}}, '
    '"devices": [{{range $i, $d := .HostConfig.Devices}}{{if $i}}, {{end}}{{json $d.PathOnHost}}{{end}}], '
    '"mounts": [{{range $i, $m := .Mounts}}{{if $i}}, {{end}}{{json $m.Source}}{{end}}], '
    '"gpus": [{{range .Config.Env}}{{if eq (slice (printf "%-20s" .) 0 20) "GEVULOT_GPU_DEVICES="}}'
    "{{json .}}{{end}}{{end}}]}"
)


@dataclass(frozen=True, slots=True)
class State:
    """A container's state. ``gpu_devices`` is ``None`` when the variable is not set at all.

    ``mounts`` are the host's paths of what is mounted into it, without devices and secrets.
    """

    running: bool
    image: str
    name: str
    devices: frozenset[str]
    gpu_devices: str | None
    mounts: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"devices": sorted(self.devices), "mounts": sorted(self.mounts)}


def parse(output: list[str]) -> State:
    """What ``podman inspect`` printed in our format. Raises ``ValueError`` for anything else."""
    found = json.loads("\n".join(output))
    gpus = found["gpus"]
    return State(
        running=found["running"],
        image=found["image"],
        name=found["name"],
        devices=frozenset(found["devices"]),
        gpu_devices=gpus[0].partition("=")[2] if gpus else None,
        mounts=frozenset(found["mounts"]),
    )


class Container(FactBase[State | None]):
    """The state of one container, without its secrets; ``None`` when there is none of that name."""

    def requires_command(self, container: str = "gevulot-node") -> str:
        return "podman"

    def command(self, container: str = "gevulot-node") -> str:
        return f"podman container inspect --format {quote(_FORMAT)} {quote(container)} 2>/dev/null || true"

    def process(self, output: list[str]) -> State | None:
        try:
            return parse(output)
        except (ValueError, KeyError) as error:
            raise FactProcessError(f"podman inspect printed no state: {error}") from error


# Names only, never values. A URL has its password between the user's colon and the @ sign.
_DATABASE_PASSWORDS = r"""
pid=$(podman container inspect --format '{{.State.Pid}}' "$1" 2>/dev/null) || exit 0
[ -r "/proc/$pid/environ" ] || exit 0
echo read
tr '\0' '\n' <"/proc/$pid/environ" |
  sed -n -e 's#^\([A-Za-z0-9_]*\)=postgres[a-z]*://[^@]*:[^@]*@.*#\1#p' -e 's#^\([A-Z_]*PASSWORD\)=.*#\1#p'
"""


class DatabasePasswords(FactBase[list[str] | None]):
    """The variables of a container's environment that hold a database password; ``None`` where it was not read."""

    def requires_command(self, container: str = "gevulot-node") -> str:
        return "podman"

    def command(self, container: str = "gevulot-node") -> str:
        return f"sh -c {quote(_DATABASE_PASSWORDS)} passwords {quote(container)}"

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output[1:] if line]
