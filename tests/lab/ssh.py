"""SSH: the way into one machine, through its port on 127.0.0.1."""

import os
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cache
from tests.lab.hostpackages import program

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Ssh:
    """One machine's SSH server, as this computer reaches it.

    `key` is the operator's private key, `known_hosts` the file that names the server's own;
    `directory` is the machine's, by which its shared connections are told from all others.
    """

    name: str
    port: int
    key: Path
    known_hosts: Path
    directory: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return ssh's options for this machine, all but the user, the host and the command.

        Connections are shared: the first stays open for a minute, as a background process.
        """
        options = {
            "Port": str(self.port),
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "30",
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "6",
            "ControlMaster": "auto",
            "ControlPersist": "60",
            "ControlPath": str(_control(self.directory)) + "-%r",
        }
        words = (("-o", f"{name}={value}") for name, value in options.items())
        return ("-F", "/dev/null", *(word for pair in words for word in pair))

    def trust(self, public_key: str) -> None:
        """Write down that the server at this port shows this key (`ssh-ed25519 AAAA…`)."""
        self.known_hosts.write_text(f"[{ADDRESS}]:{self.port} {public_key}\n")

    def run(
        self,
        command: str,
        *,
        user: str = "root",
        check: bool = True,
        timeout: float | None = 600,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the guest, as root or as `operator` (who may use sudo).

        Returns its status and its output; status 255 is ssh's own failure. Raises
        CalledProcessError, with the output as a note, when `check` and the status is not 0, and
        TimeoutExpired after `timeout` seconds.
        """
        words = [program("ssh"), *self.arguments, f"{user}@{ADDRESS}", "--", command]
        done = subprocess.run(
            words,
            # An empty input, not none: a command must not eat the caller's.
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            failure = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            failure.add_note(f"{self.name}, as {user}:\n{done.stdout}{done.stderr}")
            raise failure
        return done

    def boot_id(self, *, timeout: float = 60) -> str:
        """Return the kernel's identifier of this boot."""
        return self.run("cat /proc/sys/kernel/random/boot_id", timeout=timeout).stdout.strip()

    def answers(self, *, other_than: str | None = None) -> bool:
        """Tell whether a command runs now, in another boot than `other_than` if given.

        Takes up to two seconds when nobody listens, up to 30 when the server is still starting.
        """
        if self._greets():
            with suppress(subprocess.SubprocessError):
                return self.boot_id(timeout=30) != other_than
        return False

    def hang_up(self) -> None:
        """End the shared SSH connections: they would not notice that time has jumped."""
        path = _control(self.directory)
        for control in path.parent.glob(path.name + "-*"):
            user = control.name.removeprefix(path.name + "-")
            subprocess.run(
                [program("ssh"), *self.arguments, "-O", "exit", f"{user}@{ADDRESS}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
            control.unlink(missing_ok=True)

    def _greets(self) -> bool:
        """Tell whether an SSH server shows its banner within two seconds."""
        try:
            with socket.create_connection((ADDRESS, self.port), timeout=2) as stream:
                return stream.recv(4) == b"SSH-"
        except OSError:
            return False


def _control(directory: Path) -> Path:
    """Return the start of a machine's SSH control sockets, whose paths must be short."""
    folder = Path(tempfile.gettempdir()) / f"gevulot-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / cache.digest(str(directory))[:8]
