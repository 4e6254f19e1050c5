"""Real SSH servers on loopback addresses of this machine: a host, and jump hosts before it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
MISSING = "" if SSHD and shutil.which("ssh") else "needs sshd and ssh (Debian's package ssh)"
ROOT = Path(__file__).parents[3]

_CONFIGURATION = """\
ListenAddress {address}:{port}
HostKey {keys}/host
AuthorizedKeysFile {keys}/operator.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
PrintMotd no
LogLevel VERBOSE
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv HOME={directory} PATH={directory}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
# OpenSSH 9.8 and newer turn away an address that connects too often without a login.
_PENALTIES = "PerSourcePenalties no\n"
# What sudo does where it wants a password, as far as pyinfra's options for it go.
_SUDO = """\
#!/bin/sh
[ "$1" = -H ] && shift
case $1 in
-n) echo 'sudo: a password is required' >&2; exit 1 ;;
-A) shift; [ "$1" = -k ] && shift ;;
esac
[ "$("$SUDO_ASKPASS")" = {password} ] || {{ echo 'sudo: 1 incorrect password attempt' >&2; exit 1; }}
unset SSH_CONNECTION SUDO_ASKPASS PYINFRA_SUDO_PASSWORD
exec "$@"
"""


@dataclass(slots=True)
class Server:
    """An SSH server of its own host key."""

    address: str
    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def configuration(self) -> Path:
        return self.directory / "sshd_config"

    def host_key(self) -> str:
        """Its line of a known_hosts file."""
        return f"[{self.address}]:{self.port} {' '.join((self.directory / 'host.pub').read_text().split()[:2])}\n"


def key(path: Path) -> Path:
    """Make a pair of keys."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def server(
    directory: Path, address: str, operator: Path, sudo_password: str = "", namespace: str = ""
) -> Iterator[Server]:
    """Start a server that lets this account in with the operator's key; in a network namespace at port 22."""
    directory.mkdir()
    key(directory / "host")
    shutil.copy(f"{operator}.pub", directory / "operator.pub")
    (directory / "bin").mkdir()
    if sudo_password:
        sudo = directory / "bin/sudo"
        sudo.write_text(_SUDO.format(password=shlex.quote(sudo_password)))
        sudo.chmod(0o755)
    if os.geteuid() == 0:
        # Where it puts itself away; the package's service makes it at its start.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = 22 if namespace else free_port(address)
    text = _CONFIGURATION.format(address=address, port=port, keys=directory, directory=directory)
    (directory / "sshd_config").write_text(f"{text}{_PENALTIES}")
    # In this order, since older ones do not know the option.
    if subprocess.run([str(SSHD), "-t", "-f", str(directory / "sshd_config")], capture_output=True).returncode != 0:
        (directory / "sshd_config").write_text(text)
    running = Server(address, port, directory, start(directory / "sshd_config", namespace))
    try:
        _wait_for(address, port)
        yield running
    finally:
        stop(running.process)


def start(configuration: Path, namespace: str = "") -> subprocess.Popen[bytes]:
    assert SSHD is not None
    words = [SSHD, "-f", str(configuration), "-D", "-e"]
    if namespace:
        words = ["ip", "netns", "exec", namespace, *words]
    with (configuration.parent / "log").open("ab") as log:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=log)


@contextmanager
def neighbour(address: str, own: str) -> Iterator[str]:
    """A network namespace that this machine reaches at ``address``, and reaches from ``own``. Needs root."""
    name = f"neighbour-{os.getpid()}"
    link = f"nb{os.getpid()}"
    commands = (
        f"ip netns add {name}",
        f"ip link add {link} type veth peer name eth0 netns {name}",
        f"ip address add {own}/30 dev {link}",
        f"ip link set {link} up",
        f"ip -n {name} address add {address}/30 dev eth0",
        f"ip -n {name} link set eth0 up",
        f"ip -n {name} link set lo up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield name
    finally:
        # The link goes with the namespace.
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=30)


def _wait_for(address: str, port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection((address, port), timeout=2) as stream:
            if stream.recv(4) == b"SSH-":
                return
        time.sleep(0.05)
    raise TimeoutError(f"no SSH server answers at {address}:{port}")


@contextmanager
def forward(target: tuple[str, int], idle: float | None = None) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to another one; a connection is cut that is silent for ``idle`` seconds."""

    def carry(source: socket.socket, sink: socket.socket, received: list[float]) -> None:
        source.settimeout(0.2)
        while True:
            try:
                data = source.recv(65536)
                received[0] = time.monotonic()
                sink.sendall(data)
            except TimeoutError:
                if idle is None or time.monotonic() - received[0] < idle:
                    continue
                break
            except OSError:
                break
            if not data:
                break
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                remote = socket.create_connection(target)
                received = [time.monotonic()]
                for pair in ((client, remote), (remote, client)):
                    threading.Thread(target=carry, args=(*pair, received), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]


def pyinfra(
    directory: Path, inventory: str, *arguments: str, environment: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run pyinfra without a terminal, with an inventory of this text.

    As its own program: run as a module it hangs where ssh_config has a ProxyCommand.
    """
    path = directory / "inventory.py"
    path.write_text(inventory)
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "helpers/pcibind/src"))),
        "HOME": str(directory),
        **(environment or {}),
    }
    variables.pop("SSH_AUTH_SOCK", None)
    return subprocess.run(
        [str(Path(sys.executable).with_name("pyinfra")), str(path), *arguments],
        cwd=directory, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        # Without a terminal, which pyinfra would ask for a password.
        start_new_session=True,
    )  # fmt: skip
