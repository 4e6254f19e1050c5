"""Whether packages can be installed."""

from __future__ import annotations

from deploys.assessment.verdict import Findings
from deploys.preflight.state import HostState


def judge_packages(state: HostState, findings: Findings) -> None:
    if state.held_packages:
        findings.refusals.append(
            f"{', '.join(state.held_packages)} cannot be installed, since an earlier installation was interrupted "
            "(/var/lib/dpkg/updates is not empty), and apt installs nothing until that is finished; run "
            "`dpkg --configure -a` on the host."
        )
