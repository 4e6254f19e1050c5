"""What is made of a look at the fleet: a table, JSON or a page; and the states that are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import BaseModel, ConfigDict, ValidationError

from deploys.assessment.status_document import HostStatus, Severity, document
from deploys.fleet import drift, page, table
from deploys.fleet.images import with_other_images
from deploys.inputs.spelling import find_unknown
from deploys.settings import SettingsError

_PREFIX = "status_"
_VARIABLES = "GEVULOT_STATUS_"
_EXPECTED = "expected status_output (table, json or html), status_file, status_known, status_keep (yes or no)"


class Options(BaseModel):
    """What an operator asks for: ``--data status_KEY=…`` or the environment's ``GEVULOT_STATUS_KEY``.

    ``file`` is where the output goes instead of standard output; ``known`` the directory of kept states to compare
    with, and ``keep`` whether they are written there after the comparison.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Literal["table", "json", "html"] = "table"
    file: Path | None = None
    known: Path | None = None
    keep: bool = False


def options(data: Mapping[str, Any]) -> Options:
    """Out of a host's data and the environment; the data wins. Raises SettingsError naming the key."""
    names = list(Options.model_fields)
    wrong = [
        *find_unknown(data, (_PREFIX + name for name in names), _PREFIX),
        *find_unknown(os.environ, (_VARIABLES + name.upper() for name in names), _VARIABLES),
    ]
    if wrong:
        raise SettingsError(f"{'; '.join(wrong)}; {_EXPECTED}")
    values: dict[str, Any] = {
        key.removeprefix(_VARIABLES).lower(): value for key, value in os.environ.items() if key.startswith(_VARIABLES)
    }
    values |= {key.removeprefix(_PREFIX): value for key, value in data.items() if key.startswith(_PREFIX)}
    try:
        chosen = Options(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{_PREFIX}{item['loc'][0]} is {item['input']!r}: {item['msg']}" for item in error.errors()
        )
        raise SettingsError(f"{problems}; {_EXPECTED}") from None
    if chosen.keep and chosen.known is None:
        raise SettingsError("status_keep needs status_known, the directory that the states are kept in")
    if chosen.known is not None and chosen.known.exists() and not chosen.known.is_dir():
        raise SettingsError(f"status_known: {chosen.known} is no directory; expected one, or a path to make it at")
    if chosen.file is not None and not chosen.file.absolute().parent.is_dir():
        raise SettingsError(
            f"status_file: there is no directory {chosen.file.absolute().parent}; make it, or choose another"
        )
    return chosen


def with_drift(hosts: Iterable[HostStatus], asked: Options) -> list[HostStatus]:
    """The hosts, each with what differs from its kept state; and the states kept anew where that is asked for.

    The state of a host that could not be looked at, or not wholly, is left as it is. Raises OSError.
    """
    compared = []
    for host in with_other_images(hosts):
        if asked.known is None or host.topology is None:
            compared.append(host)
            continue
        try:
            old = drift.read(asked.known, host.name)
            changes = drift.changes(old, drift.kept(host), whole=not host.topology.get("unreadable")) if old else ()
        except (SettingsError, KeyError, TypeError, AttributeError) as error:
            # Left as it is: its editor may want to correct it.
            compared.append(_with_reason(host, f"its kept state cannot be used: {error!s}"))
            continue
        severity = Severity.ATTENTION if changes and host.severity is Severity.OK else host.severity
        with_changes = replace(host, drift=changes, severity=severity)
        if asked.keep:
            compared.append(_kept(with_changes, asked.known))
        else:
            compared.append(
                with_changes if old else _with_reason(with_changes, f"no state of it is kept in {asked.known}")
            )
    return compared


def _kept(host: HostStatus, known: Path) -> HostStatus:
    if host.unreadable:
        return _with_reason(host, "its state was not kept, because not all of it could be read: see the other reasons")
    try:
        drift.keep(known, host)
    except OSError as error:
        return _with_reason(host, f"its state was not kept: {error}")
    return host


def _with_reason(host: HostStatus, reason: str) -> HostStatus:
    severity = Severity.ATTENTION if host.severity is Severity.OK else host.severity
    return replace(host, reasons=(*host.reasons, reason), severity=severity)


def write(hosts: Iterable[HostStatus], asked: Options, now: datetime) -> None:
    """Print what was asked for, or write it to the file. Raises OSError."""
    every = list(hosts)
    match asked.output:
        case "table":
            text = "\n".join(table.render(every, now))
        case "json":
            text = json.dumps(document(every, now), indent=1)
        case "html":
            text = page.render(document(every, now)).removesuffix("\n")
    if asked.file is None:
        # click leaves colours out where there is no terminal.
        click.echo(text)
        return
    new = asked.file.with_name(f".{asked.file.name}.new")
    new.write_text(click.unstyle(text) + "\n", encoding="utf-8")
    new.replace(asked.file)
    click.echo(f"wrote {asked.file}", err=True)
