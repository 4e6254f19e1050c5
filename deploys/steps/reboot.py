"""The reboot: only when the live state needs it, one host or batch at a time, each verified before the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from shlex import quote
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import BoundedSemaphore
from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.context import ctx_host, ctx_state

from deploys.assessment import failures, reboot_attempt
from deploys.assessment.kernel_arguments import REMAPPING_OFF
from deploys.manifest import GRUB_DROP_IN, MODULES, PCIBIND, STATE_DIRECTORIES
from deploys.operations.pending_reboot import BootTarget, PendingReboot, find_reasons, target_of
from deploys.operations.planning import step, will_follow
from deploys.settings import HostSettings
from deploys.steps.preflight import GpuHost, refused_alone
from deploys.transport import connection, heartbeat, remote
from facts.attempt import RebootAttempts
from facts.batch import Part, ask
from facts.installed_kernels import InstalledKernels
from facts.kernel import InterruptRemapping, KernelCommandLine
from facts.paths import ExistingPaths
from facts.pci import PciBinding
from facts.unit import FailedUnits, SystemState, Units
from facts.untrusted import printable


@dataclass(frozen=True, slots=True)
class Errand:
    """What one host's reboot is for. Both questions are asked of pyinfra's current host.

    ``reasons`` says why a reboot is due, and is empty when none is; ``wrong`` says what is wrong with a host that came
    back without such a reason. It may take ``timeout`` seconds. After the first host, which reboots alone, up to
    ``at_once`` hosts reboot side by side.
    """

    timeout: int
    reasons: Callable[[], list[str]]
    wrong: Callable[[], str | None]
    at_once: int = 1
    # The digest of what decides the boot: with the same one, a second reboot would bring no more than the first.
    digest: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class _Due:
    """A reboot that is due: why, and the digest of what decides the boot, where it is kept."""

    errand: Errand
    why: list[str]
    digest: str | None


# Seconds after which one try to reach a host again is given up.
_TRY_SECONDS = 90
# Letters of a line of the journal that are shown.
_LENGTH = 400


@dataclass(slots=True)
class _Roll:
    """The rolling reboot of one run. pyinfra keeps its hosts in a set, so the order is made here: the inventory's."""

    errands: dict[str, Errand] = field(default_factory=dict)
    outcome: dict[str, bool] = field(default_factory=dict)
    # With pyinfra's --no-wait several hosts come here at once.
    one_at_a_time: BoundedSemaphore = field(default_factory=BoundedSemaphore)


_rolls: WeakKeyDictionary[State, _Roll] = WeakKeyDictionary()


@operation()
def rebooted(errand: Errand, inputs: list[OperationMeta]) -> Generator[PyinfraCommand, None, None]:
    """Reboot the host when its live state needs it. Use with ``_serial=True``.

    The first host whose turn it is reboots all that need it, in the order of the inventory: one alone, then as many at
    once as their settings allow. One that does not come back right stops every later reboot, and so does a host of this
    run that failed or could not be reached before.

    + errand: what the host's reboot is for
    + inputs: operations of this run that may make one due
    """
    roll = _roll_of_this_run()
    if host.name not in roll.outcome and not will_follow(inputs) and not errand.reasons():
        host.noop("the live state needs no reboot")
        return
    yield FunctionCommand(_take_part, (roll,), {})


@operation()
def report_pending(reasons: Callable[[], Iterable[str]], advice: str) -> Generator[PyinfraCommand, None, None]:
    """Say what is pending where no reboot is allowed. Changes nothing.

    + reasons: why a reboot is pending, asked of the current host
    + advice: what an operator has to know and to do then
    """
    for reason in reasons():
        host.log_styled(
            f"a reboot is pending: {reason}. {advice}",
            fg="yellow", log_func=logger.warning,
        )  # fmt: skip
    yield from ()


@operation()
def forgotten(reasons: Callable[[], Iterable[str]]) -> Generator[PyinfraCommand | str, None, None]:
    """Remove the record of an earlier reboot from a host that needs none now.

    + reasons: why a reboot is pending, asked of the current host
    """
    if not host.get_fact(ExistingPaths, paths=(reboot_attempt.FILE,)) or reasons():
        host.noop("no earlier reboot is on record, or its reason still holds")
        return
    yield f"rm -f {reboot_attempt.FILE}"


def _roll_of_this_run() -> _Roll:
    return _rolls.setdefault(ctx_state.get(), _Roll())


def _take_part(state: State, host: Host, roll: _Roll) -> bool:
    with roll.one_at_a_time:
        if host.name not in roll.outcome:
            _reboot_all(state, roll)
    return roll.outcome.get(host.name, True)


def _is_due(state: State, each: Host, current: str) -> bool:
    """Whether a host is through with all that comes before this operation; with --serial, later hosts are not."""
    order = state.get_op_order()
    earlier = order[: order.index(current)]
    return all(state.ops[each][op].operation_meta.is_complete() for op in earlier if op in state.ops[each])


def _reboot_all(state: State, roll: _Roll) -> None:
    wanted = [each for each in state.inventory if state.is_host_in_limit(each)]
    left_out = refused_alone()
    unwell = [
        each.name
        for each in wanted
        if (each not in state.active_hosts or roll.outcome.get(each.name) is False) and each.name not in left_out
    ]
    current = ctx_host.get().executing_op_hash
    batch: dict[Host, _Due] = {}
    canary = True
    with ExitStack() as turns:
        # Begun in this order, so that a host whose turn it is says what its reboot waits for.
        for each in wanted:
            turns.enter_context(heartbeat.report_wait(each, "the rolling reboot"))
        for each in wanted:
            errand = roll.errands.get(each.name)
            if errand is None or each.name in roll.outcome or each not in state.active_hosts:
                continue
            if not _is_due(state, each, current):
                continue
            with ctx_host.use(each):
                why = errand.reasons()
            if not why:
                continue
            if len(batch) >= min(one.at_once for one in (errand, *(due.errand for due in batch.values()))):
                unwell += _reboot_batch(batch, roll)
            if unwell:
                each.log_styled(
                    f"not rebooted, because {', '.join(unwell)} is not well; still pending: {'; '.join(why)}. "
                    f"Fix that host, or leave it out with --exclude, then run again.",
                    fg="red", log_func=logger.error,
                )  # fmt: skip
                roll.outcome[each.name] = False
                continue
            with ctx_host.use(each):
                digest = errand.digest() if errand.digest else None
                in_vain = (
                    reboot_attempt.refusal(each.get_fact(RebootAttempts, directories=STATE_DIRECTORIES), why, digest)
                    if digest
                    else None
                )
            if in_vain:
                each.log_styled(f"not rebooted: {in_vain}", fg="red", log_func=logger.error)
                roll.outcome[each.name] = False
                continue
            each.log_styled(f"Rebooting: {'; '.join(why)}", fg="yellow", log_func=logger.info)
            batch[each] = _Due(errand, why, digest)
            if canary:
                canary = False
                unwell += _reboot_batch(batch, roll)
        _reboot_batch(batch, roll)


def _reboot_batch(batch: dict[Host, _Due], roll: _Roll) -> list[str]:
    """Reboot these hosts side by side, and empty the batch. Returns the names of those that did not come back right."""
    gevent.joinall([gevent.spawn(_reboot_one, each, due, roll) for each, due in batch.items()])
    failed = [each.name for each in batch if not roll.outcome.get(each.name)]
    batch.clear()
    return failed


def _reboot_one(each: Host, due: _Due, roll: _Roll) -> None:
    errand = due.errand
    with ctx_host.use(each):
        try:
            problem = _reboot(each, due)
            if problem is None and due.digest:
                remote.run(each, f"rm -f {reboot_attempt.FILE}", timeout=30)
            elif (
                errand.digest
                and each.connected
                and (last := each.get_fact(RebootAttempts, directories=STATE_DIRECTORIES).last)
            ):
                # As it came back: only a change since then makes another reboot worth a try.
                _record(each, reboot_attempt.render(due.why, errand.digest(), last.boot))
        except Exception as error:  # whatever a host says must not end the roll without a word about it
            problem = f"{type(error).__name__}: {error}"
    roll.outcome[each.name] = problem is None
    if problem is None:
        each.log_styled("came back right", fg="green", log_func=logger.info)
    else:
        each.log_styled(
            f"did not come back right: {problem}. No later host is rebooted in this run.",
            fg="red", log_func=logger.error,
        )  # fmt: skip


def _record(each: Host, text: str) -> None:
    """Remember what the reboot is for, until it has brought that. A host that cannot is rebooted all the same."""
    new = f"{reboot_attempt.FILE}.new"
    command = f"umask 077; cat >{new} && sync {new} && mv {new} {reboot_attempt.FILE}"
    success, output = remote.run(each, command, stdin=text, timeout=60)
    if not success:
        logger.debug("%s: %s was not written: %s", each.name, reboot_attempt.FILE, output)


def _boot_id(each: Host) -> str | None:
    success, output = remote.run(each, "cat /proc/sys/kernel/random/boot_id", timeout=30)
    return output[0].strip() if success and output else None


def _reboot(each: Host, due: _Due) -> str | None:
    """Reboot one host and judge it. Returns what is wrong, or ``None``.

    pyinfra's own operation tells a reboot by the uptime, which fails on a host that boots slower than it had been up.
    """
    errand, before = due.errand, _boot_id(each)
    if before is None:
        return "its boot identifier could not be read, so it was not rebooted"
    if due.digest:
        _record(each, reboot_attempt.render(due.why, due.digest, before))
    failed_before = each.get_fact(FailedUnits)
    ran_before = _node_runs(each)
    way = connection.Reconnection(each)
    remote.run(each, "( sleep 1; systemctl reboot ) </dev/null >/dev/null 2>&1 &", timeout=30)
    deadline = time.monotonic() + errand.timeout
    # Connections that end half-way are what a reboot looks like from outside; paramiko would print each with its trace.
    logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)
    gevent.sleep(3)
    with heartbeat.report_wait(each, "an answer over SSH after the reboot", errand.timeout):
        while not _is_back(each, way, before):
            if time.monotonic() > deadline:
                return f"no answer over SSH within {errand.timeout} s; look at its console"
            gevent.sleep(2)
    seconds = max(30, round(deadline - time.monotonic()))
    with heartbeat.report_wait(each, "systemd to start everything after the reboot", seconds):
        wrong = _came_back_wrong(each, errand, failed_before, seconds)
    with heartbeat.report_wait(each, "the node to run again after the reboot", seconds):
        while wrong is None and ran_before and not _node_runs(each):
            if time.monotonic() > deadline:
                return "the node ran before and does not run now; see journalctl -b -u gevulot-node"
            gevent.sleep(5)
    return wrong


def _is_back(each: Host, way: connection.Reconnection, before: str) -> bool:
    try:
        # A host that is going down may also take an answer half-way and keep the connection.
        with gevent.Timeout(_TRY_SECONDS, TimeoutError(f"no answer within {_TRY_SECONDS} s")):
            boot_id = _boot_id(each) if way.reconnect() else None
    except Exception as error:  # a host that is going down may end a connection in any way
        logger.debug("%s is not back yet: %s", each.name, error)
        return False
    return boot_id not in (None, before)


def _node_runs(each: Host) -> bool:
    unit = each.get_fact(Units, units=("gevulot-node.service",)).get("gevulot-node.service")
    return unit is not None and unit.running


def _came_back_wrong(each: Host, errand: Errand, failed_before: list[str], seconds: int) -> str | None:
    system = each.get_fact(SystemState, seconds=seconds)
    if system not in ("running", "degraded"):
        return f"systemctl is-system-running says {system}; expected running"
    failed = [unit for unit in each.get_fact(FailedUnits) if unit not in failed_before]
    if failed:
        remote.run(each, failures.remember(failed), timeout=60)
    # First, since it is the cause where it holds: without an IOMMU pcibind's unit has to fail.
    if still := errand.reasons():
        return "; ".join([*still, *([f"units failed: {', '.join(failed)}"] if failed else [])])
    if failed:
        # The names of units may have backslashes, and their programs may print what steers a terminal.
        unit = quote(f"_SYSTEMD_UNIT={failed[0]}")
        _, said = remote.run(each, f"journalctl -b {unit} -n 30 -o cat --no-pager", timeout=60)
        words = "\n    ".join(printable(line, _LENGTH) for line in said)
        return f"units failed that had not before: {', '.join(failed)}. {failed[0]} said:\n    {words}"
    return errand.wrong()


def _cannot_hand_over() -> str | None:
    """What keeps a host that is back from handing its boards over."""
    binding = host.get_fact(PciBinding, program=PCIBIND.path)
    if binding is not None and not binding.bound:
        return f"not every board is bound (pcibind status ends with {binding.exit_code}); see journalctl -b -u pcibind"
    if not host.get_fact(InterruptRemapping):
        return f"interrupt remapping is off, so VFIO would refuse to attach; {REMAPPING_OFF}"
    return None


def _digest(wish: BootTarget) -> str:
    found = ask(
        host,
        Part("lines", KernelCommandLine, {"drop_in": GRUB_DROP_IN.path}),
        Part("kernels", InstalledKernels, {"modules": MODULES}),
    )
    return reboot_attempt.digest(found["lines"], wish.arguments, wish.boards, found["kernels"])


@step("Reboot when needed")
def reboot_when_needed(gpu_host: GpuHost, reboot: PendingReboot) -> None:
    """Reboot, or with ``reboot='never'`` say what is pending."""
    settings, wish = gpu_host.settings, target_of(gpu_host.verdict)
    forgotten(name="Forget a reboot that brought what it was for", reasons=reboot.reasons)
    pending, digest = partial(find_reasons, wish), partial(_digest, wish)
    reboot_as_allowed(
        settings,
        Errand(settings.reboot_timeout, pending, _cannot_hand_over, at_once=settings.reboot_batch, digest=digest),
        advice="Nothing that runs was changed; reboot the host, then run again.",
        after=[],
    )


def reboot_as_allowed(settings: HostSettings, errand: Errand, advice: str, after: list[OperationMeta]) -> None:
    """Reboot the current host when it is due and its turn, or say what is pending where no reboot is allowed.

    ``advice`` is what an operator has to know and to do then; ``after`` are operations that may make a reboot due.
    """
    if settings.reboot == "never":
        report_pending(name="Say which reboot is pending", reasons=errand.reasons, advice=advice)
        return
    # Registered here, because a plan that was skipped (-y) never evaluates the operation of a later host.
    _roll_of_this_run().errands[host.name] = errand
    rebooted(name="Reboot when the live state needs it", errand=errand, inputs=after, _serial=True)
