"""systemd units: their state, and whether their configuration has changed since they started."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

_PROPERTIES = "Id,LoadState,ActiveState,SubState,Result,NeedDaemonReload,UnitFileState,NRestarts,ActiveEnterTimestamp"


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit's state. ``since`` is when it last became active, in seconds of Unix time; 0 when never.

    ``restarts`` counts systemd's automatic restarts since the last explicit start.
    """

    name: str
    load: str
    active: str
    sub: str
    result: str
    needs_reload: bool
    enabled: str
    since: int
    restarts: int = 0

    @property
    def running(self) -> bool:
        return self.active == "active"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse(output: list[str]) -> dict[str, Unit]:
    """The blocks that ``systemctl show`` prints, by unit name."""
    units = {}
    for block in "\n".join(output).split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        if not values:
            continue
        since = values.get("ActiveEnterTimestamp", "").removeprefix("@")
        units[values["Id"]] = Unit(
            name=values["Id"],
            load=values["LoadState"],
            active=values["ActiveState"],
            sub=values["SubState"],
            result=values.get("Result", ""),
            needs_reload=values["NeedDaemonReload"] == "yes" or values["LoadState"] == "not-found",
            enabled=values.get("UnitFileState", ""),
            since=int(since) if since.isdigit() else 0,
            restarts=int(values.get("NRestarts") or 0),
        )
    return units


class Units(FactBase[dict[str, Unit]]):
    """The state of the named units, from one ``systemctl show``. Needs systemd 247 for the time format."""

    @staticmethod
    def default() -> dict[str, Unit]:
        return {}

    def command(self, units: tuple[str, ...]) -> str:
        names = " ".join(quote(unit) for unit in units)
        return f"systemctl show --timestamp=unix -p {_PROPERTIES} {names}"

    def process(self, output: list[str]) -> dict[str, Unit]:
        try:
            return parse(output)
        except KeyError as error:
            raise FactProcessError(f"units: systemctl show did not print {error}") from error


class ChangedSince(FactBase[list[str]]):
    """Which of a unit's inputs changed after it last became active: files by change time, secrets by update time.

    A file whose content is that of the ``note`` that a deploy made of this start of the unit did not change.
    With ``image``, also whether the unit's container runs another image than the one of that reference now.
    ``moment`` is another of systemd's times to compare with.
    This asks the machine, not the last run: the next deploy completes one that was killed between a change and its
    restart. Times are compared here, since programs of a host differ in how they read and print them.
    """

    @staticmethod
    def default() -> list[str]:
        return []

    def command(
        self,
        unit: str,
        files: tuple[str, ...],
        secrets: tuple[str, ...] = (),
        image: str = "",
        moment: str = "ActiveEnterTimestamp",
        note: str = "",
    ) -> str:
        script = r"""
export LC_ALL=C
unit=$1 image=$2 moment=$3 note=$4; shift 4
echo "since $(systemctl show --timestamp=us+utc -p "$moment" --value "$unit")"
start=$([ ! -e "$note" ] || systemctl show -p InvocationID --value "$unit")
[ -n "$start" ] && [ "$(head -n1 "$note")" = "$start" ] || note=/dev/null
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  [ ! -e "$1" ] || sha256sum -- "$1" 2>/dev/null | grep -Fxqf "$note" ||
    echo "file $(stat -c %.9Z "$1") $1"; shift; done
[ $# -gt 0 ] && shift
for secret in "$@"; do
  changed=$(podman secret inspect --format '{{.UpdatedAt.UnixNano}}' "$secret" 2>/dev/null) &&
    echo "secret $changed $secret"; done
if [ -n "$image" ]; then
  wanted=$(podman image inspect --format '{{.Id}}' "$image" 2>/dev/null) &&
    has=$(podman container inspect --format '{{.Image}}' "${unit%.service}" 2>/dev/null) &&
    echo "image ${has#sha256:} ${wanted#sha256:}"
fi
echo end
"""
        words = " ".join(quote(word) for word in (unit, image, moment, note, *files, "--", *secrets))
        return f"sh -c {quote(script)} changed {words}"

    def process(self, output: list[str]) -> list[str]:
        try:
            return _changed(output)
        except ValueError as error:
            raise FactProcessError(f"when the unit's inputs changed cannot be read: {error}") from error


def _changed(output: list[str]) -> list[str]:
    if not output or output[-1] != "end" or not output[0].startswith("since"):
        raise ValueError(f"expected lines from 'since' to 'end', found {output[:1]} to {output[-1:]}")
    text = output[0].removeprefix("since").strip()
    if not text:
        # Never active: it is started anyway.
        return []
    since = _microseconds(text)
    changed = []
    for line in output[1:-1]:
        kind, value, name = line.split(" ", 2)
        if kind == "file" and _nanoseconds(value) > since * 1000:
            changed.append(name)
        elif kind == "secret" and int(value) > since * 1000:
            changed.append(f"secret {name}")
        elif kind == "image" and value != name:
            changed.append("image")
    return changed


def _microseconds(text: str) -> int:
    """systemd's ``Thu 2026-11-26 05:25:38.123456 UTC`` in microseconds of Unix time. Raises ValueError."""
    # Without the name of the day, which Python expects in its own language.
    _, _, rest = text.partition(" ")
    time = datetime.strptime(rest, "%Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC)
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _nanoseconds(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9])


class SystemState(FactBase[str]):
    """``systemctl is-system-running``: ``running`` when no unit failed. Waits up to ``seconds`` for a boot to end."""

    @staticmethod
    def default() -> str:
        return "unknown"

    def command(self, seconds: int = 300) -> str:
        # After the time-out it prints nothing; the jobs that it waits for are printed instead.
        return (
            f"timeout {seconds} systemctl is-system-running --wait || [ $? != 124 ] || "
            "{ echo starting; timeout 10 systemctl list-jobs --no-legend --no-pager | head -n5; }"
        )

    def process(self, output: list[str]) -> str:
        state, *jobs = output
        return (
            f"{state.strip()}, waiting for {'; '.join(' '.join(job.split()) for job in jobs)}"
            if jobs
            else state.strip()
        )


class FailedUnits(FactBase[list[str]]):
    """The names of the units that failed."""

    @staticmethod
    def default() -> list[str]:
        return []

    def command(self) -> str:
        return "systemctl list-units --failed --plain --no-legend --no-pager | cut -d' ' -f1"

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]
