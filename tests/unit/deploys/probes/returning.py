"""A deploy whose host goes away and comes back, as at a reboot; the jump host counts its connections."""

import json
import os
import subprocess
import time
from pathlib import Path

from pyinfra.operations import python

from deploys.transport import connection, remote

SSHD, PID, CONFIGURATION, JUMP = (os.environ[name] for name in ("SSHD", "TARGET", "CONFIGURATION", "JUMP"))


def children(parent):  # type: ignore[no-untyped-def]
    listed = subprocess.run(["pgrep", "-P", parent], capture_output=True, text=True).stdout.split()
    return [int(each) for each in listed]


def count_left(expected):  # type: ignore[no-untyped-def]
    """The jump host's connections, once those that are being closed have ended."""
    end = time.monotonic() + 5
    while (count := len(children(JUMP))) > expected and time.monotonic() < end:
        time.sleep(0.1)
    return count


def go_and_come(state, host):  # type: ignore[no-untyped-def]
    way = connection.Reconnection(host)
    counts = [len(children(JUMP))]
    up = [way.reconnect() for _ in range(3)]
    counts.append(count_left(counts[0]))
    for each in (*children(PID), int(PID)):
        os.kill(each, 9)
    down = [way.reconnect() for _ in range(5)]
    counts.append(count_left(counts[0]))
    server = subprocess.Popen([SSHD, "-f", CONFIGURATION, "-D"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (back := way.reconnect()) and time.monotonic() < end:
            time.sleep(0.1)
        counts.append(count_left(counts[0]))
        answer = remote.run(host, "echo answered", timeout=10)[1]
    finally:
        server.terminate()
    result = {"up": up, "down": down, "back": back, "answer": answer, "counts": counts}
    Path(os.environ["PROBED"], host.name).write_text(json.dumps(result))
    return True


python.call(name="Go away and come back", function=go_and_come)
