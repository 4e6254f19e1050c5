"""Lines of modprobe's files that keep a module, which the host or its node needs, from being loaded at boot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deploys.assessment.kernel_arguments import modules_of
from deploys.assessment.verdict import Findings
from facts.barred_modules import ModuleBar
from facts.kernel import Module
from facts.untrusted import printable

_LENGTH = 200


def judge_barred(
    bars: Iterable[ModuleBar],
    modules: Mapping[str, Module],
    virtualisation: str | None,
    boards: bool,
    findings: Findings,
    *,
    node: bool = True,
) -> None:
    """Refuse them. systemd loads what is needed by name, and skips a module on a blacklist without an error."""
    needed, beneath = modules_of(virtualisation, node=node)
    for bar in bars:
        # What another module is linked to is loaded with it, whatever a blacklist says.
        names = needed if bar.kind == "blacklist" else (*needed, *beneath)
        built_in = bar.module in modules and modules[bar.module].kind == "built-in"
        if bar.module not in names or built_in or not (boards or "vsock" in bar.module or "kvm" in bar.module):
            continue
        place = printable(bar.place, _LENGTH)
        findings.refusals.append(
            f"{place} keeps the module {bar.module} from being loaded ({bar.kind}), which is needed; expected no "
            "such line. Remove it, rebuild the initramfs, then run again."
        )
