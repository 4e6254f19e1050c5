"""The fleet as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import click

from deploys.assessment.status_document import HostStatus, Severity, worst_first
from deploys.manifest import AS_GPU_HOST

_COLOURS = {Severity.OK: "green", Severity.ATTENTION: "yellow", Severity.WRONG: "red", Severity.DOWN: "magenta"}
_UNKNOWN = "-"
# Characters of a cell: one host must not push the others' columns away.
_WIDEST = 40


def render(hosts: Iterable[HostStatus], now: datetime) -> list[str]:
    """One row a host, the worst first, with its reasons and what has drifted below it. Colours are click's."""
    rows = [(host, [_printable(cell(host, now))[:_WIDEST] for _, cell in _COLUMNS]) for host in worst_first(hosts)]
    if not rows:
        return ["the inventory has no host"]
    heads = [head for head, _ in _COLUMNS]
    widths = [
        max(len(texts[column]) for texts in (heads, *(cells for _, cells in rows))) for column in range(len(heads))
    ]
    lines = [click.style(_line(heads, widths), bold=True)]
    for host, cells in rows:
        lines.append(click.style(_line(cells, widths), fg=_COLOURS[host.severity]))
        lines += [f"    {_printable(reason)}" for reason in host.reasons]
        lines += [f"    since the state that was kept: {_printable(change)}" for change in host.drift]
    counts = ", ".join(
        f"{count} {severity.value}"
        for severity in reversed(Severity)
        if (count := sum(host.severity is severity for host, _ in rows))
    )
    return [*lines, f"{len(rows)} host{'s' if len(rows) != 1 else ''}: {counts}"]


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _printable(text: str) -> str:
    """Without control characters: what comes from a host does not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _yes(value: bool | None) -> str:
    return _UNKNOWN if value is None else "yes" if value else "NO"


def _boards(host: HostStatus, _: datetime) -> str:
    return f"{host.boards.bound}/{host.boards.wanted}" if host.boards else _UNKNOWN


def _arguments(host: HostStatus, _: datetime) -> str:
    arguments = host.kernel_arguments
    return f"{_yes(arguments.live)}/{_yes(arguments.configured)}" if arguments and arguments.wanted else _UNKNOWN


def _reboot(host: HostStatus, _: datetime) -> str:
    return _UNKNOWN if host.reboot_pending is None else "pending" if host.reboot_pending else "no"


def _database(host: HostStatus, _: datetime) -> str:
    database = host.database
    if database is None:
        return _UNKNOWN
    if database.kind == "external":
        return "external"
    if not database.reachable:
        return "NO answer"
    return f"{database.release}, {'NOT migrated' if database.missing else 'migrated'}"


def _activity(host: HostStatus, _: datetime) -> str:
    if host.activity is None:
        return _UNKNOWN
    programs = len(host.activity.programs)
    return f"{host.activity.state} ({programs})" if programs else host.activity.state


def _disk(host: HostStatus, _: datetime) -> str:
    return f"{host.storage.free_kib / 1024**2:.0f} GiB" if host.storage else _UNKNOWN


def _image(host: HostStatus, _: datetime) -> str:
    return host.image.digest.removeprefix("sha256:")[:8] if host.image else _UNKNOWN


def _verified(host: HostStatus, now: datetime) -> str:
    if host.verified is None:
        return _UNKNOWN
    seconds = (now - datetime.strptime(host.verified, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)).total_seconds()
    if seconds < 0:
        return "in the future"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _node(host: HostStatus, _: datetime) -> str:
    if host.deployed_as == AS_GPU_HOST:
        return "none: GPU host"
    return host.node.unit if host.node else _UNKNOWN


_COLUMNS: tuple[tuple[str, Callable[[HostStatus, datetime], str]], ...] = (
    ("HOST", lambda host, _: host.name),
    ("STATE", lambda host, _: host.severity.value),
    ("BOARDS", _boards),
    ("IOMMU", lambda host, _: ("on" if host.iommu.on else "off") if host.iommu else _UNKNOWN),
    ("ARGS NOW/NEXT", _arguments),
    ("REBOOT", _reboot),
    ("PODMAN", lambda host, _: host.podman or _UNKNOWN),
    ("DATABASE", _database),
    ("NODE", _node),
    ("ACTIVITY", _activity),
    ("IMAGE", _image),
    ("DISK FREE", _disk),
    ("KEY", lambda host, _: host.key.state if host.key else _UNKNOWN),
    ("VERIFIED", _verified),
)
