"""The accelerator: the host's own virtualisation where it really works, else emulation.

The lab's guests run virtual machines of their own, so it must work twice: the guest boots, and
/dev/kvm inside it runs a processor. Some hosts offer a /dev/kvm that does neither, or only one.
"""

import io
import json
import os
import platform
import subprocess
import tempfile
import threading
from pathlib import Path

from tests.lab import cache, emulator, image
from tests.lab.image import Image
from tests.lab.progress import Progress, silent
from tests.lab.qemu import Accelerator, Guard, Process, started_at

EMULATION = Accelerator("tcg,thread=multi", "max")

CANDIDATES = (Accelerator("kvm", "host"), Accelerator("kvm", "host,-arch-capabilities"))
"""Tried in this order. Some hosts abort on the processor feature that the second leaves out."""

_KVM = Path("/dev/kvm")
_WORKS = "lab: nested virtualisation works"
_HOPELESS = (b"KVM internal error", b"emulation failure", b"Kernel panic")
_TRIAL_SECONDS = 30

_INIT = f"""\
#!/bin/sh
export PATH=/usr/bin:/usr/sbin:/bin:/sbin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
modprobe -a virtio_pci virtio_blk ext4
tries=0
while [ ! -b /dev/vda1 ] && [ $tries -lt 50 ]; do sleep 0.2; tries=$((tries + 1)); done
mount -t ext4 -o ro /dev/vda1 /root
mount -t devtmpfs dev /root/dev
chroot /root /usr/sbin/modprobe kvm_amd || chroot /root /usr/sbin/modprobe kvm_intel
chroot /root /usr/bin/python3 - </trial.py && echo "{_WORKS}"
echo o >/proc/sysrq-trigger
sleep 60
"""
"""Runs as the first process of the image's initrd, with the image mounted read only."""

_TRIAL = """\
import ctypes, fcntl, mmap, os, struct
kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, 0xAE01, 0)  # KVM_CREATE_VM
memory = mmap.mmap(-1, 4096)
memory[0] = 0xF4  # hlt
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(vm, 0x4020AE46, struct.pack("=IIQQQ", 0, 0, 0, 4096, address))  # its memory
vcpu = fcntl.ioctl(vm, 0xAE41, 0)  # KVM_CREATE_VCPU
state = mmap.mmap(vcpu, fcntl.ioctl(kvm, 0xAE04, 0))
segments = bytearray(312)
fcntl.ioctl(vcpu, 0x8138AE83, segments)  # KVM_GET_SREGS
segments[0:8], segments[12:14] = bytes(8), bytes(2)  # code starts at address 0
fcntl.ioctl(vcpu, 0x4138AE84, bytes(segments))  # KVM_SET_SREGS
fcntl.ioctl(vcpu, 0x4090AE82, struct.pack("=18Q", *[0] * 17, 2))  # KVM_SET_REGS: only flags
fcntl.ioctl(vcpu, 0xAE80, 0)  # KVM_RUN
reason = struct.unpack_from("=I", state, 8)[0]
raise SystemExit(0 if reason == 5 else f"exit reason {reason}")  # KVM_EXIT_HLT
"""
"""Runs one instruction, `hlt`, on a virtual processor inside the guest."""


def choose(progress: Progress = silent) -> Accelerator:
    """Return what to run machines with on this host, found by trying once and remembered.

    `GEVULOT_LAB_ACCELERATOR=tcg` asks for emulation, whatever the host can do.
    """
    if os.environ.get("GEVULOT_LAB_ACCELERATOR") == "tcg" or not os.access(_KVM, os.R_OK | os.W_OK):
        return EMULATION
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    key = cache.digest(emulator.ensure(progress).version, platform.release(), boot, _INIT, _TRIAL, str(CANDIDATES))
    path = cache.directory() / f"accelerator-{key}.json"
    with cache.locked(path):
        if not path.exists():
            progress("trying this machine's own virtualisation (up to half a minute)")
            disk = image.ensure(progress)
            accelerator = next((each for each in CANDIDATES if trial(disk, each)), EMULATION)
            half = path.with_suffix(".new")
            half.write_text(json.dumps([accelerator.accel, accelerator.cpu]))
            half.replace(path)
            progress("it does not work: emulating" if accelerator.emulated else "it works")
    accel, cpu = json.loads(path.read_text())
    return Accelerator(accel, cpu)


def trial(disk: Image, candidate: Accelerator, *, timeout: float = _TRIAL_SECONDS) -> bool:
    """Tell whether a guest boots on this accelerator and can run a virtual processor itself."""
    with tempfile.TemporaryDirectory(prefix="gevulot-lab-") as folder:
        initrd = Path(folder) / "initrd"
        archive = _archive({"trial": _INIT.encode(), "trial.py": _TRIAL.encode()})
        # The kernel unpacks archives one after the other, each at a multiple of four bytes.
        first = disk.initrd.read_bytes()
        initrd.write_bytes(first + bytes(-len(first) % 4) + archive)
        arguments = [
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35", "-accel", candidate.accel, "-cpu", candidate.cpu),
            *("-smp", "2", "-m", "1024", "-serial", "stdio"),
            *("-kernel", str(disk.kernel), "-initrd", str(initrd)),
            *("-append", "console=ttyS0 quiet panic=-1 rdinit=/trial"),
            *("-drive", f"file={str(disk.disk).replace(',', ',,')},format=raw,if=none,id=disk"),
            *("-snapshot", "-device", "virtio-blk-pci,drive=disk"),
        ]
        qemu = emulator.ensure()
        child = subprocess.Popen(
            [*qemu.command(emulator.SYSTEM), *arguments],
            env=qemu.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        guard = Guard(Process(child.pid, started_at(child.pid) or -1))
        # Closing the far end is not enough: a guest that hangs prints nothing.
        alarm = threading.Timer(timeout, child.kill)
        alarm.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if _WORKS.encode() in line:
                    return True
                if any(word in line for word in _HOPELESS):
                    return False
            return False
        finally:
            alarm.cancel()
            child.kill()
            child.communicate()
            guard.release()


def _archive(files: dict[str, bytes]) -> bytes:
    """Return a cpio archive (newc) of executable files, as the kernel's initramfs reads it."""
    output = io.BytesIO()
    entries = {**{name: (0o100755, data) for name, data in files.items()}, "TRAILER!!!": (0, b"")}
    for number, (name, (mode, data)) in enumerate(entries.items(), start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + "".join(f"{field:08x}" for field in fields).encode()
        for part in (header + name.encode() + b"\0", data):
            output.write(part + bytes(-len(part) % 4))
    return output.getvalue()
