"""The models whose ids vfio-pci gets: by us for gevulot_vfio_ids, and by the host's operator for boards of his own.

The kernel keeps the last ``ids`` only, and one on its command line comes after all files (kmod appends it; a vfio-pci
that is built in reads nothing else). So where the operator has some, both are in one argument, and ours is the last.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from deploys.assessment.kernel_arguments import IDS, is_ids, lacking
from facts.baseline import Baseline
from facts.kernel import CommandLines
from pcibind.model.pci import Board


def _models(argument: str) -> tuple[str, ...]:
    return tuple(filter(None, argument.partition("=")[2].split(",")))


def _before(past: Baseline) -> set[str]:
    return {argument for line in (past.configured or (past.command_line,)) for argument in line}


def ours(arguments: Iterable[str], past: Baseline | None, boards: Iterable[Board]) -> list[str]:
    """Those of the arguments that set ids for a deploy.

    The host's record says it. One that an earlier version set is on no record: it was not there before, and names
    models of these boards only.
    """
    ids = dict.fromkeys(each for each in arguments if is_ids(each))
    if past is None:
        return []
    if past.arguments is not None:
        return [each for each in ids if each in past.arguments]
    models = {function.model for board in boards for function in board.functions}
    before = _before(past)
    return [each for each in ids if each not in before and models and models.issuperset(_models(each))]


def set_until_now(lines: CommandLines | None, past: Baseline | None, boards: Iterable[Board]) -> tuple[str, ...]:
    """The kernel arguments that deploys set on this host until now, as its record says or an earlier version left."""
    if past is not None and past.arguments is not None:
        return past.arguments
    return tuple(ours((each for line in lines.configured for each in line), past, boards)) if lines else ()


def own(
    lines: CommandLines | None, past: Baseline | None, options: Mapping[str, tuple[str, ...]], boards: Iterable[Board]
) -> tuple[str, ...]:
    """The models that the operator gives vfio-pci by himself. ``options``: others' file → its options."""
    arguments = [each for line in (lines.configured or (lines.live,)) for each in line] if lines else []
    mine = set(ours(arguments, past, boards))
    theirs = [each for each in arguments if is_ids(each) and each not in mine]
    held = {model for each in mine for model in _models(each)}
    # grubby replaced an argument by one that holds its models too.
    theirs += [each for each in (_before(past) if past else ()) if is_ids(each) and held.issuperset(_models(each))]
    theirs += [each for file in sorted(options) for each in options[file] if each.startswith("ids=")]
    return tuple(dict.fromkeys(model for each in theirs for model in _models(each)))


def argument(models: tuple[str, ...], theirs: tuple[str, ...], built_in: bool) -> tuple[str, ...]:
    """The kernel argument that holds both, where no file can."""
    if not models or not (theirs or built_in):
        return ()
    return (f"{IDS}={','.join(dict.fromkeys((*theirs, *models)))}",)


def grubby(lines: CommandLines, wanted: tuple[str, ...], known: tuple[str, ...], past: Baseline | None) -> str:
    """The command that sets the wanted arguments on all entries, and takes away the ids of ours that are not wanted.

    ``known`` are the arguments that deploys set until now.

    A value that every entry had before the first deploy, and that ours replaced, comes back. Empty when there is
    nothing to do.
    """
    settled = bool(lines.configured) and not any(lacking(line, wanted) for line in lines.configured)
    before = _before(past) if past is not None else set()
    present = dict.fromkeys(each for line in lines.configured for each in line)
    surplus = [each for each in present if is_ids(each) and each in known and each not in (*wanted, *before)]
    if settled and not surplus:
        return ""
    back: list[str] = []
    if surplus and past is not None and not any(is_ids(each) for each in wanted):
        entries = past.configured or (past.command_line,)
        former = {tuple(each for each in line if is_ids(each))[-1:] for line in entries}
        back = [each for values in former for each in values if len(former) == 1 and each not in present]
    words = ["grubby", "--update-kernel=ALL", f"--args={shlex.quote(' '.join((*wanted, *back)))}"]
    if surplus:
        words.append(f"--remove-args={shlex.quote(' '.join(surplus))}")
    return f"PATH=$PATH:/usr/sbin:/sbin {' '.join(words)}"
