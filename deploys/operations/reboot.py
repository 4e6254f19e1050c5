"""Rolling reboots: one host first, then a batch at a time, each checked before the next; none after a failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from deploys.manifest import NODE_UNIT, STATE_DIRECTORIES
from deploys.operations.planning import will_follow
from deploys.transport import connection, heartbeat, remote
from facts.attempt import RebootAttempts, RebootHistory
from facts.paths import ExistingPaths
from facts.unit import FailedUnits, SystemState, Units
from facts.untrusted import printable

# Seconds for one attempt to reach a host again.
_ATTEMPT_SECONDS = 90
# Characters of a line of the journal that are shown.
_LINE_LENGTH = 400


@dataclass(frozen=True, slots=True)
class RebootRequest:
    """When one host reboots, and how that is checked. The callables ask pyinfra's current host.

    ``reasons`` returns why a reboot is due, empty when none is. ``problem`` returns what is wrong with a host that came
    back without such a reason. The reboot may take ``timeout`` seconds. After the first host, which reboots alone, up
    to ``at_once`` hosts reboot side by side.
    """

    timeout: int
    reasons: Callable[[], list[str]]
    problem: Callable[[], str | None]
    at_once: int = 1
    # The digest of what decides the boot: with the same one, a second reboot would have the effect of the first.
    digest: Callable[[], str] | None = None
    # Hosts of this run on which nothing was changed: their failure does not stop the reboots of others.
    left_out: Callable[[], frozenset[str]] = frozenset


@dataclass(frozen=True, slots=True)
class _DueReboot:
    """A reboot that is due: the reasons, and the digest of what decides the boot, where it is kept."""

    request: RebootRequest
    reasons: list[str]
    digest: str | None


@dataclass(slots=True)
class _RollingReboot:
    """The reboots of one run. pyinfra keeps its hosts in a set, so the order is made here: the inventory's."""

    requests: dict[str, RebootRequest] = field(default_factory=dict)
    succeeded: dict[str, bool] = field(default_factory=dict)
    # With pyinfra's --no-wait several hosts run the operation at once.
    one_at_a_time: BoundedSemaphore = field(default_factory=BoundedSemaphore)


_rolling_reboots: WeakKeyDictionary[State, _RollingReboot] = WeakKeyDictionary()


def reboot_as_allowed(policy: str, request: RebootRequest, advice: str, after: list[OperationMeta]) -> None:
    """Reboot the current host when it is due and its turn, or report what is pending where no reboot is allowed.

    ``policy`` is ``gevulot_reboot``; with "never", ``advice`` follows what is pending. ``after`` are operations that
    may make a reboot due.
    """
    if policy == "never":
        pending_reported(name="Report a pending reboot", reasons=request.reasons, advice=advice)
        return
    # Registered here, because a plan that was skipped (-y) never evaluates the operation of a later host.
    _of_this_run().requests[host.name] = request
    rebooted(name="Reboot when the live state needs it", request=request, inputs=after, _serial=True)


@operation()
def rebooted(request: RebootRequest, inputs: list[OperationMeta]) -> Generator[PyinfraCommand, None, None]:
    """Reboot the host when its live state needs it. Use with ``_serial=True``.

    The first host whose turn it is reboots all that need it, in the order of the inventory: one alone, then as many at
    once as their settings allow. A host that fails its check stops every later reboot, and so does a host of this run
    that failed or could not be reached before.

    + request: when the host reboots, and how that is checked
    + inputs: operations of this run that may make a reboot due
    """
    rolling = _of_this_run()
    if host.name not in rolling.succeeded and not will_follow(inputs) and not request.reasons():
        host.noop("the live state needs no reboot")
        return
    yield FunctionCommand(_take_part, (rolling,), {})


@operation()
def pending_reported(reasons: Callable[[], Iterable[str]], advice: str) -> Generator[PyinfraCommand, None, None]:
    """Report what is pending where no reboot is allowed. Changes nothing.

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
def attempt_forgotten(reasons: Callable[[], Iterable[str]]) -> Generator[PyinfraCommand | str, None, None]:
    """Remove the record of an earlier reboot from a host that needs none now.

    + reasons: why a reboot is pending, asked of the current host
    """
    if not host.get_fact(ExistingPaths, paths=(reboot_attempt.FILE,)) or reasons():
        host.noop("no earlier reboot is on record, or its reason still holds")
        return
    yield f"rm -f {reboot_attempt.FILE}"


def _of_this_run() -> _RollingReboot:
    return _rolling_reboots.setdefault(ctx_state.get(), _RollingReboot())


def _take_part(state: State, host: Host, rolling: _RollingReboot) -> bool:
    with rolling.one_at_a_time:
        if host.name not in rolling.succeeded:
            _reboot_all(state, rolling)
    return rolling.succeeded.get(host.name, True)


def _has_arrived(state: State, each: Host, current: str) -> bool:
    """Whether a host has run all that comes before this operation; with --serial, later hosts have not."""
    order = state.get_op_order()
    earlier = order[: order.index(current)]
    return all(state.ops[each][op].operation_meta.is_complete() for op in earlier if op in state.ops[each])


def _reboot_all(state: State, rolling: _RollingReboot) -> None:
    hosts = [each for each in state.inventory if state.is_host_in_limit(each)]
    left_out = frozenset().union(*(request.left_out() for request in rolling.requests.values()))
    failed = [
        each.name
        for each in hosts
        if (each not in state.active_hosts or rolling.succeeded.get(each.name) is False) and each.name not in left_out
    ]
    current = ctx_host.get().executing_op_hash
    batch: dict[Host, _DueReboot] = {}
    is_first = True
    with ExitStack() as heartbeats:
        # Entered in this order, so that each host reports what its reboot waits for.
        for each in hosts:
            heartbeats.enter_context(heartbeat.report_wait(each, "the rolling reboot"))
        for each in hosts:
            request = rolling.requests.get(each.name)
            if request is None or each.name in rolling.succeeded or each not in state.active_hosts:
                continue
            if not _has_arrived(state, each, current):
                continue
            with ctx_host.use(each):
                reasons = request.reasons()
            if not reasons:
                continue
            if len(batch) >= min(one.at_once for one in (request, *(due.request for due in batch.values()))):
                failed += _reboot_batch(batch, rolling)
            with ctx_host.use(each):
                digest = request.digest() if request.digest and not failed else None
            if refusal := _refusal(each, failed, reasons, digest):
                each.log_styled(f"not rebooted{refusal}", fg="red", log_func=logger.error)
                rolling.succeeded[each.name] = False
                continue
            each.log_styled(f"Rebooting: {'; '.join(reasons)}", fg="yellow", log_func=logger.info)
            batch[each] = _DueReboot(request, reasons, digest)
            if is_first:
                is_first = False
                failed += _reboot_batch(batch, rolling)
        _reboot_batch(batch, rolling)


def _refusal(each: Host, failed: list[str], reasons: list[str], digest: str | None) -> str | None:
    """Why a host must not reboot although it is due, or ``None``. ``failed`` are hosts that failed before it."""
    if failed:
        return (
            f" because {', '.join(failed)} failed; still pending: {'; '.join(reasons)}. Fix that host, or leave it out "
            "with --exclude, then run again."
        )
    with ctx_host.use(each):
        in_vain = reboot_attempt.refusal(_history(each), reasons, digest) if digest else None
    return f": {in_vain}" if in_vain else None


def _reboot_batch(batch: dict[Host, _DueReboot], rolling: _RollingReboot) -> list[str]:
    """Reboot these hosts side by side, and empty the batch. Returns the names of those that failed."""
    gevent.joinall([gevent.spawn(_reboot_one, each, due, rolling) for each, due in batch.items()])
    failed = [each.name for each in batch if not rolling.succeeded.get(each.name)]
    batch.clear()
    return failed


def _reboot_one(each: Host, due: _DueReboot, rolling: _RollingReboot) -> None:
    request = due.request
    with ctx_host.use(each):
        try:
            problem = _reboot(each, due)
            if problem is None and due.digest:
                remote.run(each, f"rm -f {reboot_attempt.FILE}", timeout=30)
            elif request.digest and each.connected and (last := _history(each).last):
                # As it came back: only a change since then makes another reboot worth an attempt.
                _record(each, reboot_attempt.render(due.reasons, request.digest(), last.boot))
        except Exception as error:  # no answer of a host may end the reboots of the others without a message
            problem = f"{type(error).__name__}: {error}"
    rolling.succeeded[each.name] = problem is None
    if problem is None:
        each.log_styled("rebooted, and passed its checks", fg="green", log_func=logger.info)
    else:
        each.log_styled(
            f"the reboot failed: {problem}. No later host is rebooted in this run.",
            fg="red", log_func=logger.error,
        )  # fmt: skip


def _record(each: Host, text: str) -> None:
    """Record what the reboot is for, until it has had that effect. A host where this fails is rebooted all the same."""
    new = f"{reboot_attempt.FILE}.new"
    command = f"umask 077; cat >{new} && sync {new} && mv {new} {reboot_attempt.FILE}"
    success, output = remote.run(each, command, stdin=text, timeout=60)
    if not success:
        logger.debug("%s: %s was not written: %s", each.name, reboot_attempt.FILE, output)


def _history(each: Host) -> RebootHistory:
    history: RebootHistory = each.get_fact(RebootAttempts, directories=STATE_DIRECTORIES)
    return history


def _boot_id(each: Host) -> str | None:
    success, output = remote.run(each, "cat /proc/sys/kernel/random/boot_id", timeout=30)
    return output[0].strip() if success and output else None


def _reboot(each: Host, due: _DueReboot) -> str | None:
    """Reboot one host and check it. Returns the problem, or ``None``.

    pyinfra's own operation detects a reboot by the uptime, which fails on a host that boots slower than it had been up.
    """
    request, boot_id = due.request, _boot_id(each)
    if boot_id is None:
        return "its boot identifier could not be read, so it was not rebooted"
    if due.digest:
        _record(each, reboot_attempt.render(due.reasons, due.digest, boot_id))
    failed_before = each.get_fact(FailedUnits)
    ran_before = _node_runs(each)
    reconnection = connection.Reconnection(each)
    remote.run(each, "( sleep 1; systemctl reboot ) </dev/null >/dev/null 2>&1 &", timeout=30)
    deadline = time.monotonic() + request.timeout
    # A reboot ends connections half-way; paramiko would print each with its traceback.
    logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)
    gevent.sleep(3)
    with heartbeat.report_wait(each, "an answer over SSH after the reboot", request.timeout):
        while not _is_back(each, reconnection, boot_id):
            if time.monotonic() > deadline:
                return f"no answer over SSH within {request.timeout} s; look at its console"
            gevent.sleep(2)
    seconds = max(30, round(deadline - time.monotonic()))
    with heartbeat.report_wait(each, "systemd to start everything after the reboot", seconds):
        problem = _problem_after_reboot(each, request, failed_before, seconds)
    with heartbeat.report_wait(each, "the node to run again after the reboot", seconds):
        while problem is None and ran_before and not _node_runs(each):
            if time.monotonic() > deadline:
                return f"the node ran before and does not run now; see journalctl -b -u {NODE_UNIT}"
            gevent.sleep(5)
    return problem


def _is_back(each: Host, reconnection: connection.Reconnection, boot_id_before: str) -> bool:
    try:
        # A host that is going down may also take an answer half-way and keep the connection.
        with gevent.Timeout(_ATTEMPT_SECONDS, TimeoutError(f"no answer within {_ATTEMPT_SECONDS} s")):
            boot_id = _boot_id(each) if reconnection.reconnect() else None
    except Exception as error:  # a host that is going down may end a connection in any way
        logger.debug("%s is not back yet: %s", each.name, error)
        return False
    return boot_id not in (None, boot_id_before)


def _node_runs(each: Host) -> bool:
    unit = each.get_fact(Units, units=(NODE_UNIT,)).get(NODE_UNIT)
    return unit is not None and unit.running


def _problem_after_reboot(each: Host, request: RebootRequest, failed_before: list[str], seconds: int) -> str | None:
    system = each.get_fact(SystemState, seconds=seconds)
    if system not in ("running", "degraded"):
        return f"systemctl is-system-running says {system}; expected running"
    failed = [unit for unit in each.get_fact(FailedUnits) if unit not in failed_before]
    if failed:
        remote.run(each, failures.remember(failed), timeout=60)
    # First, since it is the cause where it holds: without an IOMMU pcibind's unit has to fail.
    if pending := request.reasons():
        return "; ".join([*pending, *([f"units failed: {', '.join(failed)}"] if failed else [])])
    if failed:
        # The names of units may have backslashes, and their programs may print what steers a terminal.
        unit = quote(f"_SYSTEMD_UNIT={failed[0]}")
        _, journal = remote.run(each, f"journalctl -b {unit} -n 30 -o cat --no-pager", timeout=60)
        lines = "\n    ".join(printable(line, _LINE_LENGTH) for line in journal)
        return f"units failed that had not before: {', '.join(failed)}. The journal of {failed[0]}:\n    {lines}"
    return request.problem()
