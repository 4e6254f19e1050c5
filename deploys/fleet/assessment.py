"""From what a host said to how it stands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from deploys import manifest, preflight
from deploys.assessment import activity, checks, diagnosis, pending_reboot, platforms, qmp
from deploys.assessment.checks import Check
from deploys.assessment.kernel_arguments import REMAPPING_OFF, effective
from deploys.fleet import state
from deploys.fleet.boot_layers import lint
from deploys.fleet.observations import Seen
from deploys.fleet.state import HostState, Severity, down
from deploys.preflight.boards import explain, missing
from deploys.settings import HostSettings, Settings
from facts import pciids
from facts.disk import Space
from facts.pci import Binding, Usage
from pcibind.decide import judgement
from pcibind.decide.judgement import BoardJudgement, Judgement, Standing
from pcibind.model.errors import ConfigError
from pcibind.model.pci import DRIVER, Board
from pcibind.model.record import Verdict
from pcibind.model.request import Config

# Below this part of a volume somebody has to make room.
_LITTLE_SPACE = 0.1
_KEYS = {"ok": "present", "missing": "missing", "changed": "changed"}


class _Findings:
    """Reasons, with how bad each is. ``runbook`` is the script whose run would help."""

    def __init__(self, runbook: str) -> None:
        self.runbook = runbook
        self._found: list[tuple[Severity, str]] = []

    def add(self, severity: Severity, *reasons: str) -> None:
        self._found += [(severity, reason) for reason in reasons]

    @property
    def severity(self) -> Severity:
        return max((severity for severity, _ in self._found), key=lambda each: each.rank, default=Severity.OK)

    @property
    def reasons(self) -> tuple[str, ...]:
        worst_first = sorted(self._found, key=lambda found: -found[0].rank)
        return tuple(dict.fromkeys(reason for _, reason in worst_first))


def judge(name: str, settings: HostSettings, seen: Seen) -> HostState:
    """How a host stands against what its operator asked for; one that is to have no node, as a host alone."""
    if seen.platform is None:
        return down(name, f"what the host is could not be read; {'; '.join(seen.unreadable) or 'it said nothing'}")
    node = settings if isinstance(settings, Settings) and not seen.is_gpu_host else None
    found = _Findings("deploys/gpu_host.py" if node is None else "deploys/node.py")
    unreadable = (
        *(seen.unreadable if node else seen.unreadable_of_host),
        *seen.topology.unreadable,
        *_unseen(seen.usage),
    )
    found.add(Severity.ATTENTION, *(f"could not be read: {each}" for each in unreadable))
    if node and seen.platform.podman is None and "podman" in seen.platform.tools:
        found.add(Severity.ATTENTION, "Podman is installed, but does not say its version: it hangs or fails")
    judged = _judged(settings, seen, found)
    resolutions = judged.resolutions
    boards = _boards(judged, seen, found)
    wanted = bool(boards.list)
    arguments = _arguments(seen, wanted, node=node is not None)
    iommu = state.Iommu(
        seen.platform.iommu_table,
        any(function.iommu_group is not None for function in seen.topology.functions),
        seen.remapping,
    )
    if wanted and seen.knows("topology") and not iommu.on:
        found.add(Severity.WRONG, f"the IOMMU is off: {_why_off(iommu, found.runbook)}")
    elif wanted and seen.knows("remapping") and not iommu.interrupt_remapping:
        found.add(Severity.WRONG, f"interrupt remapping is off, so VFIO refuses the boards; {REMAPPING_OFF}")
    paths = [each.path for each in boards.list if each.path]
    waiting = tuple(
        [
            *(
                pending_reboot.pending(seen.lines, arguments.wanted, seen.topology, paths, node=node is not None)
                if seen.knows("lines")
                else ()
            ),
            *("the distribution asks for one" for _ in seen.reboot_required),
        ]
    )
    found.add(Severity.ATTENTION, *(f"a reboot is pending: {reason}" for reason in waiting))
    present = [each.board for each in resolutions if each.board]
    layers = lint(seen, arguments, present)
    found.add(Severity.ATTENTION, *layers)
    return HostState(
        name=name,
        deployed_as=_deployed_as(seen),
        platform=state.Platform(
            seen.platform.name, seen.platform.kernel, seen.platform.cores, seen.platform.memory_kib
        ),
        boards=boards,
        iommu=iommu,
        kernel_arguments=arguments,
        reboot_pending=waiting,
        podman=seen.platform.podman,
        **(_node(node, seen, present, found) if node else _without_node(seen, present, found)),
        storage=_storage(node, seen.space, found) if node else None,
        verified=None if seen.verified is None else state.moment(datetime.fromtimestamp(seen.verified, UTC)),
        lint=tuple(layers),
        topology=seen.topology.to_json() if seen.knows("topology") else None,
        unreadable=unreadable,
        # Last: all of the above adds to them.
        severity=found.severity,
        reasons=found.reasons,
    )


def _why_off(iommu: state.Iommu, runbook: str) -> str:
    if iommu.table is None:
        return "the firmware offers none (no table DMAR or IVRS); switch VT-d or AMD-Vi on in its setup"
    return f"run {runbook}, and reboot where it says so"


def _deployed_as(seen: Seen) -> str | None:
    if seen.is_gpu_host:
        return manifest.AS_GPU_HOST
    return manifest.AS_NODE if seen.has_node or seen.deployed == manifest.AS_NODE else None


def _unseen(usage: Usage | None) -> Iterable[str]:
    """What could not be read of what the lint looks at."""
    unreadable = usage.evidence.unreadable if usage else ()
    return (f"the {guard}: {why}" for guard, why in unreadable if guard == "framebuffer")


def _judged(settings: HostSettings, seen: Seen, found: _Findings) -> Judgement:
    topology = seen.topology
    if not seen.knows("topology", "record"):
        # All boards would seem to be gone.
        return Judgement(Config(()), topology)
    record = seen.record.record
    config = preflight.request(topology, settings, record)
    try:
        # What could not be read is shown beside the boards, and what a reboot ends is no fault.
        evidence = seen.usage.evidence._replace(unreadable=()) if seen.usage else None
        return judgement.judge(topology, evidence, config, record, next_boot=True)
    except ConfigError as error:
        found.add(Severity.WRONG, f"gevulot_boards: {error}")
        return Judgement(config, topology)


def _boards(judged: Judgement, seen: Seen, found: _Findings) -> state.Boards:
    boards = [_board(each, seen, found) for each in judged.boards]
    found.add(
        Severity.ATTENTION,
        *(f"board {each.label} is on record but not asked for; run {found.runbook}" for each in judged.removed),
        *(f"board {each.path} is not asked for, but the initramfs gives it to vfio-pci" for each in judged.taken),
    )
    if boards and seen.knows("units", "record", "binding") and (seen.has_node or seen.is_gpu_host):
        if seen.record.record is None:
            found.add(Severity.WRONG, f"pcibind has no record, so the next boot binds no board; run {found.runbook}")
        elif seen.binding is None:
            found.add(Severity.WRONG, f"pcibind is not installed, and its record is; run {found.runbook}")
    if seen.binding is not None and not seen.binding.bound:
        found.add(Severity.WRONG, *_complaints(seen.binding))
    return state.Boards(len(boards), sum(each.state == "bound" for each in boards), tuple(boards))


def _board(judged: BoardJudgement, seen: Seen, found: _Findings) -> state.Board:
    resolution = judged.resolution
    place = resolution.board or resolution.recorded
    path = place.path if place else ""
    reported = _reported(seen.binding).get(path, {})
    board = seen.topology.board_at(path) if path else None
    wrong = [each for each in board.functions if each.driver != DRIVER] if board else []
    bound = judged.standing is Standing.BOUND or (resolution.board is not None and not wrong)
    status = str(reported.get("state") or ("bound" if bound else "unbound"))
    if status == "bound" and not bound:
        status = "unbound"
    if resolution.verdict is not Verdict.PRESENT:
        # What pcibind says of it is for who configures pcibind by hand.
        detail = missing(resolution)
        found.add(Severity.WRONG, detail)
    else:
        detail = str(reported.get("detail") or ", ".join(f"{f.address} has {f.driver or 'no driver'}" for f in wrong))
        if status != "bound":
            found.add(Severity.WRONG, f"board {resolution.label} is {status}: {detail}")
        # Of a board that is not bound yet, what a deploy would refuse; of another, why a program's start fails.
        found.add(Severity.WRONG, *(explain(refusal) for refusal in judged.refusals))
    held = judgement.list_blocking_functions(seen.topology, board) if board else []
    viable = not held if board and board.groups else None
    if viable is False and status == "bound":
        found.add(Severity.WRONG, f"board {resolution.label}: its IOMMU group is held by the host: {', '.join(held)}")
    names = pciids.installed()
    display = (board.display_functions or board.functions)[0] if board else None
    return state.Board(
        name=resolution.name,
        path=path or None,
        address=str(board.address) if board else None,
        model=board.model if board else None,
        model_name=names.device(display.vendor, display.device) if display else None,
        verdict=resolution.verdict.value,
        state=status,
        detail=detail,
        groups=board.groups if board else (),
        viable=viable,
    )


def _reported(binding: Binding | None) -> dict[str, dict[str, Any]]:
    boards = binding.report.get("boards") if binding else None
    if not isinstance(boards, list):
        return {}
    return {str(each.get("path")): each for each in boards if isinstance(each, dict)}


def _complaints(binding: Binding) -> list[str]:
    """What pcibind says beside its boards; of boards that are not well their own reasons tell."""
    errors = binding.report.get("errors")
    said = [f"pcibind: {each}" for each in errors] if isinstance(errors, list) else []
    boards = _reported(binding).values()
    if not said and all(each.get("state") == "bound" for each in boards):
        said = [f"pcibind status ends with {binding.exit_code}; run `pcibind status` there"]
    return said


def _arguments(seen: Seen, wanted: bool, *, node: bool) -> state.KernelArguments:
    assert seen.platform is not None
    arguments = preflight.KERNEL_ARGUMENTS.get(seen.platform.iommu_table or "", ()) if wanted else ()
    if not arguments or not seen.knows("lines"):
        return state.KernelArguments(arguments, None, None)
    live = effective(seen.lines.live, arguments, node=node)
    entries = seen.lines.next
    configured = bool(entries) and all(effective(line, arguments, node=node) for line in entries)
    # A login that may not read the boot loader's menu sees no entry of it.
    known = bool(entries) or not seen.lines.hidden
    return state.KernelArguments(arguments, live, configured if known else None)


def _node(settings: Settings, seen: Seen, boards: list[Board], found: _Findings) -> dict[str, Any]:
    if not seen.knows("units"):
        return {}
    node = seen.units.get(manifest.NODE_UNIT)
    if node is None or not seen.has_node:
        assert seen.platform is not None
        family = platforms.family_of(seen.platform)
        step = "run deploys/node.py, or deploys/gpu_host.py for a host without one"
        if isinstance(family, str):
            step = f"deploys/node.py refuses it: {family}"
        elif seen.deployed == manifest.AS_NODE:
            step = "run deploys/node.py"
        found.add(Severity.WRONG, f"no node is deployed: it has no gevulot-node.service; {step}")
        return {"node": state.Node("not deployed", 0), "key": _key(seen, found, deployed=False)}
    trouble = diagnosis.diagnose(seen.runs, settings) if seen.knows("runs") else None
    up = node.running and trouble is None
    if trouble is not None:
        found.add(Severity.WRONG, f"{manifest.NODE_UNIT} is {trouble.found}; {trouble.step}")
    elif not node.running:
        found.add(Severity.WRONG, f"gevulot-node.service is {node.active} ({node.result or node.sub})")
    wanted = (
        manifest.NODE_UNIT,
        manifest.MIGRATION_UNIT,
        manifest.FIREWALL_UNIT,
        *((manifest.POSTGRES_UNIT,) if settings.own_postgres else ()),
    )
    for name in wanted:
        one = seen.units.get(name)
        if one is None or one.load != "loaded":
            found.add(Severity.WRONG, f"there is no {name}")
        elif one.needs_reload:
            found.add(Severity.ATTENTION, f"{name} was changed on disk: systemctl daemon-reload, then restart it")
    database = seen.units.get(manifest.POSTGRES_UNIT)
    if settings.own_postgres and database is not None and not database.running:
        found.add(Severity.WRONG, f"{manifest.POSTGRES_UNIT} is {database.active} ({database.result or database.sub})")
    migration = seen.units.get(manifest.MIGRATION_UNIT)
    if migration is not None and migration.result != "success":
        found.add(Severity.WRONG, f"the migration's last result is {migration.result}")
    doing = None
    if up and seen.knows("activity"):
        doing = activity.judge(seen.activity, executes=not settings.no_execution)
        found.add(Severity.WRONG if doing.is_wrong else Severity.ATTENTION, *doing.reasons)
    container = seen.container
    if up and seen.knows("container", "topology", "record"):
        _add(found, checks.container(container, settings, boards))
    if container is not None and container.name != settings.node_image:
        found.add(Severity.ATTENTION, f"the node runs {container.name}, asked for is {settings.node_image}")
    if seen.parts is not None and seen.knows("topology", "record"):
        _add(found, [*checks.devices(seen.parts, boards), *checks.sockets(seen.parts)])
    peers = checks.peers(seen.firewall, settings) if seen.knows("firewall") else None
    _add(found, [peers, qmp.check(seen.firewall, settings, node), *checks.saved_rules(seen.firewall)] if peers else [])
    database_secret = manifest.PASSWORD_SECRET if settings.own_postgres else manifest.URL_SECRET
    needed = {manifest.PASSPHRASE_SECRET, database_secret} if seen.knows("secrets") else set()
    missing = tuple(sorted(needed - set(seen.secrets)))
    found.add(Severity.WRONG, *(f"the secret {name} is not there" for name in missing))
    if seen.access is not None and seen.access.own and seen.access.listed is not None and not seen.access.own_is_listed:
        step = "run deploys/node.py" if settings.acl_whitelist_url is None else "see gevulot_acl_whitelist_url"
        found.add(Severity.WRONG, f"the node rejects its own results: its key is not in its access list; {step}")
    return {
        "secrets_missing": missing,
        "database": _database(settings, seen, found),
        "migration": migration.result if migration else None,
        "node": state.Node("restarting" if trouble and trouble.looping else node.active, node.since),
        "peers": peers.found if peers else None,
        "health": seen.activity.health if seen.activity else None,
        "activity": _activity(doing) if doing else None,
        "image": state.Image(container.name, container.image) if container else None,
        "key": _key(seen, found, deployed=True),
    }


def _without_node(seen: Seen, boards: list[Board], found: _Findings) -> dict[str, Any]:
    """Of a host that is to have no node: who may open its boards."""
    if seen.parts is not None and seen.knows("topology", "record"):
        _add(found, checks.devices(seen.parts, boards))
    return {}


def _activity(doing: activity.Doing) -> state.Activity:
    programs = (state.Program(each.guest_cid, each.boards, round(each.seconds)) for each in doing.programs)
    return state.Activity(doing.state.value, tuple(programs))


def _add(found: _Findings, made: Iterable[Check]) -> None:
    """Add what is wrong of the checks that a deploy makes at its end."""
    found.add(
        Severity.WRONG,
        *(f"{each.what}: {each.found}, expected {each.expected}" for each in made if each.ok is False),
    )


def _database(settings: Settings, seen: Seen, found: _Findings) -> state.Database:
    if not settings.own_postgres:
        return state.Database("external", None, None, ())
    if not seen.knows("schema"):
        return state.Database("own", None, None, ())
    if seen.schema is None:
        found.add(Severity.WRONG, "the database does not answer")
        return state.Database("own", False, None, ())
    missing = tuple(seen.schema.missing)
    if missing:
        found.add(Severity.WRONG, f"the database has no {', '.join(missing)}")
    if seen.schema.release != settings.postgres_release:
        found.add(
            Severity.WRONG, f"the database is release {seen.schema.release}, expected {settings.postgres_release}"
        )
    return state.Database("own", True, seen.schema.release, missing)


def _key(seen: Seen, found: _Findings, *, deployed: bool) -> state.Key:
    word = _KEYS.get(seen.key, seen.key) if seen.knows("key") and seen.key else "unknown"
    if word == "lost" or (deployed and seen.knows("key") and word != "present"):
        found.add(Severity.WRONG, f"the node's key is {word}")
    return state.Key(word, seen.parts.public_key if seen.parts else None)


def _storage(settings: Settings, space: Space | None, found: _Findings) -> state.Storage | None:
    if space is None:
        return None
    if space.free_kib < _LITTLE_SPACE * space.size_kib:
        found.add(
            Severity.ATTENTION,
            f"{settings.storage_directory} has {space.free_kib / 1024**2:.0f} GiB left of "
            f"{space.size_kib / 1024**2:.0f} GiB",
        )
    return state.Storage(settings.storage_directory, space.free_kib, space.size_kib)
