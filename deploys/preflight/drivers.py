"""The display drivers to blacklist for the chosen boards, and the programs on the host that need them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deploys.assessment.verdict import Findings
from facts.aliases import DriverAliases
from facts.driver_users import DriverUsage
from pcibind.model.pci import Board

# Words by which services of a vendor's driver are found: the first letters of its modules → words.
_WORDS = {
    "nvidia": ("nvidia", "dcgm", "nv-hostengine", "nv-fabricmanager"),
    "amdgpu": ("amdgpu", "amd-smi", "amdsmi", "rocm"),
    "radeon": ("radeon",),
    "i915": ("intel_gpu", "intel-gpu", "xpumd", "xpu-smi"),
    "xe": ("xpumd", "xpu-smi"),
}
WORDS = tuple(dict.fromkeys(word for words in _WORDS.values() for word in words))
# Programs that end with an error when their driver has no board.
_NEEDS_BOARD = frozenset(
    {
        *("nvidia-persistenced", "nvidia-smi", "nv-fabricmanager", "nv-hostengine", "nvidia-powerd", "nvidia-imex"),
        *("nvidia-gridd", "nvidia-vgpud", "dcgm-exporter", "dcgmproftester", "amd-smi", "rocm-smi", "xpumd"),
    }
)


@dataclass(frozen=True, slots=True)
class DriverSelection:
    """``blacklist``: modules to blacklist; ``spared``: those that ``others``, devices of the host, need. Sorted."""

    blacklist: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def select_drivers(aliases: DriverAliases | None, boards: Iterable[Board]) -> DriverSelection:
    """The modules that offer themselves for a display function of the boards, with those that need one of them.

    Never one that another device of the host has, or could have: a module is blacklisted for all of them. What needs a
    blacklisted module goes with it, since it would load that module, or fail to, where a file asks for it by name.
    """
    if aliases is None:
        return DriverSelection()
    chosen = list(boards)
    own = {str(each.address) for board in chosen for each in board.functions}
    displays = {str(each.address) for board in chosen for each in board.display_functions}

    def others(module: str) -> set[str]:
        paths = (*aliases.offers.get(module, ()), *aliases.drives.get(module, ()))
        # A device below a function, as the bus of its outputs, is the board's too.
        return {path for path in paths if not own & set(path.split("/"))}

    taking = {module for module, paths in aliases.offers.items() if displays & {p.rpartition("/")[2] for p in paths}}
    needing = {module for module, needed in aliases.needs.items() if needed & taking}
    spared = {module for module in taking | needing if others(module)}
    # What a spared module needs has to be loaded with it.
    spared |= {needed for module in spared for needed in aliases.needs.get(module, ())} & taking
    spared |= {module for module in needing if aliases.needs[module] & spared}
    names = {path.rpartition("/")[2] for module in spared for path in others(module)}
    return DriverSelection(tuple(sorted((taking | needing) - spared)), tuple(sorted(spared)), tuple(sorted(names)))


def judge_drivers(
    aliases: DriverAliases | None, users: DriverUsage | None, boards: tuple[Board, ...], findings: Findings
) -> tuple[str, ...]:
    """Return the modules to blacklist."""
    kept = select_drivers(aliases, boards)
    if kept.spared:
        findings.warnings.append(
            f"{', '.join(kept.spared)}: not blacklisted, because {', '.join(kept.others)} stays with the host and "
            "needs it, or may; the driver override of pcibind alone keeps it off the chosen boards."
        )
    if boards and aliases is not None and not aliases.tables:
        findings.warnings.append(
            "no /lib/modules/*/modules.alias could be read, so no driver is blacklisted; the driver override of "
            "pcibind alone keeps them off the chosen boards. Run depmod -a, then run again."
        )
    if aliases is not None and users is not None:
        _judge_users(aliases, users, boards, kept.blacklist, findings)
    return kept.blacklist


def _judge_users(
    aliases: DriverAliases,
    users: DriverUsage,
    boards: tuple[Board, ...],
    blacklist: tuple[str, ...],
    findings: Findings,
) -> None:
    """Report what loses its driver. Nothing does once the boards are handed over."""
    own = {str(each.address) for board in boards for each in board.display_functions}
    taken = [module for module in blacklist if any(p.rpartition("/")[2] in own for p in aliases.drives.get(module, ()))]
    if not taken:
        return
    drivers = ", ".join(taken)
    for file, modules in sorted(users.loads.items()):
        lost = [module for module in modules if module in blacklist]
        if lost:
            findings.warnings.append(
                f"{file} loads {', '.join(lost)}, which this deploy blacklists: systemd-modules-load skips it without "
                "an error. You may remove the line."
            )
    words = {word for start, each in _WORDS.items() if any(name.startswith(start) for name in taken) for word in each}
    for unit in users.units:
        programs = [path.rpartition("/")[2] for path in unit.programs]
        if not any(word in f"{unit.name} {' '.join(unit.programs)}".lower() for word in words):
            continue
        needing = [path for path, name in zip(unit.programs, programs, strict=True) if name in _NEEDS_BOARD]
        if needing and unit.runs:
            findings.refusals.append(
                f"{unit.name} runs {needing[0]}, which needs the driver {drivers} of the chosen boards, and would fail "
                "at the next boot; expected no enabled unit that needs it. Switch it off, then run again: systemctl "
                f"disable --now {unit.name}"
            )
        elif unit.runs:
            findings.warnings.append(
                f"{unit.name} ({' '.join(unit.programs) or 'no program'}) seems to use the driver {drivers}, which the "
                f"chosen boards lose at the next boot. If it fails without it: systemctl disable {unit.name}"
            )
    if users.display and not _has_display(aliases, own):
        findings.warnings.append(
            f"{users.display} shows a graphical login, and no display function stays with the host, so it would fail "
            "at the next boot. Boot into a text console: systemctl set-default multi-user.target"
        )


def _has_display(aliases: DriverAliases, own: set[str]) -> bool:
    """Whether the host keeps a display function that a driver of some kernel offers itself for."""
    return any(path.rpartition("/")[2] not in own for paths in aliases.offers.values() for path in paths)
