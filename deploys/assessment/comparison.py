"""A host after its undo against the record of what it was: failures of the undo, and what is only reported. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from deploys.assessment import failures
from deploys.assessment.checks import Check
from deploys.assessment.kernel_arguments import added
from facts.baseline import Baseline, FunctionBaseline
from facts.kernel import CommandLines
from facts.unit import Unit
from pcibind.model.pci import DRIVER, Function, Topology, board_path

# The path of a kernel is not an argument: an update changes it.
_IMAGE = "BOOT_IMAGE="


def _entries(past: Baseline) -> tuple[tuple[str, ...], ...]:
    """The command lines that the boot loader had; the live one where they could not be read."""
    return past.configured or (past.command_line,)


def left_in_menu(lines: CommandLines, past: Baseline) -> list[str]:
    """The arguments of a deploy that boot entries have, and that none had before it."""
    before = [argument for line in _entries(past) for argument in line]
    left = (argument for line in lines.configured for argument in added(line, before, past.arguments))
    return list(dict.fromkeys(left))


def grubby(lines: CommandLines, past: Baseline) -> str | None:
    """The command that takes a deploy's arguments from all boot entries, or ``None`` when none has one.

    An argument that any entry had before stays, since nothing records which entry that was. A value that every entry
    had of a name, and that the deploy replaced, comes back.
    """
    extra = left_in_menu(lines, past)
    if not extra:
        return None
    names = dict.fromkeys(argument.partition("=")[0] for argument in extra)
    former = []
    for name in names:
        values = {_last(line, name) for line in _entries(past)}
        former += [value for value in values if value is not None and len(values) == 1]
    words = ["grubby", "--update-kernel=ALL", f"--remove-args={shlex.quote(' '.join(extra))}"]
    if former:
        words.append(f"--args={shlex.quote(' '.join(former))}")
    return f"PATH=$PATH:/usr/sbin:/sbin {' '.join(words)}"


def _last(line: Iterable[str], name: str) -> str | None:
    values = [argument for argument in line if argument.partition("=")[0] == name]
    return values[-1] if values else None


def command_lines(past: Baseline, lines: CommandLines) -> list[Check]:
    """The live command line and the boot loader's against the record."""
    before = [argument for line in _entries(past) for argument in line]
    recorded = past.arguments
    live = _line(
        "kernel arguments, live", [lines.live], [past.command_line], past.command_line, lines.configured, recorded
    )
    configured = _line("kernel arguments, configured", lines.configured, _entries(past), before, (), recorded)
    if not lines.configured:
        configured = Check("kernel arguments, configured", "no entry was found", False, "the boot loader's entries")
    return [live, configured]


def _line(
    what: str,
    now: Iterable[tuple[str, ...]],
    then: Iterable[tuple[str, ...]],
    known: Iterable[str],
    asked: Iterable[tuple[str, ...]],
    recorded: tuple[str, ...] | None,
) -> Check:
    """Return one row: unchanged, left over from a deploy (failed), or changed by others (reported)."""
    new, old = ({_plain(line) for line in lines} for lines in (now, then))
    if new == old:
        return Check(what, "as they were", True, "as they were")
    own = {argument for line in asked for argument in line}
    left = [argument for line in sorted(new) for argument in added(line, known, recorded) if argument not in own]
    if left:
        return Check(what, f"with {' '.join(dict.fromkeys(left))}", False, "without")
    plus = sorted({each for line in new for each in line} - {each for line in old for each in line})
    minus = sorted({each for line in old for each in line} - {each for line in new for each in line})
    changes = [*(f"+{each}" for each in plus), *(f"-{each}" for each in minus)] or ["another order or number"]
    return Check(what, f"changed since by others: {' '.join(changes)}", None)


def _plain(line: Iterable[str]) -> tuple[str, ...]:
    return tuple(argument for argument in line if not argument.startswith(_IMAGE))


def functions(past: Baseline, topology: Topology, kept: Iterable[str] = ()) -> list[Check]:
    """Every PCI function that was there before: its driver and its override. ``kept`` are boards that stay bound."""
    now = {(each.path, each.model): each for each in topology.functions}
    boards = set(kept)
    pairs = [(old, now[old.path, old.model]) for old in past.functions if (old.path, old.model) in now]
    rows = [row for old, new in pairs if board_path(old.path) not in boards and (row := _function(old, new))]
    wrong = any(row.passed is False for row in rows)
    right = len(pairs) - len(rows)
    summary = f"{right} of {len(pairs)} with the driver and the override that they had"
    head = Check("PCI functions", summary, not wrong, "all with theirs")
    gone = [Check("PCI hardware", each, None) for each in hardware(past, topology)]
    bound = [Check(f"board {each}", "stays bound for its operator", None) for each in sorted(boards)]
    return [head, *rows, *gone, *bound]


def _function(old: FunctionBaseline, new: Function) -> Check | None:
    if (new.driver, new.driver_override) == (old.driver, old.driver_override):
        return None
    # Another driver of the host's own is its operator's affair, as after an update; none, or vfio-pci, is ours.
    own = new.driver not in (None, DRIVER) and new.driver_override == old.driver_override
    return Check(
        f"function {new.address} ({new.model})",
        _words(new.driver, new.driver_override),
        None if own else False,
        _words(old.driver, old.driver_override),
    )


def _words(driver: str | None, override: str | None) -> str:
    return f"{driver or 'no driver'}{f', override {override}' if override else ''}"


def hardware(past: Baseline, topology: Topology) -> list[str]:
    """Boards that were there before and are not now, a sentence each. What is there is undone all the same."""
    now = {(each.path, each.model) for each in topology.functions}
    gone: dict[str, list[str]] = {}
    for each in past.functions:
        if (each.path, each.model) not in now:
            gone.setdefault(board_path(each.path), []).append(each.model)
    return [
        f"board {path} ({' '.join(models)}) was there before the first deploy and is not there now"
        for path, models in gone.items()
    ]


def units(units: dict[str, Unit], names: Iterable[str]) -> list[Check]:
    """Units of the deploy, of which systemd may know nothing any more."""
    return [
        Check(name, f"{unit.load}, {unit.active}, {unit.enabled or 'no unit file'}", False, "unknown to systemd")
        for name in names
        if (unit := units.get(name)) is not None and (unit.load != "not-found" or unit.active != "inactive")
    ] or [Check("units of the node and of pcibind", "none", True, "none")]


def files(there: Iterable[str], archived: dict[str, bool]) -> list[Check]:
    """Files of the deploy that are still there, and files from before: path → whether it is what it was."""
    left = list(there)
    rows = [Check("files of the deploy", " ".join(left) or "none", not left, "none")]
    rows += [Check(path, "as it was" if same else "differs", same, "as it was") for path, same in archived.items()]
    return rows


def menu(outdated: list[str]) -> Check:
    return Check("GRUB's menu", outdated[0] if outdated else "as /etc/default/grub says", not outdated, "up to date")


def system(state: str, failed: list[str], recorded: str, before: Iterable[str]) -> Check:
    """A host that was degraded before its first deploy, or before the undo by units of others, may be so again."""
    if state == recorded:
        return Check("system", f"{state}{': ' if failed else ''}{', '.join(failed)}", True, "running")
    return failures.check(state, failed, before)


def remains(record: str, of_node: bool) -> list[str]:
    """What an undo leaves on a host, and how an operator removes it by hand; of a node there is more."""
    packages = "podman crun netavark aardvark-dns nftables " if of_node else ""
    return [
        *([] if of_node else ["the group kvm, which a package may use by now: groupdel kvm"]),
        f"packages, since others may use them by now: {packages}python3-click python3-pyudev",
        f"the record of the host as it was, in {record}: every later undo needs it",
    ]


def remains_of_node(storage: str) -> list[str]:
    """What an undo leaves of a node, where, and how an operator removes it by hand."""
    return [
        f"the node's key, in {storage}/key, and its fingerprint in /etc/gevulot. Only a backup can restore a lost key: "
        f"copy it, then rm -r {storage}/key /etc/gevulot",
        f"the database, in {storage}/postgres, and the node's data, in {storage}/data: rm -r {storage}/postgres "
        f"{storage}/data",
        "Podman secrets: podman secret ls, podman secret rm gevulot-psk-passphrase and gevulot-db-password, or "
        "gevulot-db-url of an external database",
        "container images: podman image ls, podman image rm IMAGE",
        "the account gevulot and the groups gevulot and kvm: userdel gevulot",
    ]
