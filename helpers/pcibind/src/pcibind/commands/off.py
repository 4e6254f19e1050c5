"""`pcibind=off` on the kernel command line: the chosen boards stay with the host for one boot."""

from __future__ import annotations

from pcibind.change import handover, original
from pcibind.commands import boot
from pcibind.commands.host import Host
from pcibind.model.errors import PcibindError
from pcibind.model.record import Record, Verdict, compare
from pcibind.model.report import Report
from pcibind.model.request import OFF
from pcibind.read import files
from pcibind.read.files import Paths

NOTE = f"the kernel command line has {OFF}: the boards are the host's until the next boot"


def is_off(paths: Paths) -> bool:
    """Whether this boot was started with pcibind turned off."""
    return OFF in (files.read(f"{paths.proc}/cmdline") or "").split()


def release_for_this_boot(host: Host) -> Report:
    """Give every recorded board to the host's drivers, and leave the record as it is.

    What a blacklist keeps away is loaded, and what an `ids=` option gave to vfio-pci is taken from
    it, unless it is in use. Raises PcibindError where pcibind is not off, RecordError, OSError.
    """
    if not is_off(host.paths):
        raise PcibindError(
            f"the kernel command line lacks {OFF}, which release --this-boot is for; to give "
            "boards back at any time, run `pcibind release`"
        )
    with host.locked():
        handover.remove(host.paths)
        known = files.read_record(host.paths) or Record()
        topology = host.topology()
        boards = []
        for recorded in (*known.boards, *known.leaving):
            board = topology.board_at(recorded.path)
            if board and compare(board, recorded) is Verdict.PRESENT:
                boards.append((board, recorded))
        found = host.carry_out([original.before(host.paths, *each) for each in boards])
        reports = boot.restore(host, topology, found)
        topology = host.topology()
        reports = [each._replace(board=topology.board_at(each.path or "")) for each in reports]
        return Report(
            "release",
            known.require_boards,
            tuple(reports),
            boot.in_use(reports),
            topology=topology,
            notes=(NOTE,),
        )
