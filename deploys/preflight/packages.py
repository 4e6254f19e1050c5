"""Whether packages can be installed."""

from __future__ import annotations

from deploys.preflight.state import HostState
from deploys.preflight.verdict import Findings


def judge_packages(state: HostState, found: Findings) -> None:
    if state.dpkg_interrupted:
        found.refusals.append(
            "an earlier installation of packages was interrupted (/var/lib/dpkg/updates is not empty), and apt "
            "installs nothing until it is finished; run `dpkg --configure -a` on the host."
        )
