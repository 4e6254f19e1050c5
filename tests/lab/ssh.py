"""SSH: the way into one machine, through its port on 127.0.0.1."""

import os
import select
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.lab import cache, watch
from tests.lab.hostpackages import program
from tests.lab.watch import Watch, unwatched

ADDRESS = "127.0.0.1"

LOGIN_SECONDS: Final = 90
"""How long a first login may take, in a guest that is still starting its services."""

_HEARD_SECONDS: Final = 60
_FIRST_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Ssh:
    """One machine's SSH server, as this computer reaches it.

    `key` is the operator's private key, `known_hosts` the file that names the server's own;
    `directory` is the machine's, which its shared connections are named by.
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
        watched: Watch = unwatched,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the guest, as root or as `operator` (who may use sudo).

        Returns its status and its output; status 255 is ssh's own failure. Raises
        CalledProcessError, with the output as a note, when `check` and the status is not 0,
        TimeoutExpired after `timeout` seconds, and what `watched` raises meanwhile.
        """
        words = [program("ssh"), *self.arguments, f"{user}@{ADDRESS}", "--", command]
        done = watch.run(words, watched, timeout=timeout, stdin=stdin or "")
        if check and done.returncode != 0:
            failure = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            failure.add_note(f"{self.name}, as {user}:\n{done.stdout}{done.stderr}")
            raise failure
        return done

    def asks(self, *, watched: Watch = unwatched) -> tuple[str | None, str]:
        """Return the identifier of the boot that answers now, None when none does; and then why not."""
        try:
            done = self.run("cat /proc/sys/kernel/random/boot_id", timeout=LOGIN_SECONDS, watched=watched)
        except subprocess.CalledProcessError as error:
            return None, str(error.stderr).strip()
        except subprocess.TimeoutExpired:
            return None, f"a login takes longer than {LOGIN_SECONDS} s"
        return done.stdout.strip(), ""

    def hang_up(self) -> None:
        """End the shared SSH connections: they would not notice that time has jumped."""
        path = _control(self.directory)
        for control in path.parent.glob(path.name + "-*"):
            user = control.name.removeprefix(path.name + "-")
            subprocess.run(
                ["timeout", "10", program("ssh"), *self.arguments, "-O", "exit", f"{user}@{ADDRESS}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )
            control.unlink(missing_ok=True)


class Door:
    """Waits for a server's banner by knocking again and again, each knock being heard for a minute.

    One knock would not do: what is sent before the guest has a network is lost. Neither would one after the other with
    a short patience: a guest under load takes longer for its banner than that, at every try.
    """

    def __init__(self, port: int) -> None:
        """Wait for the server behind a port on 127.0.0.1; use it in a `with`."""
        self._port = port
        self._knocks: list[tuple[float, socket.socket]] = []
        self._pause = _FIRST_PAUSE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._forget([knock for _, knock in self._knocks])

    def opens(self, seconds: float) -> bool:
        """Tell whether the banner of an SSH server arrives within `seconds`, by this knock or by an earlier one."""
        end = time.monotonic() + seconds
        self._forget([knock for since, knock in self._knocks if time.monotonic() - since > _HEARD_SECONDS])
        self._knock()
        while (left := end - time.monotonic()) > 0:
            waiting = [knock for _, knock in self._knocks]
            if not waiting:
                time.sleep(left)
                return False
            for knock in select.select(waiting, [], [], left)[0]:
                if _banner(knock):
                    self._forget(waiting)
                    self._pause = _FIRST_PAUSE_SECONDS
                    return True
                self._forget([knock])
        return False

    def _knock(self) -> None:
        """Knock again, unless the last knock is young: each costs a slow guest a process."""
        newest = max((since for since, _ in self._knocks), default=0.0)
        if self._knocks and time.monotonic() - newest < self._pause:
            return
        self._pause = self._pause * 1.5 if self._knocks else _FIRST_PAUSE_SECONDS
        with suppress(OSError):
            self._knocks.append((time.monotonic(), socket.create_connection((ADDRESS, self._port), timeout=2)))

    def _forget(self, knocks: list[socket.socket]) -> None:
        self._knocks = [each for each in self._knocks if each[1] not in knocks]
        for knock in knocks:
            knock.close()


def _banner(knock: socket.socket) -> bool:
    with suppress(OSError):
        return knock.recv(4) == b"SSH-"
    return False


def _control(directory: Path) -> Path:
    """Return the start of a machine's SSH control sockets, whose paths must be short."""
    folder = Path(tempfile.gettempdir()) / f"gevulot-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / cache.digest(str(directory))[:8]
