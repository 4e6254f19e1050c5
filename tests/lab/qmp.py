"""QMP: QEMU's own control socket, one command at a time."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any


class QmpError(RuntimeError):
    """QEMU refused a command, or its socket is closed."""


class Monitor:
    """A connection to a QMP socket. One at a time for each QEMU; use it in a `with`."""

    def __init__(self, path: Path, *, timeout: float = 300) -> None:
        """Connect to the socket at `path`; every answer must come within `timeout` seconds.

        Raises QmpError when nobody answers there.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        # A socket's path must be shorter than 108 bytes; through /proc any directory will do.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{path.name}")
            self._stream = self._socket.makefile("rw", encoding="utf-8")
            self._read()
            self.command("qmp_capabilities")
        except (OSError, QmpError) as error:
            self._socket.close()
            raise QmpError(f"{path}: QEMU does not answer: {error}") from error
        finally:
            os.close(folder)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._stream.close()
        self._socket.close()

    def command(self, name: str, **arguments: object) -> Any:
        """Run a QMP command and return its answer. Raises QmpError when QEMU refuses, or ends."""
        request = {"execute": name, "arguments": arguments}
        try:
            self._stream.write(json.dumps(request) + "\n")
            self._stream.flush()
        except ConnectionError as error:
            raise QmpError(f"{self._path}: {name}: QEMU ended") from error
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{self._path}: {name}: {answer['error'].get('desc')}")

    def human(self, line: str) -> str:
        """Run a line of QEMU's human monitor and return what it prints."""
        text = self.command("human-monitor-command", **{"command-line": line})
        return str(text).replace("\r", "")

    def demand(self, line: str) -> None:
        """Run a line of the human monitor that prints nothing unless it fails.

        Raises QmpError with what it printed.
        """
        complaint = self.human(line).strip()
        if complaint:
            raise QmpError(f"{self._path}: {line}: {complaint}")

    def _read(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise QmpError("the connection was closed")
        answer: dict[str, Any] = json.loads(line)
        return answer
