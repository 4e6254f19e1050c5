"""What a look at many hosts costs the operator's machine, beside Ansible.

    python -m tests.benchmarks.fleet [--hosts 1,10,100] [--rounds 3]

All hosts are names for one SSH server, which is started here for it, on a port of its own on 127.0.0.1. In each round
every way of asking runs once, in turn, as a whole process, and has to bring every host's answer. Hosts and controller
share this machine's processors, so that wall time holds the work of both; the processor time of each side is shown
apart. What counts is the ratio of the medians to Ansible's, and how the cost of a host rises with their number.

Installs openssh-server with apt where there is none, and ansible-core with pip into the lab's cache. On two cores the
hundred hosts take about a quarter of an hour, nearly all of it Ansible's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import names
from tests.benchmarks.cost import ROOT, Cost, cost, environment
from tests.benchmarks.figures import median, plural, rise, table
from tests.benchmarks.peer import MOST_FORKS, install_ansible, playbooks
from tests.benchmarks.sshd import Server, install_server, programs, server
from tests.corpus import machines, sysfs_tree
from tests.lab.progress import Printer, Progress

PEER = "ansible-playbook"
FLOOR = "ansible-playbook, our one command"
INVENTORY_HOSTS = 500


@dataclass(frozen=True, slots=True)
class Way:
    """A command, the codes that it may end with, its environment, and whose answers are in the file that it wrote."""

    words: tuple[str, ...]
    codes: tuple[int, ...]
    environment: Mapping[str, str]
    answered: Callable[[Any], set[str]]


def ways(ansible: Path, directory: Path, answer: Path, count: int) -> dict[str, Way]:
    """Every way to ask the hosts of the inventories in a directory: its name → a command."""
    inventory = str(directory / "nodes.py")
    own = _environment(PYINFRA_PROGRESS="off")
    # Connections last for a minute after it has ended: in a directory of their own, nobody finds an open one.
    its_own = _environment(
        ANSIBLE_CONFIG=str(directory / "ansible.cfg"),
        ANSIBLE_HOME=str(directory / "ansible"),
        ANSIBLE_FORKS=str(min(count, MOST_FORKS)),
        PATH=f"{ansible}/bin:{os.environ['PATH']}",
    )
    playbooks = {PEER: "questions.yml", FLOOR: "one.yml"}
    status = ("--data", "status_output=json", "--data", f"status_file={answer}")
    return {
        "pyinfra deploys/status.py": Way(
            (sys.executable, "-m", "pyinfra", "-y", inventory, "deploys/status.py", *status), (0,), own, _rows
        ),
        # Other codes than 0 say what is found of the hosts, 5 that one did not answer.
        "python -m deploys.fleet": Way(
            (sys.executable, "-m", "deploys.fleet", inventory, "--output", "json", "--file", str(answer)),
            (0, 3, 4),
            own,
            _rows,
        ),
        **{
            name: Way(
                (f"{ansible}/bin/ansible-playbook", "-i", str(directory / "nodes.json"), str(directory / playbook)),
                (0,),
                its_own,
                _results,
            )
            for name, playbook in playbooks.items()
        },
    }


def _environment(**variables: str) -> dict[str, str]:
    return environment("GEVULOT_STATUS_", "ANSIBLE_") | variables


def _rows(document: Any) -> set[str]:
    return {host["name"] for host in document["hosts"] if host["topology"] is not None}


def _results(document: Any) -> set[str]:
    results = document.get("pci") or document["all"]
    return {name for name, lines in results.items() if "pcibind-topology end" in lines}


def measure(
    reached: Server, ansible: Path, directory: Path, count: int, rounds: int, say: Progress
) -> dict[str, list[Cost]]:
    """What each way cost in each round, for so many hosts. Raises RuntimeError when one brings no answer of a host."""
    costs: dict[str, list[Cost]] = {}
    answer = directory / "answer.json"
    hosts = names.numbered(count)
    names.write(directory, hosts, reached.login)
    for name, text in playbooks(answer).items():
        (directory / name).write_text(text)
    for number in range(rounds):
        say(f"{plural(count)}: round {number + 1} of {rounds}")
        for name, way in ways(ansible, directory, answer, count).items():
            answer.unlink(missing_ok=True)
            spent = reached.cost_of(way.words, way.environment, directory / "output", way.codes)
            silent = set(hosts) - way.answered(json.loads(answer.read_text()))
            if silent:
                raise RuntimeError(f"{name}: no answer from {', '.join(sorted(silent))}")
            costs.setdefault(name, []).append(spent)
    return costs


_LOAD = """\
import os, sys
from pyinfra.api import State
from pyinfra.context import ctx_state
from pyinfra_cli.inventory import make_inventory
from deploys import settings
sys.path.append(os.getcwd())
if len(sys.argv) > 1:
    with ctx_state.use(State()):
        hosts = make_inventory(sys.argv[1], cwd=os.getcwd(), override_data={})
        print(len(settings.read_all(((host.name, host.data.dict()) for host in hosts), settings.read)))
"""


def inventories(directory: Path, rounds: int, say: Progress) -> dict[str, list[Cost]]:
    """What reading and checking a large inventory costs, and the start of each of both programs alone."""
    place = directory / "inventories"
    place.mkdir()
    (place / "group_data").symlink_to(ROOT / "inventories/group_data")
    data: dict[str, object] = {"ssh_user": "root", "gevulot_boards": ["0000:01:00.0"]}
    data |= {"gevulot_p2p_listen": "0.0.0.0:9999", "gevulot_peers": ("10.0.0.0/8",)}
    text = "".join(
        f"    ('node{number:03}', {data | {'gevulot_p2p_advertised': f'10.0.{number >> 8}.{number & 255}:9999'}!r}),\n"
        for number in range(1, INVENTORY_HOSTS + 1)
    )
    (place / "nodes.py").write_text(f"nodes = [\n{text}]\n")
    inventory = str(place / "nodes.py")
    own = _environment(PYINFRA_PROGRESS="off", GEVULOT_PSK_PASSPHRASE="a passphrase for this benchmark")
    commands = {
        "pyinfra --version": (sys.executable, "-m", "pyinfra", "--version"),
        "pyinfra … debug-inventory --json": (sys.executable, "-m", "pyinfra", inventory, "debug-inventory", "--json"),
        "its imports": (sys.executable, "-c", _LOAD),
        "inventory and settings check": (sys.executable, "-c", _LOAD, inventory),
    }
    costs: dict[str, list[Cost]] = {}
    for number in range(rounds):
        say(f"an inventory of {INVENTORY_HOSTS} hosts: round {number + 1} of {rounds}")
        for name, words in commands.items():
            costs.setdefault(name, []).append(cost(words, own, directory / "output"))
    checked = (directory / "output").read_text().split()[-1]
    assert checked == str(INVENTORY_HOSTS), f"{checked} hosts were checked"
    return costs


def inventory_table(measured: Mapping[str, Sequence[Cost]]) -> str:
    """Seconds of each, and the ratio to the start before it."""
    lines = [f"an inventory of {INVENTORY_HOSTS} hosts: median seconds, ratio to the bare start above"]
    start = 0.0
    for name, costs in measured.items():
        each = median(costs)
        bare = name in ("pyinfra --version", "its imports")
        start = each.wall if bare else start
        lines.append(f"  {name:<34} {each.wall:7.2f} {each.wall / start:6.2f} {each.largest:8.1f} MiB")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", default="1,10,100", help="how many, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--machine", help="a machine of the corpus, whose PCI devices all hosts have")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # Ended from outside, it still ends the server and what it measures.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    say = Printer()
    install_server(say)
    ansible = install_ansible(say)
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        directory = Path(temporary)
        variables = {}
        if arguments.machine:
            sysfs_tree.build(machines.load(arguments.machine), f"{directory}/tree")
            variables = {"PCIBIND_SYS": f"{directory}/tree/sys", "PCIBIND_PROC": f"{directory}/tree/proc"}
        with server(directory, programs(directory, variables)) as reached:
            measured = {
                count: measure(reached, ansible, directory, count, arguments.rounds, say)
                for count in map(int, arguments.hosts.split(","))
            }
        loaded = inventories(directory, arguments.rounds, say)
    if arguments.json:
        json.dump({"hosts": measured, "inventories": loaded}, sys.stdout, indent=1, default=asdict)
        return
    for count, costs in measured.items():
        print(table(count, costs, (PEER, FLOOR)))
    if len(measured) > 1:
        print(rise(measured))
    print(inventory_table(loaded))


if __name__ == "__main__":
    main()
