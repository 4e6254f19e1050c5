"""What anybody who reaches the node's file server can have of its key."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.lab.machine import Machine

# Runs in the guest. The container's processes are those of its own view; what ended meanwhile is not found.
_ASK = r"""
import json, socket, subprocess

KEY = open("/var/lib/gevulot/key/node.key", "rb").read()


def get(target):
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", 9995), 20) as connection:
            # A pipe that nobody writes to gives neither bytes nor an end.
            connection.settimeout(5)
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
            while len(answer) < 1 << 20 and (part := connection.recv(65536)):
                answer += part
    except OSError:
        pass
    return answer


def inside(pattern):
    command = ["podman", "exec", "gevulot-node", "sh", "-c", f"ls -d {pattern}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


environment = subprocess.run(
    ["podman", "exec", "gevulot-node", "printenv", "GEVULOT_NODE_KEY_FILE"], capture_output=True, text=True
).stdout.strip()
paths = {"/var/lib/gevulot/key/node.key", "/etc/gevulot-key/node.key", "/run/gevulot-key/node.key", environment}
up = range(1, 9)
targets = {
    *(f"/{path}" for path in paths),
    *(f"/%2F{path[1:]}" for path in paths),
    *(f"{'/..' * n}{path}" for path in paths for n in up),
    *(f"{'/%2e%2e' * n}{path}" for path in paths for n in up),
    *(f"/{process}/root{path}" for process in (*inside("/proc/[0-9]*"), "/proc/self") for path in paths),
    *(f"/{path}" for path in inside("/proc/[0-9]*/fd/* /proc/[0-9]*/environ")),
    "/node.key",
    "/../key/node.key",
}
print(json.dumps({
    "asked": len(targets),
    "descriptors": sorted(target for target in targets if "/fd/" in target),
    "works": open("/proc/sys/kernel/random/boot_id", "rb").read() in get("//proc/sys/kernel/random/boot_id"),
    "given": sorted(target for target in targets if KEY in get(target)),
}))
"""


@dataclass(frozen=True, slots=True)
class Exposure:
    """The targets of requests that were answered with the key, out of how many.

    `works` says that the server gives files outside of its directory, so that an empty `given` shows something;
    `descriptors` are the open files of the container's processes that were asked for.
    """

    given: list[str]
    asked: int
    descriptors: list[str]
    works: bool


def exposure(machine: Machine) -> Exposure:
    """Ask the node for its key by every spelling."""
    return Exposure(**json.loads(machine.ssh("python3 -I -", stdin=_ASK).stdout))
