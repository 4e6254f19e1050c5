"""The reboot: when the live state needs it and only then, one host at a time, each verified before the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import BoundedSemaphore
from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, deploy, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import clear_askpass_cache
from pyinfra.context import ctx_host, ctx_state

from deploys import remote
from deploys.steps.begin import Node
from deploys.steps.later import Later, Wish, reasons, wish_of
from facts.kernel import InterruptRemapping
from facts.pci import PciBinding
from facts.unit import FailedUnits, SystemState, Units


@dataclass(slots=True)
class _Roll:
    """The rolling reboot of one run. pyinfra keeps its hosts in a set, so the order is made here: the inventory's."""

    wishes: dict[str, Wish] = field(default_factory=dict)
    outcome: dict[str, bool] = field(default_factory=dict)
    # With pyinfra's --no-wait several hosts come here at once.
    one_at_a_time: BoundedSemaphore = field(default_factory=BoundedSemaphore)


_rolls: WeakKeyDictionary[State, _Roll] = WeakKeyDictionary()


@operation()
def rebooted(node: Node) -> Generator[PyinfraCommand, None, None]:
    """Reboot the host when its live state needs it. Use with ``_serial=True``.

    The first host whose turn it is reboots all that need it, in the order of the inventory. One that does not come
    back right stops every later reboot, and so does a host of this run that failed or could not be reached before.

    + node: the host and what its operator asked for
    """
    roll = _roll_of_this_run()
    wish = wish_of(node)
    if host.name not in roll.outcome and not reasons(wish.arguments, wish.boards):
        host.noop("the live state needs no reboot")
        return
    yield FunctionCommand(_take_part, (roll,), {})


@operation()
def told(later: Later) -> Generator[PyinfraCommand, None, None]:
    """Say what is pending where no reboot is allowed. Changes nothing.

    + later: what the reboot decides
    """
    for reason in later.reasons():
        host.log_styled(
            f"a reboot is pending: {reason}. Nothing that runs was changed; reboot the host, then run again.",
            fg="yellow", log_func=logger.warning,
        )  # fmt: skip
    yield from ()


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
    unwell = [each.name for each in wanted if each not in state.active_hosts or roll.outcome.get(each.name) is False]
    current = ctx_host.get().executing_op_hash
    for each in wanted:
        wish = roll.wishes.get(each.name)
        if wish is None or each.name in roll.outcome or each not in state.active_hosts:
            continue
        if not _is_due(state, each, current):
            continue
        with ctx_host.use(each):
            why = reasons(wish.arguments, wish.boards)
            if not why:
                continue
            if unwell:
                each.log_styled(
                    f"not rebooted, because {', '.join(unwell)} is not well; still pending: {'; '.join(why)}. "
                    f"Mend that host, or leave it out with --exclude, then run again.",
                    fg="red", log_func=logger.error,
                )  # fmt: skip
                roll.outcome[each.name] = False
                continue
            each.log_styled(f"Rebooting: {'; '.join(why)}", fg="yellow", log_func=logger.info)
            problem = _reboot(each, wish)
            roll.outcome[each.name] = problem is None
            if problem is None:
                each.log_styled("came back right", fg="green", log_func=logger.info)
            else:
                unwell.append(each.name)
                each.log_styled(
                    f"did not come back right: {problem}. No other host is rebooted in this run.",
                    fg="red", log_func=logger.error,
                )  # fmt: skip


def _boot_id(each: Host) -> str | None:
    success, output = remote.run(each, "cat /proc/sys/kernel/random/boot_id", timeout=30)
    return output[0].strip() if success and output else None


def _reboot(each: Host, wish: Wish) -> str | None:
    """Reboot one host and judge it. Returns what is wrong, or ``None``.

    pyinfra's own operation tells a reboot by the uptime, which fails on a host that boots slower than it had been up.
    """
    before = _boot_id(each)
    if before is None:
        return "its boot identifier could not be read, so it was not rebooted"
    failed_before = each.get_fact(FailedUnits)
    ran_before = _node_runs(each)
    # What pyinfra keeps on a host for sudo is gone after the boot; asking for its removal would hang meanwhile.
    clear_askpass_cache(each)
    remote.run(each, "( sleep 1; systemctl reboot ) </dev/null >/dev/null 2>&1 &", timeout=30)
    deadline = time.monotonic() + wish.timeout
    # Connections that end half-way are what a reboot looks like from outside; paramiko would print each with its trace.
    logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)
    gevent.sleep(3)
    while True:
        if time.monotonic() > deadline:
            return f"no answer over SSH within {wish.timeout} s; look at its console"
        try:
            each.disconnect()
            each.connect(show_errors=False)
            boot_id = _boot_id(each) if each.connected else None
        except Exception as error:  # a host that is going down may end a connection in any way
            logger.debug("%s is not back yet: %s", each.name, error)
            boot_id = None
        if boot_id not in (None, before):
            break
        gevent.sleep(2)
    seconds = max(30, round(deadline - time.monotonic()))
    wrong = _came_back_wrong(each, wish, failed_before, seconds)
    while wrong is None and ran_before and not _node_runs(each):
        if time.monotonic() > deadline:
            return "the node ran before and does not run now; see journalctl -b -u gevulot-node"
        gevent.sleep(5)
    return wrong


def _node_runs(each: Host) -> bool:
    unit = each.get_fact(Units, units=("gevulot-node.service",)).get("gevulot-node.service")
    return unit is not None and unit.running


def _came_back_wrong(each: Host, wish: Wish, failed_before: list[str], seconds: int) -> str | None:
    system = each.get_fact(SystemState, seconds=seconds)
    if system not in ("running", "degraded"):
        return f"systemctl is-system-running says {system}; expected running"
    failed = [unit for unit in each.get_fact(FailedUnits) if unit not in failed_before]
    if failed:
        _, said = remote.run(each, f"journalctl -b _SYSTEMD_UNIT={failed[0]} -n 30 -o cat --no-pager", timeout=60)
        words = "\n    ".join(said)
        return f"units failed that had not before: {', '.join(failed)}. {failed[0]} said:\n    {words}"
    still = reasons(wish.arguments, wish.boards)
    if still:
        return "; ".join(still)
    binding = each.get_fact(PciBinding)
    if binding is not None and not binding.bound:
        return f"pcibind status ends with {binding.exit_code}: not every board is bound; see journalctl -b -u pcibind"
    if not each.get_fact(InterruptRemapping):
        return "interrupt remapping is off, so VFIO would refuse to attach; switch it on in the firmware"
    return None


@deploy("Reboot when needed")
def reboot_when_needed(node: Node, later: Later) -> None:
    """Reboot, or with ``reboot='never'`` say what is pending."""
    if node.settings.reboot == "never":
        told(name="Say which reboot is pending", later=later)
    else:
        # Registered here, because a plan that was skipped (-y) never evaluates the operation of a later host.
        _roll_of_this_run().wishes[host.name] = wish_of(node)
        rebooted(name="Reboot when the live state needs it", node=node, _serial=True)
