"""What a deploy with nothing to change costs the operator's machine for many hosts, beside Ansible.

    python -m tests.benchmarks.node [--hosts 1,10,100] [--rounds 3] [--machine NAME]

A machine of the lab is deployed, unless one that is deployed already is named. On it each tool runs once more, with all
that it asks and is answered recorded: those figures are of one real host, whose own work is emulated here and takes
most of the time. Then every host is a name for one SSH server on this machine, which gives the recorded answers: a
settled node whose own work is next to nothing. So what is measured is the tool. In each round every tool runs once, in
turn, as a whole process, and its own words must show that every host was visited and nothing changed. Hosts and
controller share this machine's processors, so that wall time holds the work of both; the processor time of each side is
distinguished. What counts is the ratio of the medians to Ansible's, and how the cost of a host rises with their number.

Ansible's side is in settle.py, with what it does less. For pyinfra, what goes through the SSH connection to the node's
Postgres is answered by a stand-in, on the port of 127.0.0.1 that the node's has; all other ports are closed.

Installs openssh-server with apt where there is none, and ansible-core with pip into the lab's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.benchmarks import answers, names, postgres
from tests.benchmarks.answers import Player, Record
from tests.benchmarks.cost import ROOT, Cost, cost, environment
from tests.benchmarks.figures import plural, rise, table
from tests.benchmarks.login import Login
from tests.benchmarks.peer import MOST_FORKS, install_ansible
from tests.benchmarks.recorder import Recorder, recorder
from tests.benchmarks.settled import Settled, read_back, settled
from tests.benchmarks.sshd import ADDRESS, Server, install_server, server
from tests.lab.inventory import passphrase
from tests.lab.progress import Printer, Progress

OURS = "pyinfra deploys/node.py"
PEER = "ansible-playbook"

# Longer than any run: a name that logged in again would be answered from the start.
_PERSIST = 3600


@dataclass(frozen=True, slots=True)
class Way:
    """A command, its environment, and what is wrong with its output, if it must visit these hosts and change none."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    wrong: Callable[[str, Collection[str]], str | None]


def ways(ansible: Path, directory: Path, count: int) -> dict[str, Way]:
    """Both tools, for the hosts of the inventories in a directory: name → a command."""
    secret = {"GEVULOT_PSK_PASSPHRASE": passphrase()}
    kept = environment("ANSIBLE_", "GEVULOT_") | secret
    its_own = {
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_FORKS": str(min(count, MOST_FORKS)),
        "PATH": f"{ansible}/bin:{os.environ['PATH']}",
    }
    return {
        OURS: Way(
            (sys.executable, "-m", "pyinfra", "-y", str(directory / "nodes.py"), "deploys/node.py"),
            kept | {"PYINFRA_PROGRESS": "off"},
            wrong_with_pyinfra,
        ),
        PEER: Way(
            (f"{ansible}/bin/ansible-playbook", "-i", str(directory / "nodes.json"), str(directory / "settle.yml")),
            kept | its_own,
            wrong_with_ansible,
        ),
    }


# The columns are hosts, success, error and no change; "success" counts changes.
_RESULT = re.compile(r"^ *(\S.*?) {3,}(\d+|-) +(\d+|-) +(\d+|-) +(\d+|-) *$", re.M)
_VERIFIED = re.compile(r"What was verified on (\S+):$", re.M)
_RECAP = re.compile(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+) +skipped=(\d+)", re.M)


def wrong_with_pyinfra(output: str, hosts: Collection[str]) -> str | None:
    """Why this is not the output of a deploy that visited just these hosts and changed none; `None` when it is.

    A host of which anything is wrong has ended it with another exit code.
    """
    rows = _RESULT.findall(output.partition("--> Results:")[2])
    if not rows or rows[-1][0] != "Grand total":
        return "there is no table of results"
    for name, visited, success, error, unchanged in rows:
        if (success, error) != ("-", "-") or unchanged != visited:
            return f"{name}: of {visited} hosts {success} changed, {error} failed, {unchanged} did not change"
        if name != "Grand total" and visited != str(len(hosts)):
            return f"{name}: {visited} hosts of {len(hosts)}"
    return _missing(_VERIFIED.findall(output), hosts)


def wrong_with_ansible(output: str, hosts: Collection[str]) -> str | None:
    """The same of a playbook's output."""
    recap = _RECAP.findall(output.partition("PLAY RECAP")[2])
    for name, ok, *others in recap:
        if ok == "0" or any(each != "0" for each in others):
            return f"{name}: {ok} ok; changed, unreachable, failed, skipped: {', '.join(others)}"
    return _missing([name for name, *_ in recap], hosts)


def _missing(present: Collection[str], hosts: Collection[str]) -> str | None:
    missing = sorted(set(hosts) ^ set(present))
    return f"not every host was visited: {', '.join(missing)}" if missing else None


def prepare(directory: Path, hosts: list[str], login: Login, node: Settled, data: Mapping[str, Any]) -> None:
    """Write all that both tools need in a directory, for these hosts; `data` is host data beside the node's."""
    # Its directory for a moment is named, so that who logs in here is no part of what is asked.
    variables = login.ansible(_PERSIST) | {"ansible_remote_tmp": "/root/.ansible/tmp"}
    names.write(directory, hosts, login, {**node.data, **data}, variables)
    (directory / "settle.yml").write_text(node.playbook)
    shared = directory / "group_data"
    if not shared.exists():
        shared.symlink_to(ROOT / "inventories/group_data")


def live(
    recorded: Recorder, node: Settled, ansible: Path, directory: Path, say: Progress
) -> tuple[dict[str, list[Cost]], dict[str, Record]]:
    """What each tool costs on the real node, and what it was answered there. Raises RuntimeError for a change."""
    host = recorded.machine.name
    prepare(directory, [host], recorded.login, node, {})
    costs: dict[str, list[Cost]] = {}
    records: dict[str, Record] = {}
    for name, way in ways(ansible, directory, 1).items():
        say(f"one real host: {name}")
        spent = cost(way.words, way.environment, directory / "output")
        _check(name, way, directory / "output", [host])
        records[name] = recorded.take(directory / f"record-{len(records)}")
        costs[name] = [replace(spent, commands=records[name].commands, connections=records[name].connections)]
    return costs, records


def measure(
    reached: Server,
    player: Player,
    records: Mapping[str, Record],
    node: Settled,
    ansible: Path,
    count: int,
    rounds: int,
    say: Progress,
) -> dict[str, list[Cost]]:
    """What each tool cost in each round, for so many hosts. Raises RuntimeError when one was not visited or changed."""
    hosts = names.numbered(count)
    directory = reached.directory
    costs: dict[str, list[Cost]] = {}
    with closed_port() as closed:
        ports = dict.fromkeys(node.data["gevulot_probe_ports"], closed)
        prepare(directory, hosts, reached.login, node, {"gevulot_probe_ports": ports})
        for number in range(rounds):
            for name, way in ways(ansible, directory, count).items():
                say(f"{plural(count)}: round {number + 1} of {rounds}, {name}")
                with player.playing(records[name]):
                    spent = reached.cost_of(way.words, way.environment, directory / "output")
                _check(name, way, directory / "output", hosts)
                if spent.connections != count:
                    raise RuntimeError(f"{name}: {spent.connections} logins; expected one for each of {plural(count)}")
                costs.setdefault(name, []).append(spent)
    return costs


def _check(name: str, way: Way, output: Path, hosts: Collection[str]) -> None:
    text = output.read_text(errors="replace")
    if problem := way.wrong(text, hosts):
        raise RuntimeError(f"{name}: {problem}\n{text[-3000:]}")


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 at which nobody answers: it is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        port: int = taken.getsockname()[1]
        yield port


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.node", description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", default="1,10,100", help="how many, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--machine", help="a machine of the lab that is up and deployed; without, one is made")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # Ended from outside, it still ends the machine, the servers and what it measures.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    say = Printer()
    install_server(say)
    ansible = install_ansible(say)
    with tempfile.TemporaryDirectory(prefix="node-") as temporary:
        once, directory = Path(temporary, "once"), Path(temporary, "many")
        once.mkdir()
        directory.mkdir()
        with settled(arguments.machine, say) as machine:
            node = read_back(machine, Path(temporary, "files"))
            with recorder(machine, once) as recorded:
                real, records = live(recorded, node, ansible, once, say)
        player = Player(Path(temporary, "player"))
        with (
            postgres.server(node.settings.postgres_port, node.database),
            server(directory, answers.replay(player.directory)) as reached,
        ):
            measured = {
                count: measure(reached, player, records, node, ansible, count, arguments.rounds, say)
                for count in map(int, arguments.hosts.split(","))
            }
    if arguments.json:
        json.dump({"live": real, "hosts": measured}, sys.stdout, indent=1, default=asdict)
        return
    print(table(1, real, (PEER,), "one real host, emulated, once"))
    for count, costs in measured.items():
        print(table(count, costs, (PEER,)))
    if len(measured) > 1:
        print(rise(measured))


if __name__ == "__main__":
    main()
