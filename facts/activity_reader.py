"""Read what the node of this host does now. Runs on the host, with nothing but its own Python.

    python3 -I -c "$(cat activity_reader.py)" LISTEN CONTAINER LOGS VERIFICATION

LISTEN is the address of the health check, CONTAINER the node's name in Podman, LOGS the directory in which the node
keeps a directory for each transaction, with QEMU's errors in stderr.log. VERIFICATION is what the names of our own
verification's machines begin with.

Prints one object as JSON. `health`: the HTTP status, or null. `waited`: the seconds between two looks; 0 after one.
`age`: the container's, in seconds, or null. `machines`: the QEMU processes in the container's control group, or null
where they could not be listed. `failures`: the logs with recent errors. Ages are in seconds.

The logs lie in a directory in which the container's root writes, and hold what strangers' programs make QEMU print:
links are not followed, and the number of files and bytes is limited. Of QEMU's arguments only numbers are printed.
"""

import http.client
import itertools
import json
import os
import re
import stat
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

HEALTH_SECONDS = 3
PODMAN_SECONDS = 10
# A machine that is older has started: the node gives up one that does not answer within three seconds.
STARTED = 6.0
# The health check says 503 for a moment whenever a transaction arrives.
SECOND_LOOK = 5
# Seconds since the last error of a start that is still tried again.
RECENT = 60.0
GROUPS = 200
PROCESSES = 5_000
DIRECTORIES = 20_000
LOGS = 5
TAIL = 65_536
LINE = 1_000
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

Machine = dict[str, Any]


def health(listen: str) -> int | None:
    """The status of the health check. Not by urllib, which would ask a proxy of the environment.

    While the node is down, any program may listen there: the time of the whole answer is limited, and only its first
    line is read.
    """
    end = time.monotonic() + HEALTH_SECONDS
    connection = http.client.HTTPConnection(listen, timeout=HEALTH_SECONDS)
    answer = b""
    try:
        connection.request("GET", "/healthz")
        while b"\n" not in answer and len(answer) < LINE and (left := end - time.monotonic()) > 0:
            connection.sock.settimeout(left)
            piece = connection.sock.recv(LINE)
            if not piece:
                break
            answer += piece
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", answer)
    return int(status[1]) if status else None


def process_of(container: str) -> str | None:
    """The container's first process. Only root sees root's containers."""
    if os.geteuid() != 0:
        return None
    words = ["podman", "container", "inspect", "--format", "{{.State.Pid}}", container]
    try:
        pid = subprocess.run(words, capture_output=True, text=True, timeout=PODMAN_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return pid if pid.isdecimal() and pid != "0" else None


def read(path: str, size: int = 131_072) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def age(root: str, pid: str) -> float:
    """Seconds since a process started."""
    ticks = int(read(f"{root}/proc/{pid}/stat").rpartition(b")")[2].split()[19])
    return float(read(f"{root}/proc/uptime").split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def processes(root: str, pid: str) -> list[str]:
    """All processes of the control group that a process is in, and of the groups below it. Raises OSError."""
    (group,) = re.findall(rb"^0::(/.+)$", read(f"{root}/proc/{pid}/cgroup"), re.M) or [b""]
    if not group:
        raise OSError("the container has no control group of its own")
    top = f"{root}/sys/fs/cgroup{os.fsdecode(group)}"
    places = [place for place, _, _ in itertools.islice(os.walk(top), GROUPS)] or [top]
    pids = read(f"{top}/cgroup.procs").decode().split()
    for place in places:
        # A group below it may have just ended.
        with suppress(OSError):
            pids += read(f"{place}/cgroup.procs").decode().split()
    return list(dict.fromkeys(pids))[:PROCESSES]


def machine(root: str, pid: str, verification: str) -> Machine | None:
    """A process, if it is QEMU: its age, guest CID and number of boards, and which file its errors go to."""
    place = f"{root}/proc/{pid}"
    try:
        if not os.path.basename(os.readlink(f"{place}/exe")).startswith("qemu"):
            return None
        words = read(f"{place}/cmdline").decode(errors="replace").split("\0")
        seconds = age(root, pid)
    except (OSError, ValueError, IndexError):
        # It has just ended.
        return None
    try:
        errors = os.stat(f"{place}/fd/2")
    except OSError:
        errors = None
    options = list(itertools.pairwise(words))
    devices = [value for option, value in options if option == "-device"]
    cids = [cid for each in devices for cid in re.findall(r"^vhost-vsock-pci.*,guest-cid=(\d{1,10})(?:,|$)", each)]
    return {
        "seconds": round(seconds, 1),
        "guest_cid": int(cids[0]) if cids else None,
        "boards": sum(re.match(r"vfio-pci(,|$)", each) is not None for each in devices),
        "check": any(option == "-name" and value.startswith(verification) for option, value in options),
        "errors": errors and (errors.st_dev, errors.st_ino),
    }


def failures(directory: str, machines: list[Machine]) -> list[dict[str, Any]]:
    """The failures in the logs that were written within RECENT seconds, the newest first; at most LOGS of them."""
    try:
        top = os.open(directory, DIRECTORY)
    except OSError:
        return []
    try:
        recent = []
        with os.scandir(top) as entries:
            for entry in itertools.islice(entries, DIRECTORIES):
                try:
                    if entry.is_dir(follow_symlinks=False):
                        log = os.stat(f"{entry.name}/stderr.log", dir_fd=top, follow_symlinks=False)
                        # A time in the future means that the clock was wrong, or that somebody set the time.
                        if log.st_size and abs(time.time() - log.st_mtime) < RECENT:
                            recent.append((log.st_mtime, entry.name))
                except OSError:
                    continue
        results = [failure(top, name, machines) for _, name in sorted(recent, reverse=True)[:LOGS]]
        return [each for each in results if each is not None]
    finally:
        os.close(top)


def failure(top: int, name: str, machines: list[Machine]) -> dict[str, Any] | None:
    """The failed starts of a program in one log; None where it has no lines or cannot be read."""
    opened = []
    try:
        opened.append(os.open(name, DIRECTORY, dir_fd=top))
        opened.append(os.open("stderr.log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[0]))
        log = os.fstat(opened[1])
        if not stat.S_ISREG(log.st_mode):
            return None
        offset = max(0, log.st_size - TAIL)
        lines = os.pread(opened[1], TAIL, offset).split(b"\n")
        first = os.fstat(opened[0]).st_mtime
    except OSError:
        return None
    finally:
        for each in opened:
            os.close(each)
    # Where only the log's end was read, the first line may be cut.
    lines = [line for line in lines[1 if offset and len(lines) > 2 else 0 :] if line.strip()]
    # Lines without QEMU's name are hints about the error above them.
    errors = [line for line in lines if re.match(rb"qemu[\w.-]*: (?!.*\b(?:info|warning): )", line)] or lines
    if not errors:
        return None
    # Guest CIDs and ports differ from try to try.
    shapes = [re.sub(rb"\d+", b"0", line) for line in errors]
    now = time.time()
    ages = [each["seconds"] for each in machines if each["errors"] == (log.st_dev, log.st_ino)]
    return {
        "transaction": os.fsencode(name).decode(errors="replace"),
        "tries": shapes.count(shapes[-1]),
        "more": offset > 0,
        "first": round(max(0, now - first), 1),
        "last": round(max(0, now - log.st_mtime), 1),
        "line": errors[-1][:LINE].decode(errors="replace"),
        "machine": max(ages, default=None),
    }


def look(listen: str, pid: str | None, logs: str, verification: str, root: str) -> dict[str, Any]:
    """Look once: the health check, the machines and the logs."""
    status = health(listen)
    machines: list[Machine] | None = None
    running = None
    if pid is not None:
        try:
            running = round(age(root, pid), 1)
            machines = [each for one in processes(root, pid) if (each := machine(root, one, verification)) is not None]
        except (OSError, ValueError, IndexError):
            pass
    failed = failures(logs, machines or [])
    for each in machines or ():
        del each["errors"]
    return {"health": status, "waited": 0, "age": running, "machines": machines, "failures": failed}


def activity(
    listen: str, pid: str | None, logs: str, verification: str, root: str = "", wait: float = SECOND_LOOK
) -> dict[str, Any]:
    """Look once; twice, `wait` seconds apart, while a 503 has no machine that explains it. Returns what is printed.

    `pid` is the container's first process, `root` stands before /proc and /sys.
    """
    report = look(listen, pid, logs, verification, root)
    started = [each for each in report["machines"] or () if each["seconds"] >= STARTED and not each["check"]]
    if report["health"] == 503 and not started:
        time.sleep(wait)
        report = look(listen, pid, logs, verification, root) | {"waited": wait}
    return report


def main(listen: str, container: str, logs: str, verification: str) -> None:
    print(json.dumps(activity(listen, process_of(container), logs, verification)))


if __name__ == "__main__":
    main(*sys.argv[1:])
