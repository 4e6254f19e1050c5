"""Whether a node, or a part of one, was set up on the host by hand or by other tools. It is never replaced."""

from __future__ import annotations

from shlex import quote

from deploys.assessment.verdict import Findings
from deploys.manifest import (
    FIREWALL_SERVICE,
    FIREWALL_UNIT,
    KEY_SERVICE,
    KEY_UNIT,
    MIGRATION_SERVICE,
    MIGRATION_UNIT,
    NODE_DATA,
    NODE_QUADLET,
    NODE_UNIT,
    POSTGRES_QUADLET,
    POSTGRES_UNIT,
)
from deploys.settings import Settings
from facts.existing import ExistingContainer, ExistingNode, ExistingUnit
from facts.untrusted import printable

# Each unit of a node, the file that a deploy makes it from, and a text that this file has had in every version.
UNITS = (
    (NODE_UNIT, NODE_QUADLET.path, "EnvironmentFile=/etc/gevulot/node.env"),
    (POSTGRES_UNIT, POSTGRES_QUADLET.path, "Volume=/etc/gevulot/pg_hba.conf:"),
    (MIGRATION_UNIT, MIGRATION_SERVICE.path, "/gevulot/migrate "),
    (KEY_UNIT, KEY_SERVICE.path, "/gevulot/hand-over-key "),
    (FIREWALL_UNIT, FIREWALL_SERVICE.path, "/gevulot/firewall "),
)
_RUNS = ("active", "activating", "reloading", "deactivating")


def judge_existing(existing: ExistingNode, settings: Settings, data: bool, key: bool, findings: Findings) -> None:
    """Refuse what others made and a deploy would replace. ``data``, ``key``: the storage already has them."""
    ours = {each.name for each in existing.units if each.file == "ours"}
    for unit in existing.units:
        if unit.name == POSTGRES_UNIT and not settings.own_postgres:
            continue  # it may be the external server
        name = unit.name.removesuffix(".service")
        started = next((each for each in existing.containers if each.name == name), None)
        container = None if started is not None and started.unit == unit.name and unit.name in ours else started
        if problem := _made_by_others(unit, container):
            findings.refusals.append(f"{problem}; {_remedy(unit, container, settings)}")
    for name, path, what in existing.data:
        shown, place = printable(name, 80), quote(printable(path, 300))
        if what == "database" and settings.own_postgres and not data:
            directory = settings.postgres_directory
            findings.refusals.append(
                f"Podman's volume {shown} has a database in {place}, and {directory} has none yet; expected the node's "
                f"database there. To keep it, stop what uses it, then: mkdir -p {directory} && cp -a {place}/. "
                f"{directory}/; else rename or remove the volume. Then run again."
            )
        elif what == "key" and not key:
            findings.refusals.append(
                f"Podman's volume {shown} has a key in {place}, and {settings.key_directory} has none yet; expected "
                f"the node's key there. To keep it: {_copy_key(path, settings)}; else remove the volume. Then run "
                "again."
            )


def _made_by_others(unit: ExistingUnit, container: ExistingContainer | None) -> str | None:
    """Describe the part of a unit that no deploy made; ``None`` when there is none."""
    # A file that was moved away without a daemon-reload: nothing is left of the unit when it is stopped.
    gone = unit.file == "missing" and unit.is_from_its_file
    source = printable(unit.source or "a transient unit", 200)
    if unit.load == "masked":
        return f"{unit.name} is masked; expected it not to be"
    if unit.file == "other":
        return f"{unit.name} is made from {unit.path}, which no deploy wrote; expected none"
    if unit.also:
        also = printable(unit.also[0], 200)
        return f"{also}, which no deploy wrote, makes {unit.name} or a container of its name; expected none"
    if unit.load not in ("", "not-found") and not gone and not unit.is_from_its_file:
        return f"{unit.name} is made from {source}, which no deploy wrote; expected none"
    if container is not None:
        by = f"started by {printable(container.unit, 80)}" if container.unit else "started by hand"
        status = printable(container.status, 20)
        return f"the container {container.name} ({status}) was {by}, not by a deploy; expected none"
    if gone and unit.active in _RUNS:
        return f"{unit.name} runs, but its file {unit.path} is gone; expected it to be stopped"
    return None


def _remedy(unit: ExistingUnit, container: ExistingContainer | None, settings: Settings) -> str:
    """The commands that make room for the deploy without loss of data."""
    if unit.load == "masked":
        return f"run `systemctl unmask {unit.name}`, then run again."
    name = unit.name.removesuffix(".service")
    files = [path for path in ((unit.path,) if unit.file == "other" else ()) + unit.also]
    if not files and unit.load not in ("", "not-found") and not unit.is_from_its_file and unit.source.startswith("/"):
        files = [unit.source]
    steps = [f"systemctl stop {unit.name}"] if unit.active in _RUNS else []
    if container is not None and container.unit and container.unit != unit.name:
        steps.append(f"systemctl stop {quote(printable(container.unit, 80))}")
    elif container is not None and container.unit != unit.name:
        steps.append(f"podman stop {name}")
    keep, advice = _commands_to_keep(unit, container, settings)
    steps += keep
    if container is not None and not container.unit:
        steps.append(f"podman rename {name} {name}-before")
    steps += [f"mv {quote(printable(path, 300))} /root/" for path in files]
    if files or unit.active in _RUNS:
        steps.append("systemctl daemon-reload")
    return (
        f"{advice}to let the deploy take over: {' && '.join(steps)}; then run again."
        if steps
        else f"{advice}run again."
    )


def _commands_to_keep(
    unit: ExistingUnit, container: ExistingContainer | None, settings: Settings
) -> tuple[list[str], str]:
    """The commands that keep a unit's data, and advice to read first."""
    sources = dict(container.mounts) if container is not None else {}
    for volume in unit.volumes:
        source, _, target = volume.partition(":")
        sources.setdefault(target.split(":")[0], source)
    if unit.name == POSTGRES_UNIT:
        source = next((sources[place] for place in sorted(sources) if place.startswith("/var/lib/postgresql")), "")
        directory = settings.postgres_directory
        other = "keep its server under another name and set gevulot_postgres_url, or "
        if not source:
            return [], f"its data is in the container alone, so save it with pg_dump first; {other}"
        place = _shell_directory(source)
        if place == directory:
            return [], other
        return [f"mkdir -p {directory}", f"cp -a {place}/. {directory}/"], other
    if unit.name == NODE_UNIT:
        source = sources.get(NODE_DATA, "")
        if not source or source == settings.storage_directory:
            return [], ""  # its key lies where the guide puts it, and is taken over from there
        return [_copy_key(source, settings)], ""
    return [], ""


def _shell_directory(source: str) -> str:
    """A directory of the host for a shell: the source of a mount, a volume of Podman's among them."""
    text = printable(source, 300)
    if text.startswith("/"):
        return quote(text)
    name = f"systemd-{text.removesuffix('.volume')}" if text.endswith(".volume") else text
    return f"\"$(podman volume inspect --format '{{{{.Mountpoint}}}}' {quote(name)})\""


def _copy_key(source: str, settings: Settings) -> str:
    directory = settings.key_directory
    return f"install -d -m 700 {directory} && install -m 600 {_shell_directory(source)}/node.key {directory}/node.key"
