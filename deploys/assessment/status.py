"""The status of a host: what was observed on it, judged against what its operator asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from deploys import manifest
from deploys.assessment import boards as selection
from deploys.assessment import checks, node_status, pending_reboot, status_document
from deploys.assessment.boot_layers import lint
from deploys.assessment.kernel_arguments import KERNEL_ARGUMENTS, REMAPPING_OFF, defeats, holds
from deploys.assessment.observations import Observations
from deploys.assessment.reasons import Reasons
from deploys.assessment.status_document import HostStatus, Severity, down
from deploys.settings import HostSettings, Settings
from facts import pciids
from facts.pci import Binding, DeviceUsage
from pcibind.decide import judgement
from pcibind.decide.judgement import BoardJudgement, Judgement, Standing
from pcibind.model.errors import ConfigError
from pcibind.model.pci import DRIVER
from pcibind.model.record import Verdict
from pcibind.model.request import Configuration


def judge(name: str, settings: HostSettings, observed: Observations) -> HostStatus:
    """Judge a host. One that is to have no node is judged as a host alone."""
    if observed.platform is None:
        reason = "; ".join(observed.unreadable) or "there was no answer"
        return down(name, f"what the host is could not be read; {reason}")
    node = settings if isinstance(settings, Settings) and not observed.is_gpu_host else None
    reasons = Reasons("deploys/gpu_host.py" if node is None else "deploys/node.py")
    unreadable = (
        *(observed.unreadable if node else observed.unreadable_of_host),
        *observed.topology.unreadable,
        *_unreadable_framebuffers(observed.usage),
    )
    reasons.add(Severity.ATTENTION, *(f"could not be read: {each}" for each in unreadable))
    if node and observed.platform.podman is None and "podman" in observed.platform.tools:
        reasons.add(Severity.ATTENTION, "Podman is installed, but does not print its version: it hangs or fails")
    judged = _judge_boards(settings, observed, reasons)
    if judged.boards and observed.knows("lines"):
        # Before what follows from it: boards without vfio-pci, and a node that was skipped.
        against = defeats(observed.lines.live, observed.platform.iommu_table, node=node is not None)
        reasons.add(Severity.WRONG, *(f"the kernel runs with {each}" for each in against if each.of_boards))
    boards = _boards(judged, observed, reasons)
    wanted = bool(boards.list)
    arguments = _kernel_arguments(observed, wanted, node=node is not None)
    iommu = _iommu(observed, wanted, reasons)
    pending = _pending_reboot(observed, arguments.wanted, boards, node=node is not None)
    reasons.add(Severity.ATTENTION, *(f"a reboot is pending: {reason}" for reason in pending))
    present = [each.board for each in judged.resolutions if each.board]
    layers = lint(observed, arguments, present)
    reasons.add(Severity.ATTENTION, *layers)
    of_node = node_status.NodeStatus()
    if node:
        of_node = node_status.judge(node, observed, present, reasons)
    elif observed.parts is not None and observed.knows("topology", "record"):
        reasons.add_failed(checks.devices(observed.parts, present))
    verified = observed.verified
    return HostStatus(
        name=name,
        deployed_as=_deployed_as(observed),
        platform=status_document.Platform(
            observed.platform.name, observed.platform.kernel, observed.platform.cores, observed.platform.memory_kib
        ),
        boards=boards,
        iommu=iommu,
        kernel_arguments=arguments,
        reboot_pending=pending,
        podman=observed.platform.podman,
        **of_node._asdict(),
        verified=None if verified is None else status_document.moment(datetime.fromtimestamp(verified, UTC)),
        lint=tuple(layers),
        topology=observed.topology.to_json() if observed.knows("topology") else None,
        unreadable=unreadable,
        # Last: all of the above adds to them.
        severity=reasons.severity,
        reasons=reasons.worst_first,
    )


def _deployed_as(observed: Observations) -> str | None:
    if observed.is_gpu_host:
        return manifest.AS_GPU_HOST
    return manifest.AS_NODE if observed.has_node or observed.deployed == manifest.AS_NODE else None


def _unreadable_framebuffers(usage: DeviceUsage | None) -> Iterable[str]:
    unreadable = usage.evidence.unreadable if usage else ()
    return (f"the {guard}: {why}" for guard, why in unreadable if guard == "framebuffer")


def _iommu(observed: Observations, wanted: bool, reasons: Reasons) -> status_document.Iommu:
    assert observed.platform is not None
    table = observed.platform.iommu_table
    is_on = any(function.iommu_group is not None for function in observed.topology.functions)
    if wanted and observed.knows("topology") and not is_on:
        step = f"run {reasons.runbook}, and reboot where it asks for that"
        if table is None:
            step = "the firmware offers none (no table DMAR or IVRS); switch VT-d or AMD-Vi on in its setup"
        reasons.add(Severity.WRONG, f"the IOMMU is off: {step}")
    elif wanted and observed.knows("remapping") and not observed.remapping:
        reasons.add(Severity.WRONG, f"interrupt remapping is off, so VFIO refuses the boards; {REMAPPING_OFF}")
    return status_document.Iommu(table, is_on, observed.remapping)


def _pending_reboot(
    observed: Observations, arguments: tuple[str, ...], boards: status_document.Boards, *, node: bool
) -> tuple[str, ...]:
    paths = [each.path for each in boards.list if each.path]
    pending = []
    if observed.knows("lines"):
        pending += pending_reboot.pending(observed.lines, arguments, observed.topology, paths, node=node)
    if observed.reboot_required:
        pending.append("the distribution asks for one")
    return tuple(pending)


def _judge_boards(settings: HostSettings, observed: Observations, reasons: Reasons) -> Judgement:
    topology = observed.topology
    if not observed.knows("topology", "record"):
        # All boards would seem to be gone.
        return Judgement(Configuration(()), topology)
    record = observed.record.record
    config = selection.request_boards(topology, settings, record)
    try:
        # What could not be read is shown beside the boards, and what a reboot ends is no fault.
        evidence = observed.usage.evidence._replace(unreadable=()) if observed.usage else None
        return judgement.judge(topology, evidence, config, record, next_boot=True)
    except ConfigError as error:
        reasons.add(Severity.WRONG, f"gevulot_boards: {error}")
        return Judgement(config, topology)


def _boards(judged: Judgement, observed: Observations, reasons: Reasons) -> status_document.Boards:
    boards = [_board(each, observed, reasons) for each in judged.boards]
    reasons.add(
        Severity.ATTENTION,
        *(f"board {each.label} is on record but not asked for; run {reasons.runbook}" for each in judged.removed),
        *(f"board {each.path} is not asked for, but the initramfs gives it to vfio-pci" for each in judged.taken),
    )
    is_deployed = observed.has_node or observed.is_gpu_host
    if boards and is_deployed and observed.knows("units", "record", "binding"):
        if observed.record.record is None:
            reasons.add(
                Severity.WRONG, f"pcibind has no record, so the next boot binds no board; run {reasons.runbook}"
            )
        elif observed.binding is None:
            reasons.add(Severity.WRONG, f"pcibind is not installed, and its record is; run {reasons.runbook}")
    if observed.binding is not None and not observed.binding.bound:
        reasons.add(Severity.WRONG, *_errors_of(observed.binding))
    return status_document.Boards(len(boards), sum(each.state == "bound" for each in boards), tuple(boards))


def _board(judged: BoardJudgement, observed: Observations, reasons: Reasons) -> status_document.Board:
    resolution = judged.resolution
    place = resolution.board or resolution.recorded
    path = place.path if place else ""
    reported = _reported_boards(observed.binding).get(path, {})
    board = observed.topology.board_at(path) if path else None
    unbound = [each for each in board.functions if each.driver != DRIVER] if board else []
    bound = judged.standing is Standing.BOUND or (resolution.board is not None and not unbound)
    state = str(reported.get("state") or ("bound" if bound else "unbound"))
    if state == "bound" and not bound:
        state = "unbound"
    if resolution.verdict is not Verdict.PRESENT:
        # pcibind's own sentence is for an operator who configures pcibind by hand.
        detail = selection.describe_missing(resolution)
        reasons.add(Severity.WRONG, detail)
    else:
        drivers = ", ".join(f"{each.address} has {each.driver or 'no driver'}" for each in unbound)
        detail = str(reported.get("detail") or drivers)
        if state != "bound":
            reasons.add(Severity.WRONG, f"board {resolution.label} is {state}: {detail}")
        # For a board that is not bound yet, what a deploy would refuse; for another, why a program's start fails.
        reasons.add(Severity.WRONG, *(selection.explain_refusal(refusal) for refusal in judged.refusals))
    strangers = judgement.list_blocking_functions(observed.topology, board) if board else []
    viable = not strangers if board and board.groups else None
    if viable is False and state == "bound":
        reasons.add(
            Severity.WRONG,
            f"board {resolution.label}: its IOMMU group is held by the host: {', '.join(strangers)}",
        )
    display = (board.display_functions or board.functions)[0] if board else None
    return status_document.Board(
        name=resolution.name,
        path=path or None,
        address=str(board.address) if board else None,
        model=board.model if board else None,
        model_name=pciids.installed().device(display.vendor, display.device) if display else None,
        verdict=resolution.verdict.value,
        state=state,
        detail=detail,
        groups=board.groups if board else (),
        viable=viable,
    )


def _reported_boards(binding: Binding | None) -> dict[str, dict[str, Any]]:
    boards = binding.report.get("boards") if binding else None
    if not isinstance(boards, list):
        return {}
    return {str(each.get("path")): each for each in boards if isinstance(each, dict)}


def _errors_of(binding: Binding) -> list[str]:
    """pcibind's errors. A board that is not bound has a reason of its own."""
    errors = binding.report.get("errors")
    sentences = [f"pcibind: {each}" for each in errors] if isinstance(errors, list) else []
    if not sentences and all(each.get("state") == "bound" for each in _reported_boards(binding).values()):
        sentences = [f"pcibind status ends with {binding.exit_code}; run `pcibind status` there"]
    return sentences


def _kernel_arguments(observed: Observations, wanted: bool, *, node: bool) -> status_document.KernelArguments:
    assert observed.platform is not None
    arguments = KERNEL_ARGUMENTS.get(observed.platform.iommu_table or "", ()) if wanted else ()
    if not arguments or not observed.knows("lines"):
        return status_document.KernelArguments(arguments, None, None)
    live, configured = holds(observed.lines, arguments, node=node)
    # A login that may not read the boot loader's menu sees no entry of it.
    is_known = bool(observed.lines.next) or not observed.lines.hidden
    return status_document.KernelArguments(arguments, live, configured if is_known else None)
