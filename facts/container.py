"""A container as Podman runs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# Only what can be shown: the environment also holds secrets, so the variables asked for are picked on the node.
_FORMAT = (
    '{"running": {{json .State.Running}}, "image": {{json .ImageDigest}}, "name": {{json .ImageName}}, '
    '"pid": {{json .State.Pid}}, '
    '"devices": [{{range $i, $d := .HostConfig.Devices}}{{if $i}}, {{end}}{{json $d.PathOnHost}}{{end}}], '
    '"mounts": [{{range $i, $m := .Mounts}}{{if $i}}, {{end}}{{json $m.Source}}{{end}}], '
    '"environment": [{{range .Config.Env}}{{if or %s}}{{json .}}, {{end}}{{end}}null]}'
)
# Go's templates know no prefix of a text: the variable is made as long at least, and cut to the prefix's length.
_IS_VARIABLE = '(eq (slice (printf "%%-%ds" .) 0 %d) "%s=")'


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container's state.

    ``environment`` has the variables that were asked for and are set. ``mounts`` are the host's paths of what is
    mounted into it, without devices and secrets.
    """

    running: bool
    image: str
    name: str
    devices: frozenset[str]
    environment: Mapping[str, str]
    mounts: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"devices": sorted(self.devices), "mounts": sorted(self.mounts)}


def parse(output: list[str]) -> ContainerState:
    """What ``podman inspect`` printed in our format. Raises ``ValueError`` for anything else."""
    state = json.loads("\n".join(output))
    return ContainerState(
        running=state["running"],
        image=state["image"],
        name=state["name"],
        devices=frozenset(state["devices"]),
        environment=dict(each.split("=", 1) for each in state["environment"] if each is not None),
        mounts=frozenset(state["mounts"]),
    )


class Container(FactBase[ContainerState | None]):
    """The state of one container; ``None`` when there is none of that name.

    ``variables`` are those of its environment to show, of which none may hold a secret.
    """

    def requires_command(self, container: str, variables: tuple[str, ...]) -> str:
        return "podman"

    def command(self, container: str, variables: tuple[str, ...]) -> str:
        asked = " ".join(_IS_VARIABLE % (len(each) + 1, len(each) + 1, each) for each in variables)
        return f"podman container inspect --format {quote(_FORMAT % asked)} {quote(container)} 2>/dev/null || true"

    def process(self, output: list[str]) -> ContainerState | None:
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

    def requires_command(self, container: str) -> str:
        return "podman"

    def command(self, container: str) -> str:
        return f"sh -c {quote(_DATABASE_PASSWORDS)} passwords {quote(container)}"

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output[1:] if line]
