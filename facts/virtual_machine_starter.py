"""Starts a virtual machine inside a running container and ends it. Runs on the host, with its own Python alone.

    python3 -I -c "$(cat virtual_machine_starter.py)" CONTAINER QEMU PREFIX DIRECTORY SECONDS

`podman exec` gives QEMU what the node gives it: the container's image, seccomp profile and devices. The machine has the
node's devices, QEMU's default network card among them, without boards, guest CID or port; its disk is empty and nothing
is written. It shares DIRECTORY of the container, and its name begins with PREFIX. It is ended by its monitor, and after
SECONDS by this program, with all that was started for it.

Prints `out LINE` and `err LINE` for what came out of the container, then `end CODE`, or `end timeout`.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO

COMMANDS = ("qmp_capabilities", "query-version", "query-kvm", "query-status", "quit")
MACHINE = (
    "-machine q35,accel=kvm:tcg -cpu max -smp 1 -m 128M "
    "-device pcie-root-port,port=0x10,chassis=1,id=pci.1,bus=pcie.0,multifunction=on,addr=0x3 "
    "-device pcie-root-port,port=0x11,chassis=2,id=pci.2,bus=pcie.0,addr=0x3.0x1 "
    "-device virtio-scsi-pci,bus=pci.2,addr=0x0,id=scsi0 "
    "-drive driver=null-co,size=1M,if=none,id=disk,readonly=on -device scsi-hd,bus=scsi0.0,drive=disk "
    "-virtfs local,path={directory},mount_tag=0,security_model=none,multidevs=remap,readonly=on,id=share "
    "-device isa-debug-exit -device virtio-rng-pci -vga none -display none -serial null -qmp stdio"
)
# `<>` would make a file that does not exist. A group's device stays closed: only one process may have it open.
INSIDE = r"""
limit=unreadable
while read -r _ name _ soft _; do if [ "$name" = locked ]; then limit=$soft; fi; done 2>/dev/null </proc/1/limits
echo "memlock $limit"
for device in /dev/kvm /dev/vsock /dev/vhost-vsock; do
  if ! [ -c "$device" ]; then echo "device $device missing"
  elif error=$( { : <>"$device"; } 2>&1 ); then echo "device $device opened"
  else echo "device $device ${error##*: }"; fi
done
for device in /dev/vfio/*; do if [ -c "$device" ]; then echo "device $device exists"; fi; done
limit=$1; shift
# In case that the host's side is ended first.
if command -v timeout >/dev/null; then exec timeout -s KILL "$limit" "$@"; fi
exec "$@"
"""
LINES, LETTERS = 100, 1000
# Of each stream: a program that prints for ever must not fill the host's memory.
BYTES = 500_000


def main(container: str, qemu: str, prefix: str, directory: str, *, seconds: int) -> None:
    # Unique to this run: every process with it among its arguments is one of this run, and may be killed.
    name = f"{prefix}-{os.getpid()}"
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    answers, questions = os.pipe()
    # All at once, into a pipe that stays open: at the end of its input QEMU drops the commands that it has yet to run.
    os.write(questions, "".join(f'{{"execute": "{each}", "id": "{each}"}}\n' for each in COMMANDS).encode())
    machine = (qemu, "-name", name, *MACHINE.format(directory=directory).split())
    words = ("podman", "exec", "-i", container, "sh", "-c", INSIDE, "sh", str(seconds + 30), *machine)
    podman = subprocess.Popen(words, stdin=answers, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert podman.stdout is not None
    assert podman.stderr is not None
    out, err = Output(podman.stdout, last=False), Output(podman.stderr, last=True)
    try:
        end = str(podman.wait(seconds))
    except subprocess.TimeoutExpired:
        end = "timeout"
        kill(podman.pid, name)
        # Podman returns when what it started has ended, and then leaves no session behind.
        with suppress(subprocess.TimeoutExpired):
            podman.wait(10)
    finally:
        if podman.poll() is None:
            kill(podman.pid, name)
            podman.kill()
    show("out", lines(out.text())[:LINES])
    show("err", lines(err.text())[-LINES:])
    show("end", [end])


class Output(threading.Thread):
    """Reads a stream to its end, so that its writer never waits, and keeps only the first or last bytes."""

    def __init__(self, stream: IO[bytes], *, last: bool) -> None:
        super().__init__(daemon=True)
        self._descriptor, self._last, self._kept = stream.fileno(), last, b""
        self.start()

    def run(self) -> None:
        while piece := os.read(self._descriptor, 65_536):
            if self._last:
                self._kept = (self._kept + piece)[-BYTES:]
            elif len(self._kept) < BYTES:
                self._kept += piece

    def text(self) -> bytes:
        """What was kept. What outlives Podman may hold the stream open: it is not waited for."""
        self.join(5)
        return self._kept


def kill(podman: int, name: str) -> None:
    """Kill what this run started in the container, by its name among the arguments."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            if name.encode() in arguments and int(entry) != podman:
                os.kill(int(entry), signal.SIGKILL)


def lines(output: bytes) -> list[str]:
    return [line for line in output.decode(errors="replace").split("\n") if line.strip()]


def show(kind: str, texts: list[str]) -> None:
    for text in texts:
        printable = "".join(letter if letter.isprintable() else " " for letter in text[:LETTERS])
        sys.stdout.buffer.write(f"{kind} {printable}\n".encode())


if __name__ == "__main__":
    _, *words, limit = sys.argv
    main(*words, seconds=int(limit))
