"""The stage: a state that takes minutes to reach, reached once, from which other machines start in seconds.

What was observed on the way is kept with it, so that tests of the deploy itself need no second one.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab import accelerator, cache, emulator, record
from tests.lab.image import ensure as ensure_image
from tests.lab.machine import Machine
from tests.lab.progress import Progress, silent, step
from tests.lab.qemu import Hardware, processors
from tests.lab.qmp import QmpError
from tests.lab.topology import named

ROOT: Final = Path(__file__).parents[2]
SNAPSHOT: Final = "stage"

_DEPLOY: Final = ("deploys", "facts", "inventories", "helpers/pcibind/src", "requirements.lock")
_LAB: Final = ("tests/lab/inventory.py", "tests/lab/run.py", "tests/lab/stage.py")
"""What decides, besides the machine, what a deploy does: every file that it pushes or runs."""

_MEMORY_MIB: Final = 4096
_DISK: Final = "disk.qcow2"
_NOTES: Final = "notes.json"


@dataclass(frozen=True)
class Stage:
    """How to reach it: `play` is run on a bare machine of a topology; it returns what it observed, JSON-serialisable.

    `source` is the file that `play` is in: with another text of it, it is another stage.
    """

    name: str
    topology: str
    source: Path
    play: Callable[[Machine, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Kept:
    """A stage that was reached: its disk, its hardware, what was seen on the way, and when, as of `time.time`.

    Its disk holds the snapshot `SNAPSHOT`; where the hardware cannot be saved it boots instead.
    """

    name: str
    disk: Path
    hardware: Hardware
    seen: dict[str, Any]
    snapshot: str | None
    at: float


def ensure(stage: Stage, registry: Path, progress: Progress = silent) -> Kept:
    """Return the stage, played now when the cache has none of these inputs.

    Another process that plays it is waited for. Raises what `play` raises, and then keeps nothing.
    """
    image = ensure_image(progress)
    hardware = Hardware(named(stage.topology), _MEMORY_MIB, processors(), accelerator.choose(image, progress))
    inputs = [digest_of(ROOT / each) for each in (*_DEPLOY, *_LAB)] + [digest_of(stage.source)]
    key = cache.digest(image.digest, emulator.ensure().version, *hardware.arguments(), registry.name, *inputs)
    home = cache.directory() / "stages" / f"{stage.name}-{key}"
    with cache.locked(home):
        if not cache.holds(home):
            with step(progress, f"building the stage {stage.name}", takes="some minutes"):
                _play(stage, home, registry, progress)
    notes = json.loads((home / _NOTES).read_text())
    return Kept(stage.name, home / _DISK, hardware, **notes)


def start(kept: Kept, registry: Path, progress: Progress = silent) -> Machine:
    """Return a machine of its own in the state of a stage. Raises MachineError."""
    reached = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.at))
    with step(progress, f"starting from the stage {kept.name}, built {reached} from the same inputs"):
        return Machine.from_disk(kept.disk, kept.hardware, snapshot=kept.snapshot, registry=registry)


def _play(stage: Stage, home: Path, registry: Path, progress: Progress) -> None:
    name = record.fresh(stage.name)
    with Machine.start(
        stage.topology, name=name, memory_mib=_MEMORY_MIB, registry=registry, progress=progress
    ) as machine:
        seen = stage.play(machine, progress)
        snapshot: str | None = SNAPSHOT
        try:
            machine.snapshot(SNAPSHOT)
        except QmpError as error:
            progress(f"{stage.name} must be booted each time: {error}")
            snapshot = None
            machine.shutdown()
        else:
            with machine.monitor() as monitor:
                monitor.command("stop")
            machine.power_cut()
        half = cache.unfinished(home)
        half.mkdir()
        (half / _NOTES).write_text(json.dumps({"seen": seen, "snapshot": snapshot, "at": time.time()}))
        machine.disk.rename(half / _DISK)
        half.rename(home)
        shutil.rmtree(machine.directory, ignore_errors=True)


def digest_of(path: Path) -> str:
    """Return a digest of a file, or of all files below a directory with their names, Python's own left out."""
    files: Iterable[Path] = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts = []
    for each in files:
        if each.is_file() and "__pycache__" not in each.parts and not each.parent.name.endswith(".egg-info"):
            parts += [str(each.relative_to(path)), each.read_bytes().hex()]
    return cache.digest(*parts)
