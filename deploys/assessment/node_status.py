"""The status of a host's node. Pure."""

from __future__ import annotations

from typing import NamedTuple

from deploys import manifest
from deploys.assessment import activity, checks, diagnosis, platforms, qmp, status_document
from deploys.assessment.diagnosis import Diagnosis
from deploys.assessment.observations import Observations
from deploys.assessment.reasons import Reasons
from deploys.assessment.status_document import Severity
from deploys.settings import Settings
from facts.unit import Unit
from pcibind.model.pci import Board

# Below this part of a volume an operator has to free space.
_LITTLE_SPACE = 0.1
_KEYS = {"ok": "present", "missing": "missing", "changed": "changed"}


class NodeStatus(NamedTuple):
    """The parts of a host's status that only a node has, by their names in ``HostStatus``."""

    secrets_missing: tuple[str, ...] | None = None
    database: status_document.Database | None = None
    migration: str | None = None
    node: status_document.Node | None = None
    peers: str | None = None
    health: int | None = None
    activity: status_document.Activity | None = None
    image: status_document.Image | None = None
    storage: status_document.Storage | None = None
    key: status_document.Key | None = None


def judge(settings: Settings, observed: Observations, boards: list[Board], reasons: Reasons) -> NodeStatus:
    status = NodeStatus(storage=_storage(settings, observed, reasons))
    if not observed.knows("units"):
        return status
    node = observed.units.get(manifest.NODE_UNIT)
    if node is None or not observed.has_node:
        reasons.add(Severity.WRONG, f"no node is deployed: it has no {manifest.NODE_UNIT}; {_step(observed)}")
        key = _key(observed, reasons, deployed=False)
        return status._replace(node=status_document.Node("not deployed", 0), key=key)
    problem = diagnosis.diagnose(observed.runs, settings) if observed.knows("runs") else None
    if problem is not None:
        reasons.add(Severity.WRONG, f"{manifest.NODE_UNIT} is {problem.problem}; {problem.step}")
    _judge_units(settings, observed, problem, reasons)
    current = _judge_runtime(settings, observed, boards, reasons, is_up=node.running and problem is None)
    if observed.parts is not None and observed.knows("topology", "record"):
        reasons.add_failed([*checks.devices(observed.parts, boards), *checks.sockets(observed.parts)])
    access = observed.access
    if access is not None and access.own and access.listed is not None:
        reasons.add_failed([checks.access(access, settings, "")])
    migration = observed.units.get(manifest.MIGRATION_UNIT)
    container = observed.container
    return status._replace(
        secrets_missing=_missing_secrets(settings, observed, reasons),
        database=_database(settings, observed, reasons),
        migration=migration.result if migration else None,
        node=status_document.Node("restarting" if problem and problem.looping else node.active, node.since),
        peers=_judge_firewall(settings, observed, node, reasons),
        health=observed.activity.health if observed.activity else None,
        activity=_activity(current) if current else None,
        image=status_document.Image(container.name, container.image) if container else None,
        key=_key(observed, reasons, deployed=True),
    )


def _step(observed: Observations) -> str:
    assert observed.platform is not None
    family = platforms.family_of(observed.platform)
    if isinstance(family, str):
        return f"deploys/node.py refuses it: {family}"
    if observed.deployed == manifest.AS_NODE:
        return "run deploys/node.py"
    return "run deploys/node.py, or deploys/gpu_host.py for a host without one"


def _judge_units(settings: Settings, observed: Observations, problem: Diagnosis | None, reasons: Reasons) -> None:
    own = (manifest.POSTGRES_UNIT,) if settings.own_postgres else ()
    # The diagnosis names the node's own failure with its cause.
    running = (*(() if problem else (manifest.NODE_UNIT,)), *own)
    firewall = observed.units.get(manifest.FIREWALL_UNIT)
    if firewall is None or firewall.load != "loaded":
        # One that is there is judged by its rules: systemd calls it "reloading" while it reads new ones.
        running = (*running, manifest.FIREWALL_UNIT)
    reasons.add_failed([*checks.units(observed.units, running), checks.migration(observed.units)])
    for name in (manifest.NODE_UNIT, manifest.MIGRATION_UNIT, manifest.FIREWALL_UNIT, *own):
        unit = observed.units.get(name)
        if unit is not None and unit.load == "loaded" and unit.needs_reload:
            reasons.add(Severity.ATTENTION, f"{name} was changed on disk: systemctl daemon-reload, then restart it")


def _judge_runtime(
    settings: Settings, observed: Observations, boards: list[Board], reasons: Reasons, *, is_up: bool
) -> activity.Assessment | None:
    """Return what the node does. ``is_up``: it runs, and not in a restart loop."""
    container, current = observed.container, None
    if is_up and observed.knows("activity"):
        current = activity.judge(observed.activity, executes=not settings.no_execution)
        reasons.add(Severity.WRONG if current.has_failed else Severity.ATTENTION, *current.reasons)
    if is_up and observed.knows("container", "topology", "record"):
        reasons.add_failed(checks.container(container, settings, boards))
    if container is not None and container.name != settings.node_image:
        reasons.add(Severity.ATTENTION, f"the node runs {container.name}, asked for is {settings.node_image}")
    return current


def _judge_firewall(settings: Settings, observed: Observations, node: Unit, reasons: Reasons) -> str | None:
    """Who may reach the peer-to-peer ports, in words, or ``None`` where it is not known."""
    if not observed.knows("firewall"):
        return None
    firewall = observed.firewall
    peers = checks.peers(firewall, settings)
    reasons.add_failed([peers, qmp.check(firewall, settings, node), *checks.saved_rules(firewall)])
    return peers.actual


def _missing_secrets(settings: Settings, observed: Observations, reasons: Reasons) -> tuple[str, ...]:
    database = manifest.PASSWORD_SECRET if settings.own_postgres else manifest.URL_SECRET
    needed = {manifest.PASSPHRASE_SECRET, database} if observed.knows("secrets") else set()
    missing = tuple(sorted(needed - set(observed.secrets)))
    reasons.add(Severity.WRONG, *(f"the secret {name} is missing" for name in missing))
    return missing


def _activity(current: activity.Assessment) -> status_document.Activity:
    programs = (status_document.Program(each.guest_cid, each.boards, round(each.seconds)) for each in current.programs)
    return status_document.Activity(current.state.value, tuple(programs))


def _database(settings: Settings, observed: Observations, reasons: Reasons) -> status_document.Database:
    if not settings.own_postgres:
        return status_document.Database("external", None, None, ())
    if not observed.knows("schema"):
        return status_document.Database("own", None, None, ())
    schema = observed.schema
    reasons.add_failed(checks.schema(schema, settings, "asked on the host"))
    if schema is None:
        return status_document.Database("own", False, None, ())
    return status_document.Database("own", True, schema.release, tuple(schema.missing))


def _key(observed: Observations, reasons: Reasons, *, deployed: bool) -> status_document.Key:
    state = _KEYS.get(observed.key, observed.key) if observed.knows("key") and observed.key else "unknown"
    if state == "lost" or (deployed and observed.knows("key") and state != "present"):
        reasons.add(Severity.WRONG, f"the node's key is {state}")
    return status_document.Key(state, observed.parts.public_key if observed.parts else None)


def _storage(settings: Settings, observed: Observations, reasons: Reasons) -> status_document.Storage | None:
    space = observed.space
    if space is None:
        return None
    if space.free_kib < _LITTLE_SPACE * space.size_kib:
        reasons.add(
            Severity.ATTENTION,
            f"{settings.storage_directory} has {space.free_kib / 1024**2:.0f} GiB left of "
            f"{space.size_kib / 1024**2:.0f} GiB",
        )
    return status_document.Storage(settings.storage_directory, space.free_kib, space.size_kib)
