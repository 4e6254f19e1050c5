"""The lab's command line: `python -m tests.lab up`, `ssh`, `reboot`, `power-cut`, `plug`, `down`, …"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab import accelerator, board, cache, emulator, hostpackages, image, inventory, record, topology
from tests.lab.failures import FAILURES, text
from tests.lab.history import HISTORIES
from tests.lab.hostpackages import program
from tests.lab.machine import Machine, MachineError, machines
from tests.lab.platform import DEBIAN_13, PLATFORMS
from tests.lab.preparation import BARE, IOMMU
from tests.lab.progress import Printer, Progress
from tests.lab.topology import Topology


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 for a failure, or that of `ssh`."""
    options = _parser().parse_args(arguments)
    progress = Printer()
    try:
        return int(options.run(options, progress))
    except FAILURES as error:
        print(text(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    up = commands.add_parser("up", help="start a machine that stays until `down`")
    boards = up.add_mutually_exclusive_group()
    boards.add_argument("--topology", choices=tuple(topology.TOPOLOGIES), default=topology.DEFAULT)
    boards.add_argument("--collected", type=Path, metavar="FILE", help="with the boards of a host that was collected")
    up.add_argument("--platform", choices=tuple(PLATFORMS), default=DEBIAN_13.name, help="`list-worlds` describes them")
    up.add_argument("--name", default="lab")
    up.add_argument("--cold", action="store_true", help="boot it instead of loading a snapshot")
    before = up.add_mutually_exclusive_group()
    before.add_argument("--prepared", action="store_true", help="with the IOMMU on and pcibind's Python packages")
    before.add_argument("--history", choices=tuple(HISTORIES), help="what happened to it before")
    up.add_argument("--memory", type=int, default=4096, metavar="MIB")
    up.add_argument("--cpus", type=int)
    up.add_argument("--no-registry", action="store_true", help="offer no container images")
    up.set_defaults(run=_up)

    ssh = commands.add_parser("ssh", help="run a command in it, or a shell")
    ssh.add_argument("--user", default="root", help="root, or operator, who may use sudo")
    ssh.add_argument("name")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    ssh.set_defaults(run=_ssh)

    for name, run, purpose in (
        ("reboot", _reboot, "reboot it from inside and wait until it is back"),
        ("power-cut", _power_cut, "take its power away; the disk stays"),
        ("inventory", _inventory, "print it as a host of a pyinfra inventory"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("name")
        command.set_defaults(run=run)

    power_on = commands.add_parser("power-on", help="boot it from its disk")
    power_on.add_argument("--topology", choices=tuple(topology.TOPOLOGIES), help="other boards")
    power_on.add_argument("name")
    power_on.set_defaults(run=_power_on)

    plug = commands.add_parser("plug", help="put a board into an empty port while it runs")
    plug.add_argument("name")
    plug.add_argument("slot", type=_slot, help="the port's device number on bus 0, as 0x6")
    plug.add_argument("board", choices=tuple(board.BOARDS))
    plug.set_defaults(run=_plug)

    unplug = commands.add_parser("unplug", help="take the board out of a port while it runs")
    unplug.add_argument("name")
    unplug.add_argument("slot", type=_slot, help="the port's device number on bus 0, as 0x6")
    unplug.set_defaults(run=_unplug)

    ready = commands.add_parser("ready", help="make what machines start from: packages here, image, container images")
    ready.add_argument("--platform", choices=PLATFORMS, default="debian13", help="whose image (default: debian13)")
    ready.set_defaults(run=_ready)

    down = commands.add_parser("down", help="end it and remove its disk; its logs stay")
    which = down.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?")
    which.add_argument("--all", action="store_true", help="all but those of running programs")
    down.set_defaults(run=_down)

    listing = commands.add_parser("list", help="show all machines")
    listing.set_defaults(run=_list)

    worlds = commands.add_parser("list-worlds", help="show what a machine can be: platforms, histories, topologies")
    worlds.set_defaults(run=_list_worlds)
    return parser


def _ready(options: argparse.Namespace, progress: Progress) -> int:
    hostpackages.ensure(progress)
    for path in cache.prune(kept=record.registries()):
        progress(f"removed from the cache, unused: {path.name}")
    emulator.ensure(progress)
    image.ensure(progress, platform=PLATFORMS[options.platform])
    accelerator.choose(progress)
    _registry(progress)
    return 0


def _up(options: argparse.Namespace, progress: Progress) -> int:
    shape = options.topology if options.collected is None else _imitation(options.collected, progress)
    hostpackages.ensure(progress)
    emulator.ensure(progress)
    registry = None if options.no_registry else _registry(progress)
    machine = Machine.start(
        shape,
        name=options.name,
        platform=PLATFORMS[options.platform],
        preparation=HISTORIES[options.history].preparation if options.history else IOMMU if options.prepared else BARE,
        warm=not options.cold,
        memory_mib=options.memory,
        cpus=options.cpus,
        registry=registry,
        detached=True,
        progress=progress,
    )
    progress(f"{machine.name} is up: python -m tests.lab ssh {machine.name}")
    return 0


def _imitation(path: Path, progress: Progress) -> Topology:
    from tests.lab import collected

    host = collected.load(path)
    for address, what, stand_in in host.stand_ins:
        progress(f"{address} ({what}) is {stand_in}")
    for difference in host.differences:
        progress(difference)
    return host.topology


def _registry(progress: Progress) -> Path | None:
    from tests.lab import registry

    return registry.ensure(progress)


def _ssh(options: argparse.Namespace, progress: Progress) -> int:
    machine = _on(options.name)
    terminal = () if options.command else ("-t",)
    words = [*terminal, *machine.ssh_arguments, f"{options.user}@{machine.host}"]
    return subprocess.run([program("ssh"), *words, *options.command]).returncode


def _reboot(options: argparse.Namespace, progress: Progress) -> int:
    progress(f"rebooting {options.name} (may take a minute)")
    _ours(options.name)
    _on(options.name).reboot()
    progress(f"{options.name} is back")
    return 0


def _power_cut(options: argparse.Namespace, progress: Progress) -> int:
    _ours(options.name).power_cut()
    progress(f"{options.name} has no power: python -m tests.lab power-on {options.name}")
    return 0


def _power_on(options: argparse.Namespace, progress: Progress) -> int:
    progress(f"booting {options.name} (may take a minute)")
    _ours(options.name).power_on(options.topology)
    progress(f"{options.name} is up")
    return 0


def _slot(text: str) -> int:
    return int(text, 16)


def _plug(options: argparse.Namespace, progress: Progress) -> int:
    _ours(options.name)
    functions = _on(options.name).plug(options.slot, options.board)
    progress(f"{options.name} shows {' '.join(functions)}")
    return 0


def _unplug(options: argparse.Namespace, progress: Progress) -> int:
    _ours(options.name)
    _on(options.name).unplug(options.slot)
    progress(f"the port at {options.slot:#x} of {options.name} is empty")
    return 0


def _down(options: argparse.Namespace, progress: Progress) -> int:
    for name in machines() if options.all else [options.name]:
        machine = _ours(name) if not options.all else Machine.attach(name)
        if machine.owner is not None:
            progress(f"{name} is left alone: process {machine.owner} uses it")
            continue
        machine.stop()
        progress(f"{name} is removed; its console log: {machine.console}")
    return 0


def _list(options: argparse.Namespace, progress: Progress) -> int:
    names = machines()
    if not names:
        progress("no machines")
    for name in names:
        machine = Machine.attach(name)
        state = f"ssh port {machine.port}" if machine.running else "no power"
        print(f"{name}  {machine.topology.name}  {state}  {machine.directory}")
    return 0


def _list_worlds(_: argparse.Namespace, progress: Progress) -> int:
    kinds = {
        "platforms": {name: each.purpose for name, each in PLATFORMS.items()},
        "histories": {name: each.purpose for name, each in HISTORIES.items()},
        "topologies": {name: each.summary for name, each in topology.TOPOLOGIES.items()},
    }
    for kind, purposes in kinds.items():
        print(f"{kind}:")
        for name, purpose in purposes.items():
            print(f"  {name:28} {purpose}")
    return 0


def _inventory(options: argparse.Namespace, progress: Progress) -> int:
    print(inventory.source(_on(options.name)))
    return 0


def _ours(name: str) -> Machine:
    """Return a machine that no other process is using; MachineError names the process."""
    machine = Machine.attach(name)
    if machine.owner is not None:
        raise MachineError(f"{name} belongs to process {machine.owner}, which still runs")
    return machine


def _on(name: str) -> Machine:
    machine = Machine.attach(name)
    if not machine.running:
        raise MachineError(f"{name} has no power: python -m tests.lab power-on {name}")
    return machine


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
