"""One SSH server on this machine that answers for many hosts, and counts what they are asked."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.cost import Cost, children, cost
from tests.benchmarks.login import Login
from tests.lab.hostpackages import HostPackage, ensure, missing, privileged, program
from tests.lab.progress import Progress

ADDRESS = "127.0.0.1"
SERVER = HostPackage("openssh-server", "sshd", "answers for all hosts, on a port of its own")

_CONFIGURATION = """\
ListenAddress {address}:{port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/operator.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
PrintMotd no
MaxStartups 10000
MaxSessions 1000
SetEnv HOME={directory}/home
ForceCommand exec /bin/sh {directory}/counted
"""
# OpenSSH 9.8 and newer would turn away an address that connects too often; older ones do not know the word.
_PENALTIES = "PerSourcePenalties no\n"

# One byte for each command: as short an append as there is, which no other breaks up.
_COUNTED = """\
printf . >>{directory}/commands
{answer}"""

# Without any, every look would ask apt which one it offers, which takes longer than all the rest of the look, and
# which no node is asked.
_PODMAN = """\
#!/bin/sh
[ "$1" = --version ] && echo podman version 5.4.2
exit 0
"""


@dataclass(frozen=True, slots=True)
class Server:
    """The SSH server that all names lead to, and what it has counted since its start."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes]

    def commands(self) -> int:
        """How many commands were run."""
        path = self.directory / "commands"
        return path.stat().st_size if path.exists() else 0

    def connections(self) -> int:
        """How many connections somebody logged in through."""
        return (self.directory / "server.log").read_text().count("Accepted publickey")

    def processor(self) -> float:
        """Seconds of processor time of all connections that have ended, and of what ran in them."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def settle(self, seconds: float = 30) -> None:
        """Wait until the last connection has ended. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while children(self.process.pid):
            if time.monotonic() > end:
                raise TimeoutError(f"connections to port {self.port} are still open after {seconds:.0f} s")
            time.sleep(0.01)

    def cost_of(
        self, words: Sequence[str], environment: Mapping[str, str], log: Path, codes: Sequence[int] = (0,)
    ) -> Cost:
        """What a command costs, what it asks here included. Raises as `cost` and `settle` do."""
        before = self.commands(), self.connections(), self.processor()
        spent = cost(words, environment, log, codes)
        self.settle()
        return replace(
            spent,
            commands=self.commands() - before[0],
            connections=self.connections() - before[1],
            hosts=self.processor() - before[2],
        )

    @property
    def login(self) -> Login:
        """How it is reached."""
        return Login(ADDRESS, self.port, getpass.getuser(), self.directory / "operator", self.directory / "known_hosts")


def programs(directory: Path, variables: Mapping[str, str]) -> str:
    """A shell script that answers a command with this machine's own programs, and with these variables set."""
    (directory / "bin").mkdir()
    podman = directory / "bin/podman"
    podman.write_text(_PODMAN)
    podman.chmod(0o755)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return f'PATH={directory}/bin:$PATH\n{exports}exec "${{SHELL:-/bin/sh}}" -c "$SSH_ORIGINAL_COMMAND"\n'


@contextmanager
def server(directory: Path, answer: str) -> Iterator[Server]:
    """Start the server in a directory. `answer` is the shell script that answers each `$SSH_ORIGINAL_COMMAND`."""
    for name in ("host", "operator"):
        subprocess.run(
            [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    (directory / "counted").write_text(_COUNTED.format(directory=directory, answer=answer))
    # Not the user's own: what their shell does at its start is no node's.
    (directory / "home").mkdir()
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port: int = free.getsockname()[1]
    text = _CONFIGURATION.format(address=ADDRESS, port=port, directory=directory)
    configuration = directory / "sshd_config"
    configuration.write_text(text + _PENALTIES)
    sshd = [program("sshd"), "-f", str(configuration)]
    if os.geteuid() == 0:
        # Where it puts itself away; the package's service makes it at its start.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    if subprocess.run([*sshd, "-t"], capture_output=True).returncode != 0:
        configuration.write_text(text)
        subprocess.run([*sshd, "-t"], check=True)
    public = " ".join((directory / "host.pub").read_text().split()[:2])
    (directory / "known_hosts").write_text(f"[{ADDRESS}]:{port} {public}\n")
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen([*sshd, "-D", "-e"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _greeted(port, process)
        yield Server(directory, port, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _greeted(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError), socket.create_connection((ADDRESS, port), timeout=2) as stream:
            if stream.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer on port {port}: exit code {process.poll()}")


def install_server(say: Progress) -> None:
    """Install sshd where it is missing, without the service that listens to everybody."""
    if not missing((SERVER,)):
        return
    units = ("ssh.service", "ssh.socket")
    systemd = Path("/run/systemd/system").exists()
    if systemd:
        subprocess.run(privileged(["systemctl", "mask", "--runtime", *units]), check=True)
    try:
        ensure(say, (SERVER,))
    finally:
        if systemd:
            subprocess.run(privileged(["systemctl", "unmask", "--runtime", *units]), check=True)
            subprocess.run(privileged(["systemctl", "disable", *units]), check=False)
