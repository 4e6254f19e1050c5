"""How often systemd started a unit, what its last runs wrote, and the states of the units that it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.untrusted import printable

# Of systemd's message catalogue.
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
RESTART_SCHEDULED = "5eb03494b6584870a536b337290809b3"

_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,Result,NRestarts,InvocationID,ExecMainStatus,StateChangeTimestampMonotonic,"
    "Requires,BindsTo"
)
_FIELDS = (
    "MESSAGE,MESSAGE_ID,UNIT,_SYSTEMD_UNIT,INVOCATION_ID,_SYSTEMD_INVOCATION_ID,CONTAINER_NAME,PODMAN_EVENT,"
    "SYSLOG_IDENTIFIER,_PID"
)
# Prints `now SECONDS`, systemd's properties of each unit, and, unless the first unit is active and was never restarted:
# its starts and scheduled restarts (entries without MESSAGE), its lines, the other units' lines, and who listens where.
# Of the journal at most the last hour of this boot is read, and so many entries. Any local user may write UNIT,
# MESSAGE_ID and CONTAINER_NAME there: they count from systemd and from root's Podman only.
_SCRIPT = rf"""
unit=$1; n='
'
shown=$(timeout 20 systemctl show -p {_PROPERTIES} "$@") || exit 1
printf 'now %s\n%s\n' "$(cut -d' ' -f1 /proc/uptime)" "$shown"
case "${{shown%%"$n$n"*}}" in *ActiveState=active*) case "${{shown%%"$n$n"*}}" in *NRestarts=0*) exit 0;; esac;; esac
entries() {{ timeout 20 journalctl -q -b --since=-1h --no-pager -o json "$@" 2>/dev/null; }}
entries -n 200 --output-fields=UNIT,MESSAGE_ID MESSAGE_ID={STARTING} MESSAGE_ID={RESTART_SCHEDULED} UNIT="$unit" _PID=1
entries -n 200 --output-fields={_FIELDS} \
  _SYSTEMD_UNIT="$unit" + UNIT="$unit" _PID=1 + CONTAINER_NAME="${{unit%.service}}" _UID=0
shift
for each in "$@"; do set -- "$@" + _SYSTEMD_UNIT="$each" + UNIT="$each" _PID=1; shift; done
[ $# = 0 ] || {{ shift; entries -n 80 --output-fields={_FIELDS} "$@"; }}
timeout 20 ss -Hltnp 2>/dev/null | sed 's/^/listen /'
true
"""

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_LISTENER = re.compile(r"LISTEN\s+\S+\s+\S+\s+\S*:(?P<port>\d+)\s+\S+(?:\s+users:\(\(\"(?P<program>[^\"]*)\")?")
# Characters of a line that are kept.
_LENGTH = 400


@dataclass(frozen=True, slots=True)
class UnitRun:
    """One unit as systemd sees it. ``changed`` and ``starts`` are seconds since the boot.

    ``restarts`` counts systemd's own restarts since the last start by a person, a deploy or the boot. ``starts`` are
    that start and the restarts, as far as the journal goes back.
    """

    name: str
    load: str
    active: str
    sub: str
    result: str
    restarts: int = 0
    invocation: str = ""
    status: int = 0
    changed: float = 0.0
    requires: frozenset[str] = frozenset()
    starts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One line of the journal, without escapes. ``source`` is ``container``, ``systemd`` or ``program``."""

    unit: str
    invocation: str
    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Runs:
    """Units by name, the lines of the journal about them, and who listens on which port; all at ``now``."""

    now: float = 0.0
    units: dict[str, UnitRun] = field(default_factory=dict)
    lines: tuple[JournalLine, ...] = ()
    listeners: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        units = {
            name: asdict(unit) | {"requires": sorted(unit.requires), "starts": list(unit.starts)}
            for name, unit in self.units.items()
        }
        return {**asdict(self), "units": units}


class UnitRuns(FactBase[Runs]):
    """One unit with its starts, the units that it needs, and their lines of the journal."""

    @staticmethod
    def default() -> Runs:
        return Runs()

    def command(self, unit: str, needed: tuple[str, ...]) -> str:
        return f"sh -c {quote(_SCRIPT)} runs {' '.join(map(quote, (unit, *needed)))}"

    def process(self, output: list[str]) -> Runs:
        try:
            return parse(output)
        except (KeyError, ValueError, TypeError) as error:
            raise FactProcessError(f"runs: systemctl or journalctl printed something else: {error!r}") from error


def parse(output: list[str]) -> Runs:
    """Parse what the command printed. Entries with MESSAGE are lines, those without are starts and restarts.

    Raises ``KeyError`` or ``ValueError`` for anything else.
    """
    now = 0.0
    blocks: list[dict[str, str]] = [{}]
    listeners: dict[int, str] = {}
    events: list[dict[str, Any]] = []
    lines: list[JournalLine] = []
    for text in output:
        if text.startswith("{"):
            try:
                entry = json.loads(text)
            except ValueError:
                # Cut short by the limit on the journal's time.
                continue
            if "MESSAGE" in entry:
                lines += _line(entry)
            elif "MESSAGE_ID" in entry:
                events.append(entry)
        elif text.startswith("now "):
            now = float(text.removeprefix("now "))
        elif text.startswith("listen "):
            match = _LISTENER.search(text)
            if match:
                # Any user may name a program, with escapes too.
                program = printable(match["program"] or "", _LENGTH)
                listeners[int(match["port"])] = program or listeners.get(int(match["port"]), "")
        elif not text:
            blocks.append({})
        else:
            name, _, value = text.partition("=")
            blocks[-1][name] = value
    units = [_run(block, events) for block in blocks if block]
    return Runs(now, {unit.name: unit for unit in units}, tuple(lines), listeners)


def _run(block: dict[str, str], events: Iterable[dict[str, Any]]) -> UnitRun:
    name = block["Id"]
    restarts = int(block.get("NRestarts") or 0)
    starts: list[float] = []
    scheduled = False
    for event in events:
        if event.get("UNIT") != name:
            continue
        if event["MESSAGE_ID"] == RESTART_SCHEDULED:
            scheduled = True
            continue
        if not scheduled:
            # Started by a person, by a deploy or by the boot: what was before does not count.
            starts = []
        starts.append(int(event["__MONOTONIC_TIMESTAMP"]) / 1e6)
        scheduled = False
    if starts:
        # The lower of both: systemd's counter outlives a start by a person during the wait for a restart, and the
        # journal's restarts outlive the counter's reset. A restart that is scheduled has not started yet.
        restarts = min(restarts, len(starts) - 1 + scheduled)
        starts = starts[-max(restarts - scheduled, 0) - 1 :]
    return UnitRun(
        name=name,
        load=block["LoadState"],
        active=block["ActiveState"],
        sub=block["SubState"],
        result=block.get("Result", ""),
        restarts=restarts,
        invocation=block.get("InvocationID", ""),
        status=int(block.get("ExecMainStatus") or 0),
        changed=int(block.get("StateChangeTimestampMonotonic") or 0) / 1e6,
        requires=frozenset(f"{block.get('Requires', '')} {block.get('BindsTo', '')}".split()),
        starts=tuple(starts),
    )


def _line(entry: dict[str, Any]) -> list[JournalLine]:
    """The entry as a line; none for Podman's own events, and for what was too long for the journal's answer."""
    text = _text(entry["MESSAGE"])
    if text is None or "PODMAN_EVENT" in entry or entry.get("SYSLOG_IDENTIFIER") == "conmon":
        return []
    text = printable(text, _LENGTH)
    by_systemd = entry.get("_PID") == "1"
    container = entry.get("CONTAINER_NAME")
    unit = entry.get("UNIT") if by_systemd else f"{container}.service" if container else entry.get("_SYSTEMD_UNIT")
    invocation = entry.get("INVOCATION_ID" if by_systemd else "_SYSTEMD_INVOCATION_ID")
    source = "systemd" if by_systemd else "container" if container else "program"
    # Podman prints the container that it starts or removes.
    if not text or _CONTAINER_ID.fullmatch(text) or f"{text}.service" == unit:
        return []
    return [JournalLine(str(unit or ""), str(invocation or ""), source, text)]


def _text(message: Any) -> str | None:
    """A message of journalctl: text, or an array of bytes where it has escapes; ``None`` for anything else."""
    if isinstance(message, list):
        try:
            return bytes(message).decode(errors="replace")
        except (TypeError, ValueError):
            # An entry may have the field several times.
            return None
    return message if isinstance(message, str) else None
