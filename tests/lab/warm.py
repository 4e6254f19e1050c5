"""The warm disk: a machine that was booted once and saved, from which others start in seconds."""

import os
import shutil
from pathlib import Path

from tests.lab import cache, emulator, record
from tests.lab.host import VirtualHost
from tests.lab.image import Image
from tests.lab.preparation import BARE, Preparation
from tests.lab.preparation import put as put_disk
from tests.lab.progress import Progress, silent, step
from tests.lab.qemu import Hardware
from tests.lab.qmp import QmpError

BOOTED = "booted"
"""The name of a warm disk's snapshot."""


def ensure(
    image: Image, hardware: Hardware, preparation: Preparation = BARE, progress: Progress = silent
) -> Path | None:
    """Return a disk with the snapshot `booted` for this hardware, made when the cache has none.

    The machine that is saved was booted from a disk with this preparation. Returns None when
    the machine cannot be saved: then it must be booted.
    """
    path = _path(image, hardware, preparation)
    if not hardware.is_saved:
        return None
    if cache.holds(path):
        return path
    with cache.locked(path):
        if cache.holds(path):
            return path
        host = VirtualHost(record.fresh(f"warm-{hardware.topology.name}"), hardware)
        doing = f"booting a machine with {hardware.topology.name} once, to start others from it"
        minutes = "about a minute" if hardware.accelerator.emulated else "about 15 seconds"
        with step(progress, doing, takes=minutes), host.made():
            put_disk(image, hardware, preparation, host.disk, progress)
            host.launch([(0, 22)])
            host.wait()
            host.wait_running()
            # The first command of each kind costs seconds: it is in memory from here on.
            host.ssh("sudo sync", user="operator")
            try:
                host.snapshot(BOOTED)
            except QmpError as error:
                progress(f"no warm start here: {error}")
                host.stop()
                return None
            with host.monitor() as monitor:
                monitor.command("stop")
            host.power_cut()
            os.rename(host.disk, path)
            shutil.rmtree(host.directory, ignore_errors=True)
    return path


def _path(image: Image, hardware: Hardware, preparation: Preparation) -> Path:
    """Return where the warm disk of this image, hardware and preparation lies, or would lie."""
    source = Path(__file__).with_name("qemu.py").read_text()
    key = cache.digest(image.digest, emulator.ensure().version, *hardware.arguments(), source, preparation.key)
    return cache.directory() / "warm" / f"{hardware.topology.name}-{preparation.name}-{key}.qcow2"
