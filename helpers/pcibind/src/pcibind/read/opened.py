"""VFIO groups that somebody has open, asked of the kernel itself.

A descriptor that is in flight over a socket stands in no process's list under /proc; but a group
can be opened only once at a time, so opening its device node tells. This is asked only of boards
that are about to be taken from their drivers, since it keeps a virtual machine from starting for
that moment.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from pcibind.commands.host import Host
from pcibind.model.errors import StuckError
from pcibind.model.evidence import Evidence, OpenVfio
from pcibind.model.pci import Board
from pcibind.read import access
from pcibind.read.access import Task
from pcibind.read.paths import Paths


def add_hidden(host: Host, evidence: Evidence, boards: Iterable[Board]) -> Evidence:
    """The evidence, and those open groups of the boards that /proc did not show."""
    named = {use.group for use in evidence.open_vfio}
    found = host.carry_out([groups(host.paths, boards)])[0]
    hidden = tuple(use for use in found if use.group not in named)
    return evidence._replace(open_vfio=(*evidence.open_vfio, *hidden))


def groups(paths: Paths, boards: Iterable[Board]) -> Task[list[OpenVfio]]:
    """Those groups of the boards that are open, or that do not answer."""
    found = []
    for group in dict.fromkeys(group for board in boards for group in board.groups):
        try:
            yield access.open_and_close(paths.group_node(group))
        except FileNotFoundError:
            continue
        except StuckError as error:
            found.append(OpenVfio(group, None, str(error)))
        except OSError as error:
            hidden = "by a process that /proc does not show; its descriptor may be on its way "
            hidden += "through a socket"
            busy = error.errno == errno.EBUSY
            why = hidden if busy else f"cannot tell: {error.strerror}"
            found.append(OpenVfio(group, None, why))
    return found
