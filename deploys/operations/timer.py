"""Podman's timer of automatic updates, which an operator's other containers may use too."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.facts.files import FindInFile

from deploys.manifest import NODE_QUADLET, STATE_DIRECTORIES, UPDATE_TIMER
from facts.baseline import Baseline, BaselineRecord
from facts.unit import Units


@operation()
def restore_timer(past: Baseline | None = None) -> Generator[PyinfraCommand | str, None, None]:
    """Switch the timer off again, where it was off and the node's Quadlet asks for automatic updates.

    To be called before the Quadlet changes, which shows whether a deploy switched the timer on.

    + past: the host before its first deploy; read from the host where it is not given
    """
    timer = host.get_fact(Units, units=(UPDATE_TIMER,)).get(UPDATE_TIMER)
    asked = host.get_fact(FindInFile, path=NODE_QUADLET.path, pattern="^AutoUpdate=")
    if not asked or timer is None or timer.enabled != "enabled" or _former_state(past) != "disabled":
        host.noop("no deploy enabled automatic updates")
        return
    yield f"systemctl disable --now {UPDATE_TIMER}"


def _former_state(past: Baseline | None) -> str:
    if past is None:
        remains = host.get_fact(BaselineRecord, directories=STATE_DIRECTORIES)
        past = remains.past if remains else None
    return past.auto_update_timer if past else ""
